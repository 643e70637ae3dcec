"""Short codes in inverted lists (FAISS): they find the candidates that exact vectors then rank.

A code is not of the whole embedding. The embeddings of a CNN lie near a flat of far fewer dimensions, so they
are projected on their principal axes first. That makes training, filling and searching several times cheaper,
and what it loses in accuracy the exact ranking of the candidates gives back (measured in docs/benchmarks.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.index.kmeans import assign, kmeans
from tagger.index.vectors import Allowed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from tagger.index.manifest import Kind
    from tagger.index.vectors import Floats, Halves, Slots, Vectors

FLAT_MOST: Final = 20_000
"""Vectors that are searched exactly in 3 ms by one core of the slower machine of docs/benchmarks.md; above it
time grows faster than their number, because they no longer fit into its caches."""

TRAIN_PER_LIST: Final = 64
"""Images that train the centre of one list: with more, recall did not grow."""

_LEAST_PER_LIST: Final = 40  # FAISS asks for 39
_MOST_LISTS: Final = 65_536
_KEPT_VARIANCE: Final = 0.85
_LEAST_CODE_DIM: Final = 32
_CODE_STEP: Final = 32
_PQ_DIMS_A_BYTE: Final = 4
_LEAST_FOR_PQ: Final = 4096  # images: its 256 centroids a byte have to be trained, too
_SEED: Final = 1234
_ROUNDS: Final = 10  # of k-means
_BLOCK_ROWS: Final = 16_384  # that are float32 at once
_AXES_ROWS: Final = 32_768  # whose principal axes are computed


@dataclass(frozen=True, slots=True)
class CodesPlan:
    """How codes are to be made.

    Attributes:
        kind: `ivf` or `ivf-pq`.
        lists: Inverted lists.
        train_rows: Images to train with.
    """

    kind: Kind
    lists: int
    train_rows: int


def effective_kind(kind: Kind, count: int) -> Kind:
    """Return what a kind that was asked for becomes with so few images that it cannot be trained."""
    if not count:
        return "flat"
    return "ivf" if kind == "ivf-pq" and count < _LEAST_FOR_PQ else kind


def plan_codes(kind: Kind, count: int) -> CodesPlan:
    """Choose the number of lists: a power of two near 2 √N, each with enough images to train its centre.

    >>> [plan_codes("ivf", n).lists for n in (50, 20_000, 200_000, 1_000_000, 100_000_000)]
    [1, 256, 1024, 2048, 16384]
    """
    lists = 2 ** round(math.log2(2 * math.sqrt(max(1, count))))
    while lists > 1 and lists * _LEAST_PER_LIST > count:
        lists //= 2
    lists = min(lists, _MOST_LISTS)
    return CodesPlan(effective_kind(kind, count), lists, min(count, max(lists * TRAIN_PER_LIST, _AXES_ROWS)))


class Codes:
    """An inverted file of codes, trained; filled slot by slot. Threads may search it together.

    Args:
        index: FAISS's `IndexPreTransform` of a projection and an inverted file.
        lies_in: Memory that it points into, and that must therefore live as long.
    """

    def __init__(self, index: Any, lies_in: object = None) -> None:
        import faiss

        self._index = index
        self._lies_in = lies_in
        self._ivf = faiss.extract_index_ivf(index)
        projection = faiss.downcast_VectorTransform(index.chain.at(0))
        shape = (projection.d_out, projection.d_in)
        self._axes: Floats = np.ascontiguousarray(faiss.vector_to_array(projection.A).reshape(shape).T)
        self._shift: Floats = faiss.vector_to_array(projection.b)

    @classmethod
    def train(cls, sample: Floats | Halves, plan: CodesPlan) -> Codes:
        """Train projection, lists and codes.

        Args:
            sample: Embeddings, shape (N, D), N at least 40 times the lists.
            plan: How.
        """
        import faiss

        axes, shift = _principal_axes(sample)
        small = np.concatenate(
            [
                sample[start : start + _BLOCK_ROWS].astype(np.float32) @ axes + shift
                for start in range(0, len(sample), _BLOCK_ROWS)
            ]
        )
        d, dim = axes.shape
        by_product = plan.kind == "ivf-pq" and dim % _PQ_DIMS_A_BYTE == 0
        coarse = faiss.IndexFlatL2(dim)
        coarse.add(kmeans(small, plan.lists, rounds=_ROUNDS, seed=_SEED))
        if by_product:
            ivf = faiss.IndexIVFPQ(coarse, dim, plan.lists, dim // _PQ_DIMS_A_BYTE, 8)
            ivf.pq.cp.min_points_per_centroid = 1
            ivf.pq.cp.max_points_per_centroid = TRAIN_PER_LIST
            ivf.pq.cp.niter = _ROUNDS
        else:
            kind = faiss.ScalarQuantizer.QT_8bit
            # Not of residuals: candidates are ranked exactly anyway, and a list's codes need no preparation.
            ivf = faiss.IndexIVFScalarQuantizer(coarse, dim, plan.lists, kind, faiss.METRIC_L2, False)
        ivf.train(small)  # the codes alone: the lists are there
        projection = faiss.LinearTransform(d, dim, True)
        faiss.copy_array_to_vector(np.ascontiguousarray(axes.T).ravel(), projection.A)
        faiss.copy_array_to_vector(shift, projection.b)
        projection.is_trained = True
        return cls(faiss.IndexPreTransform(projection, ivf))  # FAISS's Python keeps all three alive

    @classmethod
    def from_bytes(cls, data: npt.NDArray[np.uint8]) -> Codes:
        """Read what `to_bytes` wrote; check its sha256 first.

        Raises:
            ValueError: It is not that.
        """
        import faiss

        return cls(_read(lambda: faiss.deserialize_index(data)))

    @classmethod
    def over(cls, data: npt.NDArray[np.uint8]) -> Codes:
        """Read what `to_bytes` wrote where it lies, to be searched and not changed.

        The lists stay in `data`: in a mapped file they are the kernel's, and processes that map the same file
        have them in memory once.

        Raises:
            ValueError: It is not that.
        """
        import faiss

        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.nbytes)
        return cls(_read(lambda: faiss.read_index(reader)), lies_in=(data, reader))

    def to_bytes(self) -> npt.NDArray[np.uint8]:
        """Return it as the bytes of a file."""
        import faiss

        data: npt.NDArray[np.uint8] = faiss.serialize_index(self._index)
        return data

    def write(self, path: Path) -> None:
        """Write it to a file, with no second copy in memory.

        Through a file of Python's: FAISS's own writer says nothing where the last bytes find no room.

        Raises:
            OSError: The disk is full.
        """
        import faiss

        failed: list[OSError] = []
        with path.open("wb") as file:

            def keep(data: bytes) -> None:
                try:
                    file.write(data)
                except OSError as error:  # which would not come through C++
                    failed.append(error)
                    raise

            try:
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(keep, 1 << 20))
            except RuntimeError as error:
                raise (failed[0] if failed else error) from None
        if failed:
            raise failed[0]

    @property
    def faiss_index(self) -> Any:
        """FAISS's own index, to compare with."""
        return self._index

    @property
    def count(self) -> int:
        """Images in it."""
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self._index.d)

    @property
    def kind(self) -> Kind:
        """What they are: `ivf-pq` may have become `ivf` where there were too few images or dimensions."""
        import faiss

        return "ivf-pq" if isinstance(faiss.downcast_index(self._ivf), faiss.IndexIVFPQ) else "ivf"

    @property
    def lists(self) -> int:
        """Inverted lists."""
        return int(self._ivf.nlist)

    @property
    def code_bytes(self) -> int:
        """Bytes of one code."""
        return int(self._ivf.code_size)

    def empty_copy(self) -> Codes:
        """Return a trained copy with no images, to be filled apart and merged."""
        import faiss

        copy = faiss.clone_index(self._index)
        copy.reset()
        return Codes(copy)

    def add(self, vectors: Floats, slots: Slots) -> float:
        """Add images.

        Returns:
            The sum of their squared distances from the centres of their lists.
        """
        if not len(slots):
            return 0.0
        import faiss

        small = self._small(vectors)
        lists, distances = assign(small, self._centres)
        slots = np.ascontiguousarray(slots, np.int64)
        self._ivf.add_core(len(slots), faiss.swig_ptr(small), faiss.swig_ptr(slots), faiss.swig_ptr(lists))
        self._index.ntotal = self._ivf.ntotal
        return float(distances.sum(dtype=np.float64))

    def _small(self, vectors: Floats) -> Floats:
        """Return vectors in the space of the codes; FAISS's own projection takes four times as long."""
        return vectors @ self._axes + self._shift

    @cached_property
    def _centres(self) -> Floats:
        import faiss

        flat = faiss.downcast_index(self._ivf.quantizer)
        centres: Floats = flat.reconstruct_n(0, self.lists)
        return centres

    def merge(self, other: Codes) -> None:
        """Take over the images of a copy, whose slots are others; the copy is empty afterwards."""
        self._ivf.merge_from(other._ivf, 0)
        self._index.ntotal = self._ivf.ntotal

    def remove(self, slots: Slots, n_slots: int) -> int:
        """Remove images; returns how many were there."""
        import faiss

        selector = faiss.IDSelectorBitmap(Allowed(slots, n_slots).bits)
        removed = int(self._ivf.remove_ids(selector))
        self._index.ntotal = self._ivf.ntotal
        return removed

    def slots(self) -> Slots:
        """Return the slots of all images, in no order."""
        import faiss

        found = []
        for number in range(self.lists):
            size = self._ivf.invlists.list_size(number)
            if size:
                found.append(faiss.rev_swig_ptr(self._ivf.invlists.get_ids(number), size).copy())
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def candidates(self, queries: Floats, depth: int, *, nprobe: int) -> Slots:
        """Return the slots whose codes are nearest, shape (Q, depth); -1 where there are no more.

        Args:
            queries: Shape (Q, D).
            depth: How many.
            nprobe: Lists to look into.
        """
        parameters = _parameters(min(nprobe, self.lists), None)
        _, slots = self._index.search(np.ascontiguousarray(queries, np.float32), depth, params=parameters)
        return slots  # type: ignore[no-any-return]


