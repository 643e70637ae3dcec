"""tagger: an index that `tagger index` made, opened and asked through its own functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.index_peers.worker import Job, K, memory, serve
from bench.lookalike import key_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


class Tagger:
    """`effort` is `{"path": "ranking"}` for the ranks alone, or `{"path": "search"}` for a whole query."""

    def __init__(self, job: Job) -> None:
        import faiss  # noqa: F401 - the baseline of memory is a process that has it
        import pyarrow.parquet  # noqa: F401

        from tagger.collection import Collection
        from tagger.index import Filter, Index
        from tagger.search import search

        self._collection = Collection.open(job.collection)
        self._open, self._filter, self._search = Index.open, Filter, search

    def build(self) -> dict[str, Any]:
        from tagger.index.ranking import FIRST

        before = memory()
        self._index = self._open(self._collection)
        after = memory()
        manifest = self._index.manifest
        return {
            "kind": manifest.kind,
            "recall_at_10": manifest.recall_at_10,
            "nprobe": manifest.nprobe,
            "depth": self._index.depth(FIRST) if self._index.codes else 0,
            "code_bytes": self._index.codes.code_bytes if self._index.codes else 0,
            "lists": self._index.codes.lists if self._index.codes else 0,
            "count": manifest.count,
            "bytes": manifest.size_bytes,
            "own_bytes": after["own"] - before["own"],
            "files": {entry.name: entry.size_bytes for entry in manifest.files},
        }

    def use(self, effort: dict[str, Any], tag: str | None) -> None:
        self._asked = self._filter(tags_any=(tag,)) if tag else self._filter()
        self._whole = effort["path"] == "search"

    def search(self, query: Floats) -> Any:
        if self._whole:
            return self._search(self._index, embedding=query, k=K, filter=self._asked)
        return self._index.ranking(self._index.query(query), self._asked).first(K)

    def keys(self, found: Any) -> list[int]:
        if self._whole:
            return [key_of(match.image_id) for match in found.matches]
        return [key_of(image_id) for image_id in self._index.ids.image_ids(found[1][:K])]


if __name__ == "__main__":
    serve(Tagger)
