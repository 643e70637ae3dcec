"""Folding: of images that show one picture, a list of matches keeps the best and names the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.index import Index
    from tagger.index.vectors import Slots

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
    embeddings similar, or if their embeddings are all but equal.

    Args:
        index: Where they are from.

    Attributes:
        groups: By the slot that was kept: the slots that it stands for, in their order.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._seen = 0
        self._kept: list[int] = []  # positions
        self._slots: Slots = np.empty(0, np.int64)  # at those positions
        self.groups: dict[int, list[int]] = {}

    def extend(self, slots: Slots) -> npt.NDArray[np.int64]:
        """Take matches up.

        Args:
            slots: All matches so far, best first: those of the last call, and more.

        Returns:
            Positions in `slots` that are kept, ascending.
        """
        for start in range(self._seen, len(slots), _BLOCK):
            self._add(slots[start : start + _BLOCK], start)
        self._seen = len(slots)
        return np.array(self._kept, np.int64)

    def _add(self, some: Slots, start: int) -> None:
        before = len(self._slots)
        one = same_picture(self._index, some, np.concatenate([self._slots, some]))
        kept_here: list[int] = []  # columns of `one`
        for row, slot in enumerate(some.tolist()):
            candidates = np.concatenate([np.arange(before), np.array(kept_here, np.int64)])
            hits = candidates[one[row, candidates]]
            if len(hits):
                first = int(hits[0])
                keeper = int(self._slots[first]) if first < before else int(some[first - before])
                self.groups.setdefault(keeper, []).append(slot)
            else:
                kept_here.append(before + row)
                self._kept.append(start + row)
        self._slots = np.concatenate([self._slots, some[np.array(kept_here, np.int64) - before]])


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


def same_picture(index: Index, slots: Slots, others: Slots) -> npt.NDArray[np.bool_]:
    """Tell which images show one picture, shape (N, M)."""
    mine, theirs = index.ids.places(slots), index.ids.places(others)
    content, phash, hashed = index.ids.content, index.ids.phash, index.ids.has_phash
    cosine = index.vectors.take(slots) @ index.vectors.take(others).T
    near = np.bitwise_count(phash[mine][:, None] ^ phash[theirs][None, :]) <= HASH_BITS
    near &= hashed[mine][:, None] & hashed[theirs][None, :] & (cosine >= LEAST_COSINE)
    same = (content[mine][:, None] == content[theirs][None, :]) & (content[mine] != 0)[:, None]
    return np.asarray(same | near | (cosine >= SAME_COSINE), np.bool_)
