"""Who reads stdout and stderr may go away, or have no room: what becomes of the command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_ROOM = "tagger: stdout cannot be written: No space left on device\n"


@contextlib.contextmanager
def unread() -> Iterator[IO[bytes]]:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        yield pipe


@contextlib.contextmanager
def full() -> Iterator[IO[bytes]]:
    """A file on a full disk."""
    with Path("/dev/full").open("wb") as file:
        yield file


def run(
    *args: str,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    body: str = "",
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `tagger ARGS`; with a body, `tagger odd` is a command that does this."""
    program = "import sys; sys.argv[0] = 'tagger'\nfrom tagger import cli\n"
    if body:
        program += "import click\n@click.command()\n@click.option('--json', is_flag=True)\ndef odd(json):\n"
        program += textwrap.indent(textwrap.dedent(body), "    ") + "\ncli._MODULES['odd'] = '__main__'\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", program + "cli.main()", *args],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=os.environ | (env or {}),
        text=True,
        check=False,
        timeout=150,
    )


# ---- stdout ----------------------------------------------------------------------------------------------

SHORT = ["--help", "tag --help", "--version", "models", "models --json"]
LONG = """
    for _ in range(2000):
        print("x" * 99)
    raise AssertionError("nobody reads on, so nobody should write on")
"""


@pytest.mark.parametrize("line", SHORT)
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["", "-u"])
def test_who_has_read_enough_gets_a_quiet_end(line: str, env: dict[str, str]) -> None:
    with unread() as pipe:
        done = run(*line.split(), stdout=pipe, env=env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("write", [LONG, LONG.replace("print", "click.echo"), 'print("x" * 1_000_000)'])
def test_a_long_list_ends_quietly_when_nobody_reads_on(write: str) -> None:
    with unread() as pipe:
        done = run("odd", body=write, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", SHORT)
def test_a_full_disk_under_stdout_is_told(line: str) -> None:
    with full() as file:
        done = run(*line.split(), stdout=file)
    assert (done.returncode, done.stderr) == (1, NO_ROOM)


@pytest.mark.parametrize("write", [LONG, LONG.replace("print", "click.echo"), 'print("x" * 1_000_000)'])
def test_a_full_disk_under_a_long_list_is_told(write: str) -> None:
    with full() as file:
        done = run("odd", body=write, stdout=file)
    assert (done.returncode, done.stderr) == (1, NO_ROOM)


def test_the_exit_code_outlives_a_lost_json() -> None:
    body = "cli.print_json({})\nreturn 3\n"
    with unread() as pipe:
        assert run("odd", "--json", body=body, stdout=pipe).returncode == 3
    with full() as file:
        done = run("odd", "--json", body=body, stdout=file)
    assert (done.returncode, done.stderr) == (3, NO_ROOM)
    with unread() as pipe:
        assert run("check", "/nowhere", "--json", stdout=pipe).returncode == 2


# ---- stderr ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [unread, full])
def test_an_error_that_nobody_hears_has_its_exit_code_and_json(lost) -> None:
    with lost() as stream:
        done = run("check", "/nowhere", "--json", stderr=stream)
        assert done.returncode == json.loads(done.stdout)["exit_code"] == 2
        assert run("no-such-command", stderr=stream).returncode == 2


@pytest.mark.parametrize("lost", [unread, full])
def test_what_is_said_on_the_way_ends_no_command(lost) -> None:
    body = """
        import sys
        from tagger.engine.progress import Progress
        seconds = iter(range(0, 1000, 20))
        with Progress(clock=lambda: next(seconds)) as progress:
            for n in range(200):
                progress.update(done=n, failed=0, planned=9, planned_all=True) if n < 9 else None
                progress.say("x" * 99)
                print("x" * 99, file=sys.stderr)
                click.echo("x" * 99, err=True)
        cli.print_json({"tagged": 9})
        return 0
    """
    with lost() as stream:
        done = run("odd", "--json", body=body, stderr=stream)
    assert (done.returncode, done.stdout) == (0, '{"tagged": 9}\n')


def test_a_terminal_that_is_closed_meanwhile_ends_no_command() -> None:
    body = """
        import os, time
        from tagger.engine.progress import Progress
        screen, terminal = os.openpty()
        os.dup2(terminal, 2)
        os.close(terminal)
        with Progress() as progress:
            progress.update(done=5, failed=0, planned=9, planned_all=True)
            time.sleep(0.4)
            assert b"5 of 9 images" in os.read(screen, 65536)
            os.close(screen)
            progress.say("a line")
            time.sleep(0.4)
        cli.print_json({"tagged": 9})
    """
    done = run("odd", "--json", body=body, env={"TERM": "xterm"})
    assert (done.returncode, done.stdout) == (0, '{"tagged": 9}\n')


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_run_whose_terminal_was_closed_goes_on_to_its_end(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    (tmp_path / "photos").mkdir()
    for name in list(jpegs)[:3]:
        (tmp_path / "photos" / name).write_bytes(jpegs[name])
    screen, terminal = os.openpty()
    said = bytearray()
    closing = threading.Thread(target=_close_when_it_shows, args=(screen, b"of 3 images", said))
    closing.start()
    try:
        place = (str(tmp_path / "photos"), str(tmp_path / "collection"))
        done = run("tag", *place, "--json", stderr=terminal, env={"TERM": "xterm", "COLUMNS": "120"})
    finally:
        os.close(terminal)
        closing.join()
    assert b"of 3 images" in said
    assert done.returncode == 0
    assert json.loads(done.stdout)["tagged"] == 3


def _close_when_it_shows(screen: int, text: bytes, said: bytearray) -> None:
    with contextlib.suppress(OSError):  # the command has ended
        while text not in said:
            said += os.read(screen, 65536)
    os.close(screen)


def test_an_interruption_that_nobody_hears_is_still_one() -> None:
    body = f"import os, time\nos.kill(os.getpid(), {int(signal.SIGTERM)})\ntime.sleep(9)\n"
    with unread() as pipe:
        done = run("odd", "--json", body=body, stderr=pipe)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 130


# ---- neither ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["odd", "odd --json"])
def test_another_full_disk_is_not_taken_for_that_of_stdout(line: str) -> None:
    done = run(*line.split(), body="import os\nos.write(os.open('/dev/full', os.O_WRONLY), b'x')\n")
    assert done.returncode == 1
    assert done.stderr.startswith("tagger: no space left on a disk of this machine")
    assert len(done.stderr.splitlines()) == 1
    if "--json" in line:
        assert json.loads(done.stdout) == {"error": done.stderr[8:].rstrip("\n"), "exit_code": 1}


def test_a_full_disk_that_has_a_name_is_named() -> None:
    body = "import errno\nraise OSError(errno.ENOSPC, 'No space left on device', '/data/a\\x1b.parquet')\n"
    done = run("odd", body=body)
    assert done.returncode == 1
    assert done.stderr.startswith("tagger: no space left for /data/a\\x1b.parquet: make room")


def test_another_broken_pipe_is_a_bug_of_ours_and_not_success() -> None:
    body = "import os\nreader, writer = os.pipe()\nos.close(reader)\nos.write(writer, b'x')\n"
    done = run("odd", body=body)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_shell_completion() -> None:
    done = run(env={"_TAGGER_COMPLETE": "bash_source"})
    assert done.returncode == 0
    assert "_TAGGER_COMPLETE=bash_complete" in done.stdout
