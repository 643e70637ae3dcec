"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere."""

import contextlib
import io
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PLAIN_EVERY_S = 10.0
_RATE_OVER_S = 15.0


class _Forgiving:
    """A stream that loses what it cannot write: nobody has to watch a run for it to go on.

    The reader may go away, the terminal be closed, the disk of the log be full (`OSError`), or the program
    around us close the stream (`ValueError`). Rich would answer a broken pipe with `/dev/null` over stdout,
    where results go, and the end of the process.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False


class Progress:
    """Shows images done, images/s, failures and the time left, on stderr.

    Args:
        quiet: Show nothing.
        stream: Where to; None takes stderr.
        clock: Tells the seconds.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        shown: TextIO | None = stream or sys.stderr
        self._quiet = quiet or shown is None  # rich would take stdout for a missing stderr
        self._console = Console(file=cast("TextIO", _Forgiving(shown or io.StringIO())), highlight=False)
        self._live: Live | None = None
        self._phase = "listing"
        self._done = self._failed = self._planned = 0
        self._planned_all = False
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._clock = clock
        self._last_plain = clock()

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print one line that stays."""
        if self._quiet:
            return
        self._console.print(Text(line), soft_wrap=True)

    def phase(self, name: str) -> None:
        """Name what is going on."""
        self._phase = name

    def update(self, *, done: int, failed: int, planned: int, planned_all: bool) -> None:
        """Show new numbers.

        Args:
            done: Images that went through the CNN, or failed before it.
            failed: Images that failed, as far as known.
            planned: Images planned so far.
            planned_all: Whether `planned` is final.
        """
        if done > self._done or self._phase in ("listing", "starting"):
            self._phase = "tagging" if done else self._phase
        self._done, self._failed, self._planned, self._planned_all = done, failed, planned, planned_all
        now = self._clock()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(self._line())
        elif now - self._last_plain >= _PLAIN_EVERY_S:
            self._last_plain = now
            self._console.print(Text(self._words()), soft_wrap=True)

    def images_per_s(self) -> float:
        """Return the rate over the last seconds."""
        (then, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - then) if now > then else 0.0

    def _words(self) -> str:
        rate = self.images_per_s()
        of = f"{self._planned:,}" if self._planned_all else f"{self._planned:,}+"
        words = [
            f"{self._phase}: {self._done:,} of {of} images",
            f"{rate:,.0f} images/s",
            f"{self._failed:,} failed",
        ]
        if self._planned_all and rate > 0:
            words.append(f"{_duration((self._planned - self._done) / rate)} left")
        return ", ".join(words)

    def _line(self) -> Table:
        row = Table.grid(padding=(0, 1))
        total = float(max(self._planned, 1))
        row.add_row(ProgressBar(total=total, completed=float(self._done), width=24), Text(self._words()))
        return row


def _duration(seconds: float) -> str:
    """Write a duration for people.

    >>> _duration(42), _duration(125), _duration(7_500)
    ('42 s', '2 min 5 s', '2 h 5 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
