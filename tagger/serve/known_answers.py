"""Searches whose answers are known: they tell whether a loaded index still answers as it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.errors import IndexUnusable

if TYPE_CHECKING:
    from tagger.index import Index
    from tagger.index.vectors import Floats, Slots

_QUERIES: Final = 3
_RANKS: Final = 10


class KnownAnswers:
    """What a few images of an index find, noted once and asked again.

    The files of an index are checked when they are opened. What happens to them afterwards, on the disk under
    a mapping, would otherwise show in wrong answers only.

    Args:
        index: Just opened, so that its answers are right.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        slots = index.ids.slots
        self._slots = slots[np.linspace(0, len(slots) - 1, min(_QUERIES, len(slots))).astype(np.int64)]
        self._vectors = index.vectors.take(self._slots)
        self._answers = [self._ask(vector) for vector in self._vectors]

    def require_same(self) -> None:
        """Ask again.

        Raises:
            IndexUnusable: A vector or an answer is another one than before.
        """
        if not np.array_equal(self.index.vectors.take(self._slots), self._vectors):
            raise self._changed("vectors")
        for vector, (scores, slots) in zip(self._vectors, self._answers, strict=True):
            scores_now, slots_now = self._ask(vector)
            if not (np.array_equal(slots_now, slots) and np.allclose(scores_now, scores, atol=1e-6)):
                raise self._changed("answers")

    def _ask(self, vector: Floats) -> tuple[Floats, Slots]:
        scores, slots = self.index.ranking(vector[None]).first(_RANKS)
        return scores[:_RANKS].copy(), slots[:_RANKS].copy()

    def _changed(self, what: str) -> IndexUnusable:
        version = self.index.manifest.version
        return IndexUnusable(f"version {version} of the index has other {what} than when it was loaded")
