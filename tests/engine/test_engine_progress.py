"""What a person sees while a run goes on, and that a run does not need anybody who sees it."""

from __future__ import annotations

import io
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import pytest

from tagger.engine.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo-terminal: `stream` writes to it, `shown` is what arrived there."""

    def __init__(self) -> None:
        self._screen, inner = os.openpty()
        self.stream: TextIO = os.fdopen(inner, "w", encoding="utf-8")
        os.set_blocking(self._screen, False)
        self._said = b""

    def shown(self) -> str:
        try:
            while data := os.read(self._screen, 65536):
                self._said += data
        except OSError:  # nothing more for now
            pass
        return self._said.decode()

    def wait_for(self, pattern: str) -> str:
        """Wait until the terminal shows it; the live line is drawn four times a second."""
        deadline = time.monotonic() + 10
        while not (found := re.search(pattern, self.shown())):
            assert time.monotonic() < deadline, self.shown()
            time.sleep(0.02)
        return found.group()

    def hang_up(self) -> None:
        """Close the window: writing fails from now on."""
        os.close(self._screen)
        self._screen = -1

    def close(self) -> None:
        if self._screen >= 0:
            os.close(self._screen)
        close(self.stream)


def close(stream: TextIO) -> None:
    with suppress(OSError):  # what could not be written is still in its buffer
        stream.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    opened = Terminal()
    yield opened
    opened.close()


def test_a_terminal_shows_images_rate_failures_and_the_time_left(terminal: Terminal) -> None:
    clock = Clock()
    with Progress(stream=terminal.stream, clock=clock) as progress:
        clock.now += 4
        progress.update(done=1000, failed=3, planned=1500, planned_all=False)
        terminal.wait_for(r"tagging: 1,000 of 1,500\+ images, 250 images/s, 3 failed")
        assert "left" not in terminal.shown()  # the end is not known while the listing goes on
        clock.now += 4
        progress.update(done=2000, failed=4, planned=33_500, planned_all=True)
        terminal.wait_for(r"tagging: 2,000 of 33,500 images, 250 images/s, 4 failed, 2 min 6 s left")
        assert "━" in terminal.shown()
        progress.say("one worker was lost")
        terminal.wait_for("one worker was lost\r?\n")
    assert terminal.shown().endswith("\x1b[2K")  # the live line is wiped, what was said stays


def test_the_phases_before_the_first_image(terminal: Terminal) -> None:
    with Progress(stream=terminal.stream, clock=Clock()) as progress:
        progress.update(done=0, failed=0, planned=0, planned_all=False)
        terminal.wait_for(r"listing: 0 of 0\+ images, 0 images/s, 0 failed")
        progress.phase("starting")
        progress.update(done=0, failed=0, planned=512, planned_all=False)
        terminal.wait_for(r"starting: 0 of 512\+ images")
        progress.update(done=1, failed=0, planned=512, planned_all=False)
        terminal.wait_for(r"tagging: 1 of 512\+ images")


def test_elsewhere_plain_lines_come_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(stream=stream, clock=clock) as progress:
        for second in range(1, 26):
            clock.now += 1
            progress.update(done=100 * second, failed=second, planned=5000, planned_all=second > 15)
        progress.say("[bold]not markup[/bold] " + "x" * 200)
    assert stream.getvalue().splitlines() == [
        "tagging: 1,000 of 5,000+ images, 100 images/s, 10 failed",
        "tagging: 2,000 of 5,000 images, 100 images/s, 20 failed, 30 s left",
        "[bold]not markup[/bold] " + "x" * 200,
    ]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    progress = Progress(stream=io.StringIO(), clock=clock)
    assert progress.images_per_s() == 0
    done = 0
    for rate in (100, 300):
        for _ in range(20):
            clock.now += 1
            done += rate
            progress.update(done=done, failed=0, planned=100_000, planned_all=True)
    assert progress.images_per_s() == 300


def test_quiet_says_nothing(terminal: Terminal) -> None:
    with Progress(quiet=True, stream=terminal.stream) as progress:
        progress.update(done=5, failed=0, planned=10, planned_all=True)
        progress.say("something")
    terminal.stream.flush()
    assert terminal.shown() == ""


def use(progress: Progress, clock: Clock, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Do what a run does, for long enough that the live line is drawn, too."""
    with progress:
        meanwhile()
        for done in range(3):
            clock.now += 11
            progress.update(done=done, failed=0, planned=10, planned_all=True)
            progress.say("a line")
            time.sleep(0.15)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_terminal_that_is_closed_meanwhile_ends_no_run(terminal: Terminal) -> None:
    clock = Clock()
    use(Progress(stream=terminal.stream, clock=clock), clock, terminal.hang_up)


def test_a_reader_who_went_away_ends_no_run_and_takes_no_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    clock, stream = Clock(), os.fdopen(writer, "w", encoding="utf-8")
    use(Progress(stream=stream, clock=clock), clock)
    os.write(1, b"the JSON comes\n")
    assert capfd.readouterr().out == "the JSON comes\n"
    close(stream)


def test_a_full_log_ends_no_run() -> None:
    clock, stream = Clock(), os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    use(Progress(stream=stream, clock=clock), clock)
    close(stream)


def test_a_closed_stream_and_none_at_all_end_no_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, stream = Clock(), io.StringIO()
    stream.close()
    use(Progress(stream=stream, clock=clock), clock)
    monkeypatch.setattr("sys.stderr", None)
    use(Progress(clock=clock), clock)
    assert capsys.readouterr().out == ""  # stdout is for results
