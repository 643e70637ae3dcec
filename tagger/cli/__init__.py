"""The command line: `tagger COMMAND …`. One module a command group; this one runs them."""

import contextlib
import errno
import importlib
import io
import json
import os
import signal
import sys
from typing import Any

import click

from tagger import __version__
from tagger.errors import TaggerError

EXIT_INTERRUPTED = 130

_MODULES = {
    "demo": "tagger.cli.demo",
    "tag": "tagger.cli.tag",
    "retag": "tagger.cli.retag",
    "failures": "tagger.cli.inspect",
    "check": "tagger.cli.inspect",
    "report": "tagger.cli.inspect",
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


def main() -> None:
    """Run the command line and exit with the code of the outcome."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us, as some schedulers do
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks ends no command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped pod is an interrupted command
    try:
        code = tagger.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = _failed(error.format_message(), error.exit_code)
    except TaggerError as error:
        print(f"tagger: {printable(str(error))}", file=sys.stderr)
        code = _failed(str(error), error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        for number in (signal.SIGINT, signal.SIGTERM):  # the impatient get the same exit code
            signal.signal(number, signal.SIG_IGN)
        text = "interrupted; what is committed is kept, and the same command goes on from there"
        print(f"tagger: {text}", file=sys.stderr)
        code = _failed(text, EXIT_INTERRUPTED)
    except BrokenPipeError:  # `tagger … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print("tagger: no space left where stdout goes", file=sys.stderr)
        code = 1
    _leave(code if isinstance(code, int) else 0)


def _failed(text: str, code: int) -> int:
    """Tell a program that asked for `--json` what the person was told on stderr; returns `code`."""
    if "--json" in sys.argv[1:]:
        with contextlib.suppress(BrokenPipeError):
            print_json({"error": text, "exit_code": code})
    return code


def _leave(code: int) -> None:
    """Exit without waiting for threads of libraries that end badly at interpreter exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # what could not be said is lost: done is no longer the whole truth
            code = code or 1
    os._exit(code)


def print_json(record: dict[str, Any]) -> None:
    """Print the one JSON object that `--json` promises as the last line of stdout."""
    print(json.dumps(record, ensure_ascii=True), flush=True)


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
