"""When which machine worked at which stage: kept small however long a run takes, for the run's record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

DECODE: Final = "fetch and decode"
MODEL: Final = "tag"
WRITE: Final = "write"

_MOST_BUCKETS: Final = 120
"""More would not be seen in a drawing; when a run outgrows them each becomes twice as wide."""


class Span(NamedTuple):
    """One chunk (or group of chunks) at one stage.

    Attributes:
        stage: `DECODE`, `MODEL` or `WRITE`.
        node: Id of the machine, as Ray names it.
        start: Seconds since the epoch, by that machine's clock.
        end: Likewise.
        images: In the chunk or group.
    """

    stage: str
    node: str
    start: float
    end: float
    images: int


def dump_spans(spans: Iterable[Span]) -> bytes:
    """Return spans as they travel with a block."""
    return json.dumps(list(spans)).encode()


def load_spans(data: bytes) -> list[Span]:
    """Read what `dump_spans` gave."""
    return [Span(*span) for span in json.loads(data)]


class Timeline:
    """Busy seconds and finished images by stage, machine and time, in at most 120 steps.

    Args:
        start: When the run began, in seconds since the epoch.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._bucket_s = 1.0
        self._busy: dict[tuple[str, str], list[float]] = {}
        self._images: dict[tuple[str, str], list[int]] = {}

    def add(self, spans: Iterable[Span]) -> None:
        """Add what was done; a clock that is ahead or behind is taken at its word, within the run."""
        for span in spans:
            begin = max(0.0, span.start - self._start)
            end = max(begin, span.end - self._start)
            while end >= self._bucket_s * _MOST_BUCKETS:
                self._widen()
            busy = self._row(self._busy, span, int(end / self._bucket_s))
            for bucket in range(int(begin / self._bucket_s), int(end / self._bucket_s) + 1):
                left, right = bucket * self._bucket_s, (bucket + 1) * self._bucket_s
                busy[bucket] += max(0.0, min(end, right) - max(begin, left))
            self._row(self._images, span, int(end / self._bucket_s))[int(end / self._bucket_s)] += span.images

    def _row(self, rows: dict[tuple[str, str], list[Any]], span: Span, last: int) -> list[Any]:
        row = rows.setdefault((span.stage, span.node), [])
        row.extend([0] * (last + 1 - len(row)))
        return row

    def _widen(self) -> None:
        self._bucket_s *= 2
        for key, busy in self._busy.items():
            self._busy[key] = [sum(busy[n : n + 2]) for n in range(0, len(busy), 2)]
        for key, images in self._images.items():
            self._images[key] = [sum(images[n : n + 2]) for n in range(0, len(images), 2)]

    def to_record(self) -> dict[str, Any]:
        """Return what run.json keeps: the width of a step, and a row for each stage and machine.

        >>> line = Timeline(100.0)
        >>> line.add([Span(MODEL, "a", 100.5, 101.5, 32)])
        >>> line.to_record()
        {'bucket_s': 1.0, 'rows': [{'stage': 'tag', 'node': 'a', 'busy_s': [0.5, 0.5], 'images': [0, 32]}]}
        """
        return {
            "bucket_s": self._bucket_s,
            "rows": [
                {
                    "stage": stage,
                    "node": node,
                    "busy_s": [round(seconds, 2) for seconds in busy],
                    "images": self._images[stage, node],
                }
                for (stage, node), busy in sorted(self._busy.items())
            ],
        }
