"""Runs the `tagger` command as a user does: as a process of its own, watched, stopped, killed, looked after.

Every process that a command starts, however deep, carries a mark in its environment (TMPDIR, which even the
decoder children inherit), so that a test can ask what is still alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
TIMEOUT_S = 150.0
_CLI = [sys.executable, "-P", "-c", "import sys; sys.argv[0] = 'tagger'; from tagger.cli import main; main()"]
# As a line of a shell script: the terminal is the shell's, and the command is not the first of its group.
_TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0)"
_SHELL = f"{_TAKE_TERMINAL}; os.execvp('sh', ['sh', '-c', 'trap : INT; \"$@\"; exit $?', *sys.argv])"
_IN_SCRIPT = [sys.executable, "-c", _SHELL]
_SHOWN = re.compile(r"([\d,]+) of ([\d,]+)(\+?) images")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of stdout, which must be one JSON object."""
        record = json.loads(self.stdout.rstrip("\n").rpartition("\n")[2])
        assert isinstance(record, dict)
        return record

    @property
    def sentence(self) -> str:
        """What went wrong, as told on stderr: exactly one line that begins with `tagger: `."""
        said = [line for line in self.stderr.splitlines() if line.startswith("tagger: ")]
        assert len(said) == 1, self.stderr
        assert "Traceback" not in self.stderr + self.stdout, self.stderr
        return said[0].removeprefix("tagger: ")

    def require(self, code: int = 0) -> Outcome:
        """Return itself if it ended with this code; otherwise fail with all it said."""
        assert self.code == code, f"exit {self.code} instead of {code}\n{self.stdout}\n{self.stderr}"
        return self


def tagger(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_S,
    script: Path | None = None,
    cwd: Path | None = None,
) -> Outcome:
    """Run one command to its end, without a terminal.

    Args:
        args: What follows `tagger` on the command line.
        env: Variables on top of those of this process; an empty value removes one.
        timeout: Seconds after which the test fails.
        script: A program that stands in for the command, for faults that no option can cause.
        cwd: Where to run it.
    """
    with Driver(*args, env=env, script=script, terminal=False, cwd=cwd) as driver:
        return driver.wait(timeout)


def processes_of(mark: str) -> dict[int, str]:
    """Return command lines by pid of all living processes with this mark."""
    needle = f"TMPDIR={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if needle not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[int(entry.name)] = command.strip()
    return found


def wait_for(what: str, ready: Callable[[], Any], *, timeout: float = 60.0, poll_s: float = 0.05) -> Any:
    """Poll until `ready` gives something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (value := ready()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for: {what}")
        time.sleep(poll_s)
    return value


class Driver:
    """A command that runs in the background; a context manager that leaves no process behind.

    On a terminal (a pseudo-terminal here) progress is shown four times a second, which is how tests know
    the moment to strike.

    Args:
        args, env, script, cwd: As for `tagger`.
        terminal: Give it a terminal to show its progress on; otherwise a pipe.
        in_script: Run it as a line of a shell script at that terminal.
        to_terminal: Send what it prints to the terminal, too; then `raw` has both.

    Attributes:
        shown: (seconds since start, images done, images planned, whether planned is final), as displayed.
    """

    def __init__(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        script: Path | None = None,
        terminal: bool = True,
        cwd: Path | None = None,
        in_script: bool = False,
        to_terminal: bool = False,
    ) -> None:
        program = [sys.executable, "-P", str(script)] if script else _CLI
        self.command = [*(_IN_SCRIPT if in_script else ()), *program, *map(str, args)]
        self.mark = tempfile.mkdtemp(prefix=f"tagger-{secrets.token_hex(4)}-")
        self._given = dict(env or {})
        self._terminal = terminal
        self._cwd = cwd
        self._to_terminal = to_terminal
        self.shown: list[tuple[float, int, int, bool]] = []

    def __enter__(self) -> Self:
        environment = {**os.environ, **self._given, "TMPDIR": self.mark, "COLUMNS": "200", "TERM": "xterm"}
        environment = {name: value for name, value in environment.items() if value}
        self._stdout = (Path(self.mark) / "stdout").open("w+b")
        self._said = bytearray()
        self._started = time.monotonic()
        ours, theirs = os.openpty() if self._terminal else os.pipe()
        if self._terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=theirs if self._to_terminal else self._stdout,
            stderr=theirs,
            env=environment,
            cwd=self._cwd,
            start_new_session=True,
        )
        os.close(theirs)
        self._keyboard = ours
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()
        self.process.wait()
        self._stdout.close()
        for path in sorted(Path(self.mark).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        Path(self.mark).rmdir()

    def type(self, keys: bytes) -> None:
        """Press keys at its terminal."""
        os.write(self._keyboard, keys)

    @property
    def pid(self) -> int:
        """Process id of the driver."""
        return self.process.pid

    @property
    def raw(self) -> bytes:
        """What the terminal got so far, byte by byte."""
        return bytes(self._said)

    @property
    def stderr(self) -> str:
        """What it said so far, without the codes that draw."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._said.decode(errors="replace")).replace(
            "\r\n", "\n"
        )

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return (Path(self.mark) / "stdout").read_text(errors="replace")

    def wait(self, timeout: float = TIMEOUT_S) -> Outcome:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.stderr}") from None
        self._reader.join(2)  # longer only where orphans hold the other end
        self._stdout.seek(0)
        return Outcome(code, self._stdout.read().decode(errors="replace"), self.stderr)

    @property
    def done(self) -> int:
        """Images this run has shown as done."""
        return self.shown[-1][1] if self.shown else 0

    def wait_until_done(self, images: float, *, timeout: float = TIMEOUT_S) -> int:
        """Wait until so many images are shown as done by this run; returns how many are."""

        def reached() -> int:
            assert self.process.poll() is None, f"ended before {images} were done:\n{self.stderr}"
            return self.done if self.done >= images else 0

        return int(wait_for(f"{images} images done", reached, timeout=timeout, poll_s=0.02))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the driver alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the driver alone, as the kernel's out-of-memory killer would."""
        self.process.kill()
        self.process.wait()

    def processes(self, pattern: str = "") -> dict[int, str]:
        """Return command lines by pid of the driver and all it started, as far as they match."""
        return {pid: line for pid, line in processes_of(self.mark).items() if re.search(pattern, line)}

    def wait_until_gone(self, timeout: float = 60.0) -> None:
        """Wait until nothing that this command started is alive any more."""

        def left() -> dict[int, str]:
            return processes_of(self.mark)

        with contextlib.suppress(AssertionError):
            wait_for("no process of it", lambda: not left(), timeout=timeout, poll_s=0.2)
        assert not left(), left()

    def end_all(self) -> None:
        """Kill whatever of it is alive."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            alive = processes_of(self.mark)
            if self.process.poll() is None:
                alive[self.process.pid] = ""
            if not alive:
                return
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _read(self, fd: int) -> None:
        with contextlib.closing(_Descriptor(fd)), contextlib.suppress(OSError):  # EIO: the terminal is gone
            while data := os.read(fd, 65536):
                self._said += data
                for done, planned, more in _SHOWN.findall(data.decode(errors="replace")):
                    now = time.monotonic() - self._started
                    self.shown.append((now, _int(done), _int(planned), not more))


@dataclass
class _Descriptor:
    fd: int

    def close(self) -> None:
        os.close(self.fd)


def _int(text: str) -> int:
    return int(text.replace(",", ""))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process with SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
