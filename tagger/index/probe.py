"""Held-out queries with their exact neighbours: how an index that is not exact knows its recall.

Some images of the collection, none of which the index was trained with, are its queries; an image is never
counted as its own neighbour. While a build streams the table, each batch is also compared with them exactly,
which costs one matrix product. They are kept with the index, so that an update only compares what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tagger.index.vectors import merge_top

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tagger.index.codes import Codes
    from tagger.index.vectors import Floats, Slots

QUERIES: Final = 256
K: Final = 10
KEPT: Final = 40
"""Neighbours kept a query: so many may go before the ten nearest are no longer known."""

TARGET: Final = 0.95
_MARGIN: Final = 0.02
"""Queries from outside find a little less than these: .007 at the million images of docs/benchmarks.md, .014
in the run before it."""

_DEPTHS: Final = (50, 1600)  # from, and as far as is tried at first
_CODE_NS_A_BYTE: Final = 0.15  # as on a Xeon; what counts is its ratio to the next
_RANK_NS: Final = 1000.0


@dataclass(frozen=True)
class Probe:
    """Queries and their nearest images, exactly.

    Attributes:
        image_ids: Which images the queries are, Q of them.
        vectors: Their embeddings, shape (Q, D).
        scores: Of their nearest images so far, shape (Q, KEPT), best first.
        slots: Where those are; -1 where there are no more.
        floors: Score that a new image must pass to be among them, shape (Q,): below it not all are known.
    """

    image_ids: tuple[str, ...]
    vectors: Floats
    scores: Floats
    slots: Slots
    floors: Floats

    @classmethod
    def of(cls, image_ids: Sequence[str], vectors: Floats) -> Probe:
        """Return queries that have not been compared with anything."""
        n = len(image_ids)
        scores, slots = np.full((n, KEPT), -np.inf, np.float32), np.full((n, KEPT), -1, np.int64)
        return cls(tuple(image_ids), vectors, scores, slots, np.full(n, -np.inf, np.float32))

    def __len__(self) -> int:
        return len(self.image_ids)

    def compared(self, image_ids: Sequence[str], vectors: Floats, slots: Slots) -> Probe:
        """Return the probe after it was compared with more images."""
        if not len(self) or not len(slots):
            return self
        scores = self.vectors @ vectors.T
        mine = {image_id: place for place, image_id in enumerate(self.image_ids)}
        for column, image_id in enumerate(image_ids):
            if image_id in mine:
                scores[mine[image_id], column] = -np.inf
        least = np.maximum(self.scores[:, -1], self.floors)
        rows, columns = np.nonzero(scores > least[:, None])
        if len(rows) > KEPT * len(self):  # as of the first batches, in which most are new
            keep = min(KEPT, len(slots))
            columns = np.argpartition(-scores, keep - 1, axis=1)[:, :keep].reshape(-1)
            rows = np.repeat(np.arange(len(self)), keep)
            nearer = scores[rows, columns] > least[rows]
            rows, columns = rows[nearer], columns[nearer]
        if not len(rows):
            return self
        counts = np.bincount(rows, minlength=len(self))
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        best = np.full((len(self), counts.max()), -np.inf, np.float32)
        found = np.full(best.shape, -1, np.int64)
        best[rows, place] = scores[rows, columns]
        found[rows, place] = slots[columns]
        return self._merged(best, found)

    def joined(self, other: Probe) -> Probe:
        """Return the same queries with the neighbours that two of their comparisons found."""
        return self._merged(other.scores, other.slots)

    def without(self, dead: npt.NDArray[np.bool_]) -> Probe:
        """Return the probe without the images that are gone, and without queries that know too few others.

        Args:
            dead: By slot.
        """
        gone = (self.slots >= 0) & dead[self.slots]
        # What lies beyond the neighbours that were kept is not known. So where some go, the list gets
        # shorter, and what is new has to be nearer than the last one was.
        known = (self.slots >= 0) & ~gone
        scores = np.where(gone, -np.inf, self.scores)
        enough = ~gone.any(axis=1) | (known.sum(axis=1) >= K)
        order = np.argsort(-scores[enough], axis=1, kind="stable")
        slots = np.where(gone, -1, self.slots)[enough]
        floors = np.where(gone.any(axis=1), np.maximum(self.floors, self.scores[:, -1]), self.floors)
        return Probe(
            tuple(np.array(self.image_ids, object)[enough]),
            self.vectors[enough],
            np.take_along_axis(scores[enough], order, axis=1),
            np.take_along_axis(slots, order, axis=1),
            floors[enough],
        )

    def _merged(self, scores: Floats, slots: Slots) -> Probe:
        best, found = merge_top(self.scores, self.slots, scores, slots, KEPT)
        return Probe(self.image_ids, self.vectors, best, found, self.floors)

    def to_table(self) -> pa.Table:
        """Return it as the table that the index keeps."""

        def rows(values: npt.NDArray[np.generic], kind: pa.DataType) -> pa.Array:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
            return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

        return pa.table(
            {
                "image_id": pa.array(self.image_ids, pa.string()),
                "vector": rows(self.vectors.astype(np.float16), pa.float16()),
                "scores": rows(self.scores, pa.float32()),
                "slots": rows(self.slots, pa.int64()),
                "floor": pa.array(self.floors, pa.float32()),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Probe:
        """Read what `to_table` wrote."""

        def matrix(name: str) -> npt.NDArray[Any]:
            column = table.column(name).combine_chunks()
            flat = column.flatten().to_numpy(zero_copy_only=False)
            rows: npt.NDArray[Any] = flat.reshape(len(column), column.type.list_size)
            return rows

        return cls(
            tuple(table.column("image_id").to_pylist()),
            matrix("vector").astype(np.float32),
            matrix("scores").astype(np.float32),
            matrix("slots").astype(np.int64),
            np.asarray(table.column("floor").to_numpy(), np.float32),
        )


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search tries, and what that achieves.

    Attributes:
        nprobe: Lists looked into.
        depth: Candidates ranked exactly for the first results.
        recall: Share of the ten exact neighbours that were found.
        queries: Queries it was measured with.
    """

    nprobe: int
    depth: int
    recall: float | None
    queries: int


