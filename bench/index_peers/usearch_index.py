"""USearch 2, as its README writes it: https://github.com/unum-cloud/usearch (read 2026-11-25).

Connectivity 16, expansion_add 128 (its default), float16, cosine. Its Python package has no filter: with one,
more images are asked for than are wanted, and those that the filter does not admit are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from usearch.index import Index

from bench.index_peers.worker import Job, K, serve

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_BLOCK_ROWS = 16_384


class Usearch:
    def __init__(self, job: Job) -> None:
        self._job = job

    def build(self) -> dict[str, Any]:
        index = Index(ndim=self._job.dim, metric="cos", dtype="f16", connectivity=16, expansion_add=128)
        vectors = self._job.load_vectors()
        for start in range(0, self._job.rows, _BLOCK_ROWS):
            some = np.arange(start, min(self._job.rows, start + _BLOCK_ROWS))
            index.add(some, np.ascontiguousarray(vectors[some]), threads=self._job.cores)
        self._index = index
        self._allowed = self._job.load_allowed()
        return {
            "settings": f"connectivity 16, expansion_add 128, float16 ({index.hardware_acceleration})",
        }

    def use(self, effort: dict[str, Any], tag: str | None) -> None:
        self._index.expansion_search = effort["expansion"]
        self._count = effort.get("count", K)
        self._filtered = tag is not None

    def search(self, query: Floats) -> Any:
        keys = self._index.search(query, self._count, threads=1).keys
        return keys[self._allowed[keys]][:K] if self._filtered else keys

    def keys(self, found: Any) -> list[int]:
        return [int(key) for key in found]


if __name__ == "__main__":
    serve(Usearch)
