"""A listing names each image once; this keeps that true within bounded memory.

Sources promise distinct ids: key ranges do not overlap, and a manifest that repeats an id is refused. A
folder that is being renamed in, or a store that repeats a page, can still name one image twice, and two
rows for one image would break the table's promise. Remembering every id would cost 100 bytes an image, so
128-bit fingerprints are kept instead: 16 bytes an image, and a chance of 1e-21 in a billion images that
two different ones are taken for the same. Past `capacity` the oldest are forgotten; a key that moves while
it is listed turns up again near its first place, not ten million keys later.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from itertools import compress
from typing import Final

import numpy as np
import pyarrow as pa

_BUFFER: Final = 65_536
"""Fingerprints held in a hash set before they become a sorted run of 16 bytes each."""
_FAN_IN: Final = 4
"""Runs of about one size that are merged into one, so a look-up searches O(log n) runs."""


class RecentIds:
    """Remembers at least the last `capacity // 2` ids, and drops the ones seen before.

    Args:
        capacity: Most fingerprints remembered; 16 bytes each once they are sorted, at least 2.

    >>> recent = RecentIds(1000)
    >>> recent.first_seen(pa.array(["a", "b", "a"])), recent.first_seen(pa.array(["b", "c"]))
    (array([ True,  True, False]), array([False,  True]))
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, got {capacity}")
        self._generation = capacity // 2
        self._buffer: set[bytes] = set()
        # Each (2, n) uint64, sorted by its first row: the halves lie apart, because to search a strided one
        # NumPy would copy it first.
        self._runs: list[np.ndarray] = []
        self._older: list[np.ndarray] = []  # the generation before this one
        self._held = 0

    def first_seen(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Tell which ids were not seen before, and remember them.

        Args:
            ids: Strings, shape (N,).

        Returns:
            Shape (N,) bool: True where the id appears for the first time.
        """
        prints = [
            blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            for image_id in ids.to_pylist()
        ]
        new = ~self._in_runs(prints)
        for position, fingerprint in enumerate(prints):
            if fingerprint in self._buffer:
                new[position] = False
            elif new[position]:
                self._buffer.add(fingerprint)
        if len(self._buffer) >= min(_BUFFER, self._generation):
            self._flush()
        return new

    def _in_runs(self, prints: Sequence[bytes]) -> np.ndarray:
        left, right = _halves(prints)
        order = np.argsort(left)  # then neighbours are looked for where the cache still is
        left, right = left[order], right[order]
        found = np.zeros(len(left), dtype=bool)
        for run in (*self._older, *self._runs):
            # Only the first of several equal left halves is compared: a miss lets a repeat through, while
            # a wrong hit would lose an image.
            place = np.minimum(np.searchsorted(run[0], left), run.shape[1] - 1)
            found |= (run[0][place] == left) & (run[1][place] == right)
        in_order = np.empty_like(found)
        in_order[order] = found
        return in_order

    def _flush(self) -> None:
        self._runs.append(_sorted(_halves(self._buffer)))
        self._held += len(self._buffer)
        self._buffer = set()
        while (
            len(self._runs) >= _FAN_IN and self._runs[-_FAN_IN].shape[1] <= _FAN_IN * self._runs[-1].shape[1]
        ):
            self._runs[-_FAN_IN:] = [_sorted(np.concatenate(self._runs[-_FAN_IN:], axis=1))]
        if self._held >= self._generation:
            self._older, self._runs, self._held = self._runs, [], 0


def _halves(prints: Collection[bytes]) -> np.ndarray:
    """Return the left and the right halves of fingerprints, shape (2, N)."""
    return np.ascontiguousarray(np.frombuffer(b"".join(prints), dtype=np.uint64).reshape(-1, 2).T)


def _sorted(run: np.ndarray) -> np.ndarray:
    return np.take(run, np.argsort(run[0]), axis=1)  # run[:, …] would put the halves side by side again


def without_repeats(table: pa.Table, recent: RecentIds) -> pa.Table:
    """Return the rows of `table` whose `image_id` appears for the first time."""
    first = recent.first_seen(table["image_id"])
    return table if first.all() else table.take(list(compress(range(len(first)), first)))