class Refined:
    """Codes with the exact vectors behind them: one call of FAISS finds candidates and ranks them.

    One call, because each leaves Python's lock once: with a NumPy step between two calls, threads that search
    side by side wait for each other. Threads may share it.

    Args:
        codes: What finds candidates.
        vectors: Where they are ranked; must stay in memory.
    """

    def __init__(self, codes: Codes, vectors: Vectors) -> None:
        import faiss

        exact = vectors.as_faiss()
        base, count, rows = codes.faiss_index, codes.count, exact.ntotal
        # Joined empty and of one metric, as FAISS wants them: but slots without an image have no code, and
        # distances of codes only choose candidates, whose ranks are inner products.
        base.ntotal = exact.ntotal = 0
        exact.metric_type = base.metric_type
        self._index = faiss.IndexRefine(base, exact)
        base.ntotal = count
        exact.ntotal = self._index.ntotal = rows
        exact.metric_type = self._index.metric_type = faiss.METRIC_INNER_PRODUCT
        self._kept = codes, vectors, exact

    def search(
        self, queries: Floats, k: int, *, depth: int, nprobe: int, allowed: Allowed | None
    ) -> tuple[Floats, Slots]:
        """Return the `k` nearest of `depth` candidates by exact scores, best first, each of shape (Q, k).

        Where fewer candidates are found, a slot is -1 for each that is missing, and the others are not the
        best: look into more lists.

        Args:
            queries: Shape (Q, D).
            k: How many.
            depth: Candidates, at least `k`, and not more than there are.
            nprobe: Lists to look into.
            allowed: Which slots count; all by default.
        """
        import faiss

        factor = (depth + 0.5) / k  # FAISS cuts k · factor to a whole number
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=factor, base_index_params=_parameters(nprobe, allowed)
        )
        scores, slots = self._index.search(queries, k, params=parameters)
        return scores, slots