EXACT: Final = Effort(0, 0, 1.0, 0)
"""That of a search which looks at every vector."""


def choose_effort(codes: Codes, probe: Probe, before: Effort = EXACT) -> Effort:
    """Return the cheapest effort whose recall is at least `TARGET`.

    What is measured is `TARGET` and a margin, so that other queries have it too.

    Args:
        codes: What is searched.
        probe: Queries with their exact neighbours.
        before: What was enough before an update, and is kept while it is.
    """
    known = int((probe.slots[:, :K] >= 0).sum())
    if known and before.nprobe:
        recall = _hits(codes, probe, before.nprobe, [before.depth])[0] / known
        if recall >= TARGET + _MARGIN:
            return Effort(before.nprobe, before.depth, recall, len(probe))
    if not known:
        depth = _DEPTHS[-1]
        return Effort(codes.lists, depth, 1.0 if depth >= codes.count else None, 0)
    deepest = _DEPTHS[-1]
    while True:
        found = _cheapest(codes, probe, known, deepest)
        if found is not None:
            return found
        if deepest >= codes.count:  # every image is ranked exactly: nothing is missing
            return Effort(codes.lists, codes.count, 1.0, len(probe))
        deepest *= 8


def _cheapest(codes: Codes, probe: Probe, known: int, deepest: int) -> Effort | None:
    depths = [_DEPTHS[0] << n for n in range(32) if _DEPTHS[0] << n <= deepest]
    best: tuple[float, Effort] | None = None
    nprobe = 1
    while True:
        scan_ns = codes.count * nprobe / codes.lists * codes.code_bytes * _CODE_NS_A_BYTE
        if best and scan_ns + depths[0] * _RANK_NS >= best[0]:
            return best[1]
        for depth, hits in zip(depths, _hits(codes, probe, nprobe, depths), strict=True):
            recall = hits / known
            if recall >= TARGET + _MARGIN:
                cost = scan_ns + depth * _RANK_NS
                if best is None or cost < best[0]:
                    best = (cost, Effort(nprobe, depth, recall, len(probe)))
                break
        if nprobe == codes.lists:
            return best[1] if best else None
        nprobe = min(2 * nprobe, codes.lists)


def _hits(codes: Codes, probe: Probe, nprobe: int, depths: list[int]) -> list[int]:
    """Count the exact neighbours of all queries among the first candidates, for each depth."""
    # One more, because the image itself is among its candidates.
    candidates = codes.candidates(probe.vectors, depths[-1] + 1, nprobe=nprobe)
    wanted = probe.slots[:, :K]
    return [
        sum(
            int(np.isin(mine[mine >= 0], seen[: depth + 1]).sum())
            for mine, seen in zip(wanted, candidates, strict=True)
        )
        for depth in depths
    ]
