"""How much work is taken on: more than can be done soon is refused at once, so that the rest stays quick."""

from __future__ import annotations

import time
from typing import Final

from tagger.serve.problems import Refused

_STANDING_S: Final = 1.0
_WINDOW_S: Final = 1.0
_MANY: Final = 0.25


class Gate:
    """Counts the requests of one kind that are at work. Used on the event loop only.

    A queue that comes and goes is a burst, and is let grow. One that fills all the room, or half of it
    for a whole second, is more work than the machine does, and waiting in it helps nobody: then the gate is
    strict, and lets only as many in as are worked on, and few more. It stays strict as long as a quarter of
    those who come have to be refused. (Controlled delay; Nichols and Jacobson, ACM Queue 2012, as in Maurer,
    Fail at Scale, ACM Queue 2015.)

    Args:
        workers: Requests that are worked on at the same time.
        waiting: Requests that may wait beside them while the gate is strict.
        burst: Requests inside at most.
    """

    def __init__(self, workers: int, *, waiting: int, burst: int) -> None:
        self._few = workers + waiting
        self._burst = max(burst, self._few)
        self._queue = max(workers, self._burst // 2)
        self._queued_since: float | None = None
        self._strict_until: float | None = None
        self._admitted = self._refused = 0
        self.inside = 0

    def require_room(self) -> None:
        """See whether one more may come in.

        Raises:
            Refused: 503, as many are inside as may be.
        """
        now = time.monotonic()
        if self.inside < self._queue:
            self._queued_since = None
        elif self._queued_since is None:
            self._queued_since = now
        self._watch(now)
        if self.inside >= (self._burst if self._strict_until is None else self._few):
            self._refused += 1
            raise Refused(503, "the server is busy; try again in a moment", retry_after_s=1)

    def enter(self) -> None:
        """Let one in, or refuse it as `require_room` does."""
        self.require_room()
        self._admitted += 1
        self.inside += 1

    def leave(self) -> None:
        """Let one out."""
        self.inside -= 1

    def _watch(self, now: float) -> None:
        """Become strict, or cease to be."""
        if self._strict_until is None:
            stands = self._queued_since is not None and now - self._queued_since > _STANDING_S
            if not stands and self.inside < self._burst:
                return
        elif now < self._strict_until:
            return
        elif self._refused < _MANY * (self._refused + self._admitted):
            self._strict_until = self._queued_since = None
            return
        self._strict_until = now + _WINDOW_S
        self._admitted = self._refused = 0


class Rate:
    """A bucket of tokens for each caller, refilled at a steady rate.

    Args:
        per_s: Requests a second over time.
        burst: Requests at once.
    """

    _MOST_CALLERS: Final = 10_000

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(max(1, burst))
        self._buckets: dict[bytes, tuple[float, float]] = {}

    def take(self, caller: bytes) -> None:
        """Take a token.

        Raises:
            Refused: 429, there is none left.
        """
        now = time.monotonic()
        left, then = self._buckets.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_s)
        if left < 1:
            self._buckets[caller] = (left, now)
            wait = max(1, round((1 - left) / self._per_s + 0.5))
            raise Refused(429, "too many requests; slow down, or ask for a higher rate", retry_after_s=wait)
        if caller not in self._buckets and len(self._buckets) >= self._MOST_CALLERS:
            self._buckets.pop(next(iter(self._buckets)))
        self._buckets[caller] = (left - 1, now)
