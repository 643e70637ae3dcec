"""Folding: of images that show one picture, a list of matches keeps the best and names the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.index import Index
    from tagger.index.vectors import Floats, Slots

HASH_BITS: Final = 6
"""Bits of 64 in which the perceptual hashes of one picture differ after resizing and re-encoding; two
pictures differ in about 32, and what lies between is decided by `LEAST_COSINE`."""

LEAST_COSINE: Final = 0.9
SAME_COSINE: Final = 0.98
"""Cosine of two embeddings above which the pictures are one, whatever their hashes say.

Of real photos (tests/search/test_search_photos.py) all that were encoded again or halved are folded, 92 % of
those that lost 2 % at each edge, 25 % of the mirrored ones, and none with 10 % cut off; of 3,864 pairs of
different photos none.
"""


_BLOCK: Final = 256


class Folded:
    """A list of matches as it grows, of which the first of every group that shows one picture is kept.

    Two images show one picture if their bytes are equal, if their perceptual hashes are near and their
    embeddings similar, or if their embeddings are all but equal. The vectors of what is kept stay in memory
    as float32, so that a long list is not converted again for every block.

    Args:
        index: Where they are from.

    Attributes:
        groups: By the slot that was kept: the slots that it stands for, in their order.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._seen = 0
        self._kept: list[int] = []  # positions
        self._slots: Slots = np.empty(_BLOCK, np.int64)  # at those positions; with room for more
        self._vectors: Floats = np.empty((_BLOCK, index.vectors.dim), np.float32)  # of those slots
        self.groups: dict[int, list[int]] = {}

    def extend(self, slots: Slots, *, need: int | None = None) -> npt.NDArray[np.int64]:
        """Take matches up.

        Args:
            slots: All matches so far, best first: those of the last call, and more.
            need: How many must be kept: what comes after them and their block is left for the next call.

        Returns:
            Positions in `slots` that are kept, ascending.
        """
        while self._seen < len(slots) and (need is None or len(self._kept) < need):
            self.add(slots[self._seen : self._seen + _BLOCK])
        return np.array(self._kept, np.int64)

    def add(self, more: Slots) -> npt.NDArray[np.bool_]:
        """Take up the matches that follow those so far, and tell which of them are kept."""
        blocks = [self._add(more[start : start + _BLOCK]) for start in range(0, len(more), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.bool_)

    def _add(self, some: Slots) -> npt.NDArray[np.bool_]:
        index, before = self._index, len(self._kept)
        vectors = index.vectors.take(some)
        earlier = _same(index, some, vectors, self._slots[:before], self._vectors[:before])
        one = _same(index, some, vectors, some, vectors)
        known = np.asarray(earlier.any(axis=1), np.bool_)
        kept = np.zeros(len(some), np.bool_)
        for row, slot in enumerate(some.tolist()):
            if known[row]:
                keeper = int(self._slots[np.argmax(earlier[row])])
            elif len(hits := np.flatnonzero(one[row] & kept)):
                keeper = int(some[hits[0]])
            else:
                kept[row] = True
                continue
            self.groups.setdefault(keeper, []).append(slot)
        self._keep(some[kept], vectors[kept])
        self._kept += (self._seen + np.flatnonzero(kept)).tolist()
        self._seen += len(some)
        return kept

    def _keep(self, slots: Slots, vectors: Floats) -> None:
        before, after = len(self._kept), len(self._kept) + len(slots)
        if after > len(self._slots):
            room = max(after, 2 * len(self._slots)) - before
            self._slots = np.concatenate([self._slots[:before], np.empty(room, np.int64)])
            grown = np.empty((before + room, self._vectors.shape[1]), np.float32)
            grown[:before] = self._vectors[:before]
            self._vectors = grown
        self._slots[before:after] = slots
        self._vectors[before:after] = vectors


def fold(index: Index, slots: Slots) -> tuple[list[int], dict[int, list[int]]]:
    """Fold a list of matches at once.

    Args:
        index: Where they are from.
        slots: Matches, best first.

    Returns:
        Positions in `slots` that are kept, ascending, and by slot that was kept the slots it stands for.
    """
    folded = Folded(index)
    return folded.extend(slots).tolist(), folded.groups


def shows_one_of(index: Index, slots: Slots, others: Slots) -> npt.NDArray[np.bool_]:
    """Tell which images show the picture of at least one of some others, shape (N,)."""
    found = np.zeros(len(slots), np.bool_)
    theirs = index.vectors.take(others)
    for start in range(0, len(slots), _BLOCK):
        some = slots[start : start + _BLOCK]
        same = _same(index, some, index.vectors.take(some), others, theirs)
        found[start : start + _BLOCK] = same.any(axis=1)
    return found


def same_picture(index: Index, slots: Slots, others: Slots) -> npt.NDArray[np.bool_]:
    """Tell which images show one picture, shape (N, M)."""
    return _same(index, slots, index.vectors.take(slots), others, index.vectors.take(others))


def _same(
    index: Index, slots: Slots, vectors: Floats, others: Slots, their_vectors: Floats
) -> npt.NDArray[np.bool_]:
    mine, theirs = index.ids.places(slots), index.ids.places(others)
    content, phash, hashed = index.ids.content, index.ids.phash, index.ids.has_phash
    cosine = vectors @ their_vectors.T
    near = np.bitwise_count(phash[mine][:, None] ^ phash[theirs][None, :]) <= HASH_BITS
    near &= hashed[mine][:, None] & hashed[theirs][None, :] & (cosine >= LEAST_COSINE)
    same = (content[mine][:, None] == content[theirs][None, :]) & (content[mine] != 0)[:, None]
    return np.asarray(same | near | (cosine >= SAME_COSINE), np.bool_)
