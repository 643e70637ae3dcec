"""The command line: `tagger COMMAND …`. One module a command group; this one runs them."""

import contextlib
import errno
import importlib
import io
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from tagger import __version__
from tagger.errors import TaggerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer

EXIT_INTERRUPTED = 130

_MODULES = {
    "demo": "tagger.cli.demo",
    "tag": "tagger.cli.tag",
    "retag": "tagger.cli.retag",
    "failures": "tagger.cli.inspect",
    "check": "tagger.cli.inspect",
    "report": "tagger.cli.inspect",
    "index": "tagger.cli.index",
    "search": "tagger.cli.search",
    "recommend": "tagger.cli.search",
    "duplicates": "tagger.cli.quality",
    "outliers": "tagger.cli.quality",
    "enrich": "tagger.cli.enrich",
    "serve": "tagger.cli.serve",
    "submit": "tagger.cli.cluster",
    "jobs": "tagger.cli.cluster",
    "models": "tagger.cli.inspect",
}


class _Commands(click.Group):
    """Loads a command's module when it is asked for, so that `tagger --help` starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module = _MODULES.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command


@click.command(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="tagger")
def tagger() -> None:
    """Tag a bucket of images: every image accounted for, tags with their parents, embeddings stored.

    Exit codes: 0 done; 1 the run failed, start it again to go on; 2 wrong usage or settings; 3 done, but more
    than --max-failed of the images failed; 130 interrupted, start it again to go on.
    """


class _Stdout(io.FileIO):
    """The file behind stdout. It keeps the error of a write, so that another file's is not taken for it."""

    error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


class _Stderr(io.FileIO):
    """The file behind stderr. It loses what it cannot write: a command goes on when nobody listens."""

    def write(self, data: "ReadableBuffer", /) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run the command line and exit with the code of the outcome.

    Args:
        arguments: What follows `tagger`; that of this process if None.
    """
    out = _Stdout(_descriptor(sys.stdout), "w", closefd=False)
    sys.stdout = _text(out, sys.stdout)
    sys.stderr = _text(_Stderr(_descriptor(sys.stderr), "w", closefd=False), sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped pod is an interrupted command
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    except click.ClickException as error:
        error.show()
        code = _failed(error.format_message(), error.exit_code)
    except TaggerError as error:
        code = _told(str(error), error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        for number in (signal.SIGINT, signal.SIGTERM):  # the impatient get the same exit code
            signal.signal(number, signal.SIG_IGN)
        print(file=sys.stderr)  # ends the line in which a terminal shows ^C
        code = _told(
            "interrupted; what is committed is kept, and the same command goes on from there",
            EXIT_INTERRUPTED,
        )
    except OSError as error:
        if error is out.error:
            code = 0  # `tagger … | head`: nobody reads on; of another error `_leave` tells
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            code = _told(f"no space left {_where(error)}: make room and start the same command again", 1)
        else:
            raise
    _leave(code if isinstance(code, int) else 0, out)


def _run(arguments: list[str]) -> Any:
    """Do as click's `main`, which takes any broken pipe for that of stdout and exits with 1 in silence."""
    if "_TAGGER_COMPLETE" in os.environ:  # a shell asks how to complete a line
        tagger.main(prog_name="tagger")
    try:
        with tagger.make_context("tagger", arguments) as context:
            return tagger.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code


def _descriptor(stream: TextIO | None) -> int:
    """Return the file of a stream; /dev/null if who started us has closed it, as some schedulers do."""
    return os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()


def _text(file: io.FileIO, like: TextIO | None) -> io.TextIOWrapper:
    """Return a stream on a file; a name that the terminal's encoding lacks ends no command."""
    at_once = isinstance(like, io.TextIOWrapper) and (like.line_buffering or like.write_through)
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding="utf-8" if like is None else like.encoding,
        errors="backslashreplace",
        line_buffering=at_once,
    )


def _where(error: OSError) -> str:
    if error.filename is not None:
        return f"for {os.fsdecode(error.filename)}"
    return "on a disk of this machine, such as that of the temporary folder or the cache"


def _told(text: str, code: int) -> int:
    """Tell the person at stderr what went wrong, and a program that asked for `--json`; returns `code`."""
    print(f"tagger: {printable(text)}", file=sys.stderr)
    return _failed(text, code)


def _failed(text: str, code: int) -> int:
    """Tell a program that asked for `--json` what the person was told on stderr; returns `code`."""
    if "--json" in sys.argv[1:]:
        print_json({"error": text, "exit_code": code})
    return code


def _leave(code: int, out: _Stdout) -> None:
    """Exit without waiting for threads of libraries that end badly at interpreter exit."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if out.error is not None and not isinstance(out.error, BrokenPipeError):
        print(f"tagger: stdout cannot be written: {out.error.strerror}", file=sys.stderr)
        code = code or 1  # what could not be said is lost: done is no longer the whole truth
    sys.stderr.flush()
    os._exit(code)


def print_json(record: dict[str, Any]) -> None:
    """Print the one JSON object that `--json` promises as the last line of stdout."""
    # A command whose result is lost keeps its exit code; `_leave` tells of it.
    with contextlib.suppress(OSError):
        print(json.dumps(record, ensure_ascii=True), flush=True)


def teller(*, quiet: bool) -> "Callable[[str], None]":
    """Return what tells the person at stderr how far a command is, a line at a time."""

    def say(line: str) -> None:
        if not quiet:
            print(printable(line), file=sys.stderr)

    return say


def require_local(option: str, path: str | None) -> None:
    """Raise for an address where a file of this machine is meant.

    Raises:
        UsageError: It is one.
    """
    if path is not None and "://" in path:
        raise UsageError(f"{option} must be a file on this machine, got {path}")


def printable(text: str) -> str:
    r"""Return a name that a terminal shows and never obeys: control characters become escapes.

    >>> print(printable("a\x1b[31m\tb\u202e.jpg"))
    a\x1b[31m\tb\u202e.jpg
    """
    return "".join(
        char
        if char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        if char.isascii() or ord(char) > 0xFF
        else f"\\x{ord(char):02x}"
        for char in text
    )
