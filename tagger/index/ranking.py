"""All images by similarity to one query, computed only as far as somebody reads.

What an approximate search finds depends on how many matches it is asked for, so that pages cut from searches
of different sizes would repeat some images and skip others. Here the first 25 ranks are always those of one
search, the ranks up to 250 those of a deeper one without the first 25, and so on: a page is a slice of one
fixed list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.index.vectors import ordered

if TYPE_CHECKING:
    from tagger.index.opened import Index
    from tagger.index.vectors import Allowed, Floats, Slots

FIRST: Final = 25
_GROWTH: Final = 10


class Ranking:
    """The ranks of one query.

    Args:
        index: What is searched.
        query: Shape (1, D).
        allowed: Which slots may be found; None for all.
    """

    def __init__(self, index: Index, query: Floats, allowed: Allowed | None) -> None:
        self._index = index
        self._query = np.ascontiguousarray(query, np.float32)
        self._allowed = allowed
        self._window = 0
        self.total = index.count if allowed is None else allowed.count
        self.scores: Floats = np.empty(0, np.float32)
        self.slots: Slots = np.empty(0, np.int64)

    def first(self, n: int) -> tuple[Floats, Slots]:
        """Return the first ranks, best first: at least `n`, or all there are.

        Returns:
            Scores in [0, 1] and slots, each of shape (at least n,).
        """
        while len(self.slots) < min(n, self.total) and self._window < self.total:
            self._window = min(self.total, self._window * _GROWTH or FIRST)
            scores, slots = self._search(self._window)
            new = ~np.isin(slots, self.slots) if len(self.slots) else slice(None)
            self.scores = np.concatenate([self.scores, np.clip(scores[new], 0.0, 1.0)])
            self.slots = np.concatenate([self.slots, slots[new]])
        return self.scores, self.slots

    def _search(self, window: int) -> tuple[Floats, Slots]:
        import faiss

        faiss.omp_set_num_threads(1)  # of this thread: queries side by side are faster than one in pieces
        index = self._index
        search = index.exact if index.is_exact(self._allowed) else index.approximate
        scores, slots = search(self._query, window, self._allowed)
        found = slots[0] >= 0
        return ordered(scores[0][found], slots[0][found])
