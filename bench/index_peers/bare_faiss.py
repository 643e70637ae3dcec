"""FAISS alone, with the index that tagger made: the least that such a search can cost.

One call of FAISS's own `IndexRefine` does it all: the same inverted lists and codes, the same lists looked
into, and as many candidates scored again by FAISS from the same vectors in float16. They are in memory here;
there are no ids, no words, no filter, and no image is ever removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.index_peers.worker import Job, K, serve
from bench.lookalike import key_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_BLOCK_ROWS = 65_536


class BareFaiss:
    def __init__(self, job: Job) -> None:
        self._job = job  # OMP_NUM_THREADS is 1: that holds for every client's thread

    def build(self) -> dict[str, Any]:
        import faiss

        from tagger.collection import Collection
        from tagger.index import Index
        from tagger.index.ranking import FIRST

        index = Index.open(Collection.open(self._job.collection))
        if index.codes is None:
            raise ValueError("a flat index has no codes")
        codes = index.codes.faiss_index
        exact = faiss.IndexScalarQuantizer(codes.d, faiss.ScalarQuantizer.QT_fp16, codes.metric_type)
        count, codes.ntotal = codes.ntotal, 0  # joined empty: it refuses vectors at slots without an image
        self._faiss = faiss.IndexRefine(codes, exact)
        codes.ntotal = self._faiss.ntotal = count
        for start in range(0, len(index.vectors), _BLOCK_ROWS):
            exact.add(index.vectors.halves[start : start + _BLOCK_ROWS].astype(np.float32))
        self._parts = codes, exact  # for as long as they are used
        inner = faiss.SearchParametersIVF(nprobe=index.manifest.nprobe)
        outer = faiss.SearchParametersPreTransform(index_params=inner)
        depth = index.depth(FIRST)
        self._parameters = faiss.IndexRefineSearchParameters(k_factor=depth / K, base_index_params=outer)
        slots = np.arange(len(index.vectors))
        there = index.ids.places(slots) >= 0
        self._keys = np.full(len(slots), -1)
        self._keys[there] = [key_of(image_id) for image_id in index.ids.image_ids(slots[there])]
        return {"nprobe": index.manifest.nprobe, "depth": depth}

    def use(self, effort: dict[str, Any], tag: str | None) -> None:
        if effort or tag:
            raise ValueError("bare FAISS has one effort and no filter here")

    def search(self, query: Floats) -> Any:
        return self._faiss.search(query[None], K, params=self._parameters)

    def keys(self, found: Any) -> list[int]:
        return [int(key) for key in self._keys[found[1][0]]]


if __name__ == "__main__":
    serve(BareFaiss)
