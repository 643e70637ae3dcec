"""LanceDB, as its documentation writes it (both pages read 2026-11-25):
https://docs.lancedb.com/indexing/vector-index and https://docs.lancedb.com/search/filtering.

A table on local disk with a vector index, vectors of float16, and a BITMAP index on the column that is
filtered (before the search, which is its default). The effort names the kind of index: the table is there
once for each. IVF_HNSW_SQ is what the first page recommends for recall and latency, IVF_RQ for filters.
The default, IVF_PQ, was slower than both at equal recall and took ten times as long to build. One query may
use all cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import Bitmap, HnswSq, IvfRq

from bench.index_peers.worker import Job, K, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

KINDS = {
    "IVF_HNSW_SQ": HnswSq(distance_type="dot", num_partitions=1, m=16, ef_construction=100),
    "IVF_RQ": IvfRq(distance_type="dot"),
}
_BLOCK_ROWS = 16_384


class LanceDb:
    def __init__(self, job: Job) -> None:
        self._job = job

    def build(self) -> dict[str, Any]:
        database = lancedb.connect(self._job.folder / "lance")
        vector = pa.list_(pa.float16(), self._job.dim)
        schema = pa.schema([("key", pa.int64()), ("sale", pa.int8()), ("vector", vector)])
        self._tables = {}
        for kind, config in KINDS.items():
            table = database.create_table(kind.lower(), self._batches(schema), schema=schema)
            table.create_index("vector", config=config)
            table.create_index("sale", config=Bitmap())
            self._tables[kind] = database.open_table(kind.lower())
        return {
            "settings": "both of IVF_HNSW_SQ (1 partition, m 16, ef_construction 100) and IVF_RQ, float16"
        }

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        vectors, allowed = self._job.load_vectors(), self._job.load_allowed()
        for start in range(0, self._job.rows, _BLOCK_ROWS):
            rows = slice(start, min(self._job.rows, start + _BLOCK_ROWS))
            flat = pa.array(np.ascontiguousarray(vectors[rows]).reshape(-1))
            columns = [
                pa.array(np.arange(rows.start, rows.stop)),
                pa.array(allowed[rows].astype(np.int8)),
                pa.FixedSizeListArray.from_arrays(flat, self._job.dim),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def use(self, effort: dict[str, Any], tag: str | None) -> None:
        self._table = self._tables[effort["index"]]
        self._effort, self._filtered = effort, tag is not None

    def search(self, query: Floats) -> Any:
        asked = self._table.search(query, vector_column_name="vector").distance_type("dot").limit(K)
        if self._filtered:
            asked = asked.where("sale = 1", prefilter=True)
        effort = self._effort
        if "nprobes" in effort:
            asked = asked.nprobes(effort["nprobes"])
        if "ef" in effort:
            asked = asked.ef(effort["ef"])
        if "refine" in effort:
            asked = asked.refine_factor(effort["refine"])
        return asked.select(["key", "_distance"]).to_arrow()

    def keys(self, found: Any) -> list[int]:
        return found.column("key").to_pylist()


if __name__ == "__main__":
    serve(LanceDb)