def _read(read: Callable[[], Any]) -> Any:
    import faiss

    try:
        index = read()
    except RuntimeError as error:
        raise ValueError(str(error).strip().rpartition("\n")[2]) from None
    if not isinstance(index, faiss.IndexPreTransform) or faiss.try_extract_index_ivf(index) is None:
        raise ValueError("it is not a projection and an inverted file")
    return index


def _parameters(nprobe: int, allowed: Allowed | None) -> Any:
    import faiss

    selector = None if allowed is None else faiss.IDSelectorBitmap(allowed.bits)
    inner = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
    return faiss.SearchParametersPreTransform(index_params=inner)


def _principal_axes(sample: Floats | Halves) -> tuple[Floats, Floats]:
    """Return the axes that keep most of the variance, (D, d), and what moves their centre to 0, (d,)."""
    rows = sample[:: -(-len(sample) // _AXES_ROWS)].astype(np.float32)
    centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows -= centre
    values, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    kept = np.cumsum(values[::-1]) / max(float(values.sum()), 1e-30)
    needed = int(np.searchsorted(kept, _KEPT_VARIANCE)) + 1
    d = sample.shape[1]
    dim = min(d, max(_LEAST_CODE_DIM, -(-needed // _CODE_STEP) * _CODE_STEP))
    if dim % _PQ_DIMS_A_BYTE:
        dim = d  # tiny models: nothing to save
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :dim], np.float32)
    return axes, -(centre @ axes)
