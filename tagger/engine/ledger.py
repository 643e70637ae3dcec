"""The driver's book: which chunks are ready, being written, committed; each exactly once."""

import time
from collections.abc import Callable
from typing import Any

from tagger.engine.parts import Receipt
from tagger.errors import StoreUnavailable

FIRST_FLUSH_S = 4.0
"""Seconds after the start when the first group may be written, so that users soon see rows."""

FLUSH_S = 8.0
"""Seconds between groups: what is lost when the driver is killed, against the number of small parts."""

GROUP_ROWS = 16_384
"""Most images in a part: some 28 MB with 1280-dimensional embeddings."""


class Groups:
    """Collects finished chunks and says when a group of them is due to be written.

    Args:
        chunk_rows: Images in a full chunk.
        started: When the command began, on `clock`.
        clock: Seconds; tests turn it by hand.
    """

    def __init__(
        self, *, chunk_rows: int, started: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._started = started
        self._last_flush: float | None = None
        self._ready: list[Any] = []
        self._full = max(1, GROUP_ROWS // chunk_rows)

    def add(self, block: Any) -> None:
        """Add the finished block of one chunk, or a reference to it."""
        self._ready.append(block)

    def due(self, *, all_of_it: bool = False) -> list[Any]:
        """Return the blocks to write now as one part; empty when it is too early."""
        now = self._clock()
        if self._last_flush is None:
            in_time = now - self._started >= FIRST_FLUSH_S
        else:
            in_time = now - self._last_flush >= FLUSH_S
        if not self._ready or not (all_of_it or in_time or len(self._ready) >= self._full):
            return []
        group, self._ready = self._ready[: self._full], self._ready[self._full :]
        self._last_flush = now
        return group


class Ledger:
    """Knows which chunks are committed, drops what comes twice, and holds back what looks like an outage.

    A group in which every image failed to be read is not committed before one image of the same or a
    later group could be read: when storage is down, its failures are not facts about the images. Images
    that failed for the same reason in an earlier run do not count: objects in an archive, say, stay there.

    Args:
        give_up_after: Reads that may fail in a row, without one success, before the run stops.
    """

    def __init__(self, *, give_up_after: int = 200) -> None:
        self._give_up_after = give_up_after
        self._committed = bytearray()
        self._held: list[Receipt] = []
        self._given: set[int] = set()  # chunks whose receipts were given out and are not committed yet
        self.tagged = 0
        self.failed = 0
        self.errors: dict[str, int] = {}

    def __contains__(self, chunk: int) -> bool:
        byte = chunk >> 3
        return byte < len(self._committed) and bool(self._committed[byte] & (1 << (chunk & 7)))

    def missing(self, chunks: int) -> list[int]:
        """Return the numbers below `chunks` that are not committed."""
        return [number for number in range(chunks) if number not in self]

    def accept(self, receipt: Receipt) -> list[Receipt]:
        """Take a receipt and return those to commit now, oldest first.

        A receipt with a chunk that is committed, held or given out already is dropped whole; its part is an
        orphan that `clean` removes.

        Raises:
            StoreUnavailable: Nothing could be read for too long; nothing held is committed.
        """
        held = {number for one in self._held for number, _ in one.chunks}
        if any(n in self or n in held or n in self._given for n, _ in receipt.chunks):
            return []
        self._held.append(receipt)
        if receipt.read_failures < receipt.rows:
            return self.last()
        news = sum(one.read_failures - one.known_failures for one in self._held)
        if news >= self._give_up_after:
            codes = ", ".join(sorted(self._held[-1].errors))
            raise StoreUnavailable(
                f"{news} reads in a row failed ({codes}); nothing was written "
                "for them: start the same command again when storage answers"
            )
        return []

    def last(self) -> list[Receipt]:
        """Return what is still held: when the plan is done, few failures are no sign of an outage."""
        ready, self._held = self._held, []
        self._given.update(number for one in ready for number, _ in one.chunks)
        return ready

    def committed(self, receipts: list[Receipt]) -> None:
        """Note that these receipts are in the table."""
        for receipt in receipts:
            for number, _ in receipt.chunks:
                byte = number >> 3
                if byte >= len(self._committed):
                    self._committed.extend(bytes(byte + 1 - len(self._committed)))
                self._committed[byte] |= 1 << (number & 7)
                self._given.discard(number)
            self.tagged += receipt.tagged
            self.failed += receipt.rows - receipt.tagged
            for code, count in receipt.errors.items():
                self.errors[code] = self.errors.get(code, 0) + count
