"""Exact vectors: one row a slot, in the float16 that the tags table rounds embeddings to, so nothing is lost.

FAISS scores them where they lie, in mapped files.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.index.files import PAGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Halves = npt.NDArray[np.float16]
    Slots = npt.NDArray[np.int64]

_GATHER_ROWS: Final = 2048
_MANY: Final = 256  # queries that share the conversion of the vectors they are compared with
_SCAN_NS: Final = 2.0  # to look at a slot's bit
_GATHER_NS: Final = 550.0  # more for a row that is copied first than for one that is scored in its place


def padded_rows(rows: int, dim: int) -> int:
    """Return how many rows a vector file has for `rows` vectors: it fills its pages, and whole bytes of bits.

    >>> padded_rows(1, 1280), padded_rows(129, 1280), padded_rows(5, 8), padded_rows(0, 8)
    (128, 256, 4096, 0)
    """
    step = math.lcm(8, PAGE_BYTES // math.gcd(PAGE_BYTES, 2 * dim))
    return -(-rows // step) * step


class VectorWriter:
    """Writes a vector file batch by batch, until it is closed.

    Args:
        path: The file.
        dim: Length of a vector.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self._file = path.open("wb")
        self._dim = dim
        self.rows = 0

    def write(self, vectors: Floats) -> None:
        """Append vectors, shape (N, D)."""
        import faiss

        # FAISS rounds to float16 with the CPU's own instruction, NumPy took 2.6 times as long.
        halves = faiss.IndexScalarQuantizer(self._dim, faiss.ScalarQuantizer.QT_fp16).sa_encode(
            np.ascontiguousarray(vectors, np.float32)
        )
        self._file.write(halves.data)
        self.rows += len(vectors)

    def close(self, reserve: int = 0) -> int:
        """Fill the file up, to `reserve` rows at least, and return its rows with those that fill it."""
        padded = padded_rows(max(self.rows, reserve), self._dim)
        self._file.truncate(padded * self._dim * 2)
        self._file.close()
        return padded


class Allowed:
    """The slots a search may answer with.

    Args:
        slots: Ascending.
        n_slots: Slots of the index.

    Attributes:
        bits: One bit a slot, the lowest first.
        count: How many slots there are.
    """

    def __init__(self, slots: Slots, n_slots: int) -> None:
        flags = np.zeros(n_slots, np.bool_)
        flags[slots] = True
        self.bits = np.packbits(flags, bitorder="little")
        self.count = len(slots)
        # As numbers they take 64 times the memory: kept where they are few.
        self._slots = slots if slots.nbytes <= self.bits.nbytes else None

    @property
    def slots(self) -> Slots:
        """The slots, ascending."""
        if self._slots is not None:
            return self._slots
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little"))


class Vectors:
    """The exact vectors of an index; threads may share it.

    Args:
        halves: Shape (slots, D); not copied.
    """

    def __init__(self, halves: Halves) -> None:
        self.halves = halves
        self._rows = halves.view(np.uint8).reshape(len(halves), 2 * halves.shape[1])
        self._local = threading.local()

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.halves.shape[1])

    def __len__(self) -> int:
        return len(self.halves)

    def take(self, slots: Slots) -> Floats:
        """Return the vectors of some slots, shape (N, D)."""
        return self.halves[slots].astype(np.float32)

    def top(self, queries: Floats, k: int, allowed: Allowed | None) -> tuple[Floats, Slots]:
        """Return the `k` nearest vectors by exact scores.

        Args:
            queries: Shape (Q, D).
            k: How many.
            allowed: Where to look; everywhere by default.

        Returns:
            Scores and slots, each of shape (Q, k), best first; slot -1 where there are no more.
        """
        import faiss

        if len(queries) >= _MANY:
            return self._multiplied(queries, k, np.arange(len(self)) if allowed is None else allowed.slots)
        if allowed is not None and allowed.count * _GATHER_NS < len(self) * _SCAN_NS:
            return self._gathered(queries, k, allowed.slots)
        parameters = None
        if allowed is not None:
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(allowed.bits))
        scores, slots = self._view(self._rows).search(queries, k, params=parameters)
        return scores, slots

    def _gathered(self, queries: Floats, k: int, slots: Slots) -> tuple[Floats, Slots]:
        """Score rows that lie far apart: copied together they need no look at all the bits between them."""
        best = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(slots), _GATHER_ROWS):
            some = slots[start : start + _GATHER_ROWS]
            scores, places = self._view(np.take(self._rows, some, axis=0)).search(queries, min(k, len(some)))
            best, found = merge_top(best, found, scores, some[places], k)
        return best, found

    def _multiplied(self, queries: Floats, k: int, slots: Slots) -> tuple[Floats, Slots]:
        """Score rows by products of matrices: many queries share the conversion to float32."""
        import faiss

        best = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(slots), _GATHER_ROWS):
            some = slots[start : start + _GATHER_ROWS]
            scores, places = faiss.knn(
                queries, self.take(some), min(k, len(some)), metric=faiss.METRIC_INNER_PRODUCT
            )
            best, found = merge_top(best, found, scores, some[places], k)
        return best, found

    def as_faiss(self) -> Any:
        """Return a FAISS index of all rows where they lie; keep this object as long as it is used."""
        import faiss

        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexScalarQuantizer(self.dim, kind, faiss.METRIC_INNER_PRODUCT)
        _show(index, self._rows, index.codes.owner)
        return index

    def _view(self, rows: npt.NDArray[np.uint8]) -> Any:
        """Return a FAISS index over rows that stay where they are; each thread has one of its own."""
        import faiss

        index = getattr(self._local, "index", None)
        if index is None:
            kind = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexScalarQuantizer(self.dim, kind, faiss.METRIC_INNER_PRODUCT)
            self._local.index = index
            self._local.owner = index.codes.owner  # of nobody: the memory is NumPy's
        _show(index, rows, self._local.owner)
        self._local.rows = rows  # for as long as FAISS may look at it
        return index


def _show(index: Any, rows: npt.NDArray[np.uint8], owner: Any) -> None:
    """Let a FAISS index of codes look at rows in memory that is not its own."""
    import faiss

    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(rows.reshape(-1)), rows.size, owner)
    index.ntotal = len(rows)


def ordered(scores: Floats, slots: Slots) -> tuple[Floats, Slots]:
    """Return matches best first, and of equal scores the lower slot first."""
    order = np.lexsort((slots, -scores))
    return scores[order], slots[order]


def merge_top(
    scores: Floats, slots: Slots, more_scores: Floats, more_slots: Slots, k: int
) -> tuple[Floats, Slots]:
    """Return the `k` best of two lists of matches a query, each of shape (Q, any)."""
    scores = np.concatenate([scores, more_scores], axis=1)
    slots = np.concatenate([slots, more_slots], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(slots, order, axis=1)
