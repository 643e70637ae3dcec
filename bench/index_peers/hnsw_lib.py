"""hnswlib 0.8, as its README writes it: https://github.com/nmslib/hnswlib (read 2026-11-25).

M = 16 and ef_construction = 100, inner product of vectors of length 1. Its filter is a Python function, which
is called for every image that the search meets; here it is that of a `bytes`, so that it runs no Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hnswlib
import numpy as np

from bench.index_peers.worker import Job, K, serve

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_BLOCK_ROWS = 16_384


class Hnswlib:
    def __init__(self, job: Job) -> None:
        self._job = job

    def build(self) -> dict[str, Any]:
        index = hnswlib.Index(space="ip", dim=self._job.dim)
        index.init_index(max_elements=self._job.rows, ef_construction=100, M=16)
        vectors = self._job.load_vectors()
        for start in range(0, self._job.rows, _BLOCK_ROWS):
            some = np.arange(start, min(self._job.rows, start + _BLOCK_ROWS))
            index.add_items(vectors[some].astype(np.float32), some, num_threads=self._job.cores)
        index.set_num_threads(1)
        self._index = index
        self._bytes = self._job.load_allowed().tobytes()
        return {"settings": "M 16, ef_construction 100, float32"}

    def use(self, effort: dict[str, Any], tag: str | None) -> None:
        self._index.set_ef(effort["ef"])
        self._filter = self._bytes.__getitem__ if tag else None

    def search(self, query: Floats) -> Any:
        return self._index.knn_query(query, K, num_threads=1, filter=self._filter)

    def keys(self, found: Any) -> list[int]:
        return [int(key) for key in found[0][0]]


if __name__ == "__main__":
    serve(Hnswlib)
