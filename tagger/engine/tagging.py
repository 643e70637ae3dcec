"""Stage 2: pixels to finished rows of the tags table (GPU or CPU)."""

import datetime as dt
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tagger.collection.schema import CATEGORY, SCHEMA, TAG
from tagger.engine.blocks import array_of, bytes_of, chunk_number, pack, table_of
from tagger.models import Model, PreparedModel, load
from tagger.scheduling import take_long_turns
from tagger.tags import Taxonomy, probabilities


@dataclass(frozen=True)
class TagSettings:
    """How one model's output becomes tags; one for each collection that the run writes.

    Attributes:
        prepared: The model, as made ready on the driver.
        taxonomy: Labels to tags and categories.
        threshold: Least score of a tag, in [0, 1].
        top_k: Most tags per image.
        run_id: Goes into every row.
        source: Goes into every tag: what the collection calls its model, which the same weights under another
            name do not change.
    """

    prepared: PreparedModel
    taxonomy: Taxonomy
    threshold: float
    top_k: int
    run_id: str
    source: str


class Tagger:
    """Runs the CNNs over chunks; lives in a model actor and never sees the bytes of a file.

    Rows: one in, one out, in plan order.
    Columns in: what `Fetcher` gives.
    Columns out: `rows_<n>`, the rows of collection n: `SCHEMA`, `old_part` and `old_error`.
    """

    def __init__(
        self, settings: tuple[TagSettings, ...], payloads: tuple[Mapping[str, bytes], ...], *, threads: int
    ) -> None:
        self._settings = settings
        take_long_turns()  # before the models start their threads, which take after this one
        self._models: list[Model] = [
            load(one.prepared, payload, threads=threads)
            for one, payload in zip(settings, payloads, strict=True)
        ]

    def __call__(self, block: pa.Table) -> pa.Table:
        """Tag one chunk."""
        started = time.perf_counter()
        rows = table_of(block, "rows")
        good = np.flatnonzero(rows.column("error").is_null().to_numpy())
        finished = {f"rows_{n}": self._rows(n, rows, good, block) for n in range(len(self._settings))}
        seconds = json.loads(bytes_of(block, "seconds")) | {"tag": time.perf_counter() - started}
        return pack(chunk_number(block), seconds=json.dumps(seconds).encode(), **finished)

    def _rows(self, n: int, rows: pa.Table, good: np.ndarray, block: pa.Table) -> pa.Table:
        settings = self._settings[n]
        side = settings.prepared.framing.size_px
        pixels = array_of(block, f"pixels_{n}", (rows.num_rows, side, side, 3))
        if len(good) < rows.num_rows:
            pixels = pixels[good]
        n_rows, dim = rows.num_rows, settings.prepared.dim
        if len(good):
            outputs = self._models[n](pixels)
            tags, categories = settings.taxonomy.assign(
                probabilities(outputs.logits, settings.prepared.activation),
                threshold=settings.threshold,
                top_k=settings.top_k,
                source=settings.source,
                activation=settings.prepared.activation,
            )
            flat = pa.array(np.ascontiguousarray(outputs.embedding).reshape(-1), pa.float32())
            offsets = pa.array(np.arange(0, (len(good) + 1) * dim, dim), pa.int32())
            embeddings = pa.ListArray.from_arrays(offsets, flat)
            norms = pa.array(outputs.norm, pa.float32())
        else:
            tags, categories = pa.array([], pa.list_(TAG)), pa.array([], pa.list_(CATEGORY))
            embeddings, norms = pa.array([], pa.list_(pa.float32())), pa.array([], pa.float32())
        where = np.full(n_rows, -1, np.int64)
        where[good] = np.arange(len(good))
        take = pa.array(where, pa.int64(), mask=where < 0)

        def spread(column: pa.Array) -> pa.Array:
            return column if len(good) == n_rows else column.take(take)

        now = dt.datetime.now(dt.UTC)
        made = {
            "status": pa.array(np.where(where < 0, "failed", "tagged").tolist(), pa.string()),
            "tags": spread(tags),
            "categories": spread(categories),
            "embedding": spread(embeddings),
            "embedding_norm": spread(norms),
            "model_id": pa.array([settings.prepared.model_id] * n_rows, pa.string()),
            "run_id": pa.array([settings.run_id] * n_rows, pa.string()),
            "tagged_at": pa.array([now] * n_rows, pa.timestamp("us", tz="UTC")),
        }
        columns = [made[name] if name in made else rows.column(name) for name in SCHEMA.names]
        table = pa.table([_cast(column, SCHEMA.field(i).type) for i, column in enumerate(columns)], SCHEMA)
        for name in ("old_part", "old_error"):
            table = table.append_column(name, rows.column(name))
        return table


def _cast(column: pa.Array | pa.ChunkedArray, to: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return column if column.type == to else column.cast(to)
