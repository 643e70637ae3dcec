"""Stage 3: finished rows of some chunks to one Parquet part, and a receipt (CPU, on any node)."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection import Part, part_name, write_part
from tagger.collection.schema import SCHEMA
from tagger.engine.blocks import bytes_of, chunk_number, merge_seconds, table_of
from tagger.engine.timeline import Span, load_spans
from tagger.errors import SETTLED_CODES
from tagger.storage import StorageOptions, open_store


@dataclass(frozen=True)
class Receipt:
    """What the driver learns of a group of chunks; the rows themselves never pass through it.

    Attributes:
        parts: The part in each collection of the run.
        chunks: (number, rows) of every chunk inside.
        replaced: For the first collection: old part to the ids whose rows in it are replaced.
        image_ids: Every image, when the run writes several collections: the plan knows the old parts of
            the first one only.
        tagged: Rows with status `tagged`.
        errors: Failed rows by code.
        read_failures: Failed rows whose file was never read, for a reason that a later run may not meet
            again: storage, not the image.
        known_failures: Of these, rows that failed for the same reason in an earlier run: no news.
        seconds: Time spent by stage, added up over the chunks.
        spans: When and where each chunk was at which stage.
    """

    parts: tuple[Part, ...]
    chunks: tuple[tuple[int, int], ...]
    replaced: dict[str, list[str]] = field(default_factory=dict)
    image_ids: tuple[str, ...] = ()
    tagged: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    read_failures: int = 0
    known_failures: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()

    @property
    def rows(self) -> int:
        """Images in the group."""
        return sum(rows for _, rows in self.chunks)


def write_group(
    blocks: list[pa.Table], *, collections: tuple[str, ...], options: StorageOptions, run_id: str
) -> Receipt:
    """Write the rows of some chunks as one part in every collection of the run.

    Args:
        blocks: One block a chunk, in any order; rows are written in plan order.
        collections: Addresses of the collections; block column `rows_<n>` belongs to the n-th.
        options: How to reach their storage.
        run_id: The run that writes.
    """
    started = time.perf_counter()
    # A chunk that came twice is written once: the ledger sees receipts, and not inside of them.
    blocks = [block for _, block in sorted({chunk_number(block): block for block in blocks}.items())]
    parts = []
    for n, uri in enumerate(collections):
        tables = [table_of(block, f"rows_{n}") for block in blocks]
        rows = pa.concat_tables(tables)
        parts.append(write_part(open_store(uri, options), rows.select(SCHEMA.names), part_name(run_id)))
        if n == 0:
            first, sizes = rows, [table.num_rows for table in tables]
    unread = _unread(first)
    seconds = merge_seconds(*(json.loads(bytes_of(block, "seconds")) for block in blocks))
    return Receipt(
        parts=tuple(parts),
        chunks=tuple(zip(map(chunk_number, blocks), sizes, strict=True)),
        replaced=_replaced(first),
        image_ids=tuple(first.column("image_id").to_pylist()) if len(collections) > 1 else (),
        tagged=_count(pc.equal(first.column("status"), "tagged")),
        errors=dict(Counter(first.column("error").drop_null().to_pylist())),
        read_failures=unread.num_rows,
        known_failures=_count(pc.equal(unread.column("error"), unread.column("old_error"))),
        seconds=merge_seconds(seconds, {"write": time.perf_counter() - started}),
        spans=tuple(
            span._replace(images=rows)
            for block, rows in zip(blocks, sizes, strict=True)
            if "spans" in block.column_names
            for span in load_spans(bytes_of(block, "spans"))
        ),
    )


def _unread(rows: pa.Table) -> pa.Table:
    settled = pc.is_in(rows.column("error"), value_set=pa.array(sorted(SETTLED_CODES)))
    failed = pc.and_(rows.column("error").is_valid(), pc.invert(settled))
    return rows.filter(pc.and_(failed, rows.column("sha256").is_null()))


def _count(holds: pa.ChunkedArray) -> int:
    return int(pc.sum(holds).as_py() or 0)


def _replaced(rows: pa.Table) -> dict[str, list[str]]:
    again = rows.filter(rows.column("old_part").is_valid()).select(["old_part", "image_id"])
    replaced: dict[str, list[str]] = {}
    pairs: list[dict[str, Any]] = again.to_pylist()
    for pair in pairs:
        replaced.setdefault(pair["old_part"], []).append(pair["image_id"])
    return replaced
