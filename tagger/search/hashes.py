"""Pairs of near perceptual hashes among millions, without comparing each with each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Bits = npt.NDArray[np.uint64]
    Places = npt.NDArray[np.int64]

_PARTS: Final = 4
_PART_BITS: Final = 64 // _PARTS
MOST_BITS: Final = 2 * _PARTS - 1
"""Hashes that differ in at most this many of 64 bits have a part of 16 in which they differ in one bit at
most, and are found for certain (Norouzi, Punjani and Fleet, «Fast search in Hamming space with multi-index
hashing», 2012). FAISS's index of this kind took 275 s for a million random hashes, where this took 33."""

_BLOCK_PAIRS: Final = 1 << 21  # compared together: 50 MB

_MIRROR: Final = np.uint64(int("55" * 8, 16))
"""The bits of odd horizontal frequencies, which turn over when a picture is mirrored: a hash has 8 rows of 8
cosine coefficients, the lowest first, of which mirroring changes the sign of every second one."""


def mirrored(hashes: Bits) -> Bits:
    """Return the hashes that the mirrored pictures have, but for a few bits near the median."""
    return hashes ^ _MIRROR


class Hashes:
    """Hashes to be found by near ones.

    Args:
        hashes: Shape (N,). Different ones, or the pairs of equal ones are as many as their number squared.
    """

    def __init__(self, hashes: Bits) -> None:
        self._sorted = []
        for part in range(_PARTS):
            shift = np.uint64(part * _PART_BITS)
            order = np.argsort(_part(hashes, shift), kind="stable")
            counts = np.bincount(_part(hashes, shift), minlength=1 << _PART_BITS)
            self._sorted.append((shift, order, hashes[order], counts, np.cumsum(counts) - counts))

    def near(self, queries: Bits, bits: int) -> tuple[Places, Places]:
        """Find the hashes near each query.

        Args:
            queries: Shape (Q,).
            bits: Most bits in which they may differ, up to `MOST_BITS`.

        Returns:
            Places of queries and of hashes, one pair a row, ascending.
        """
        if bits > MOST_BITS:
            raise ValueError(f"bits must be at most {MOST_BITS}, got {bits}")
        found = [np.empty((0, 2), np.int64)]
        for shift, order, theirs, counts, starts in self._sorted:
            turn = np.argsort(_part(queries, shift), kind="stable")
            mine = queries[turn]
            parts = _part(mine, shift)
            for flip in (0, *(1 << bit for bit in range(_PART_BITS))):
                for row, column in _ranges(starts[parts ^ flip], counts[parts ^ flip]):
                    near = np.flatnonzero(np.bitwise_count(mine[row] ^ theirs[column]) <= bits)
                    if len(near):
                        found.append(np.stack([turn[row[near]], order[column[near]]], axis=1))
        pairs = np.unique(np.concatenate(found), axis=0)
        return pairs[:, 0], pairs[:, 1]


def _ranges(begin: Places, size: Places) -> Iterator[tuple[Places, Places]]:
    """Yield each row with each place of its range, shape (P,), some at a time."""
    ends = np.cumsum(size)
    first = 0
    while first < len(size):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_PAIRS, "right")))
        some = size[first:last]
        row = np.repeat(np.arange(first, last), some)
        column = np.arange(len(row)) - np.repeat(ends[first:last] - some - before, some)
        yield row, column + begin[row]
        first = last


def _part(hashes: Bits, shift: np.uint64) -> Places:
    return ((hashes >> shift) & np.uint64((1 << _PART_BITS) - 1)).astype(np.int64)
