"""Parts: the Parquet files of the tags table, and the receipts that travel to the driver instead of rows."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger.collection.reading import read_row_groups
from tagger.collection.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Collection as Items

    from tagger.storage import Store

TAGS_FOLDER: Final = "tags"

ROW_GROUP_ROWS: Final = 4096
"""About 20 MB of embeddings in memory: what a reader of one group has to hold."""

_PAGE_BYTES: Final = 256 * 1024  # encodes fastest: a page stays in the cache between its filter and zstd
_ZSTD_LEVEL: Final = 1  # level 3 takes 1.5 times as long and comes out larger behind BYTE_STREAM_SPLIT

_FLOATS: Final = (
    "tags.list.element.score",
    "categories.list.element.score",
    "colors.list.element.fraction",
    "sharpness",
    "brightness",
    "embedding.list.element",
    "embedding_norm",
)
# Only where values repeat: on ids, hashes and hex colours a dictionary is built and thrown away again.
_DICTIONARY: Final = (
    "status",
    "error",
    "error_detail",
    "width_px",
    "height_px",
    "format",
    "tags.list.element.tag",
    "tags.list.element.source",
    "categories.list.element.tag",
    "colors.list.element.name",
    "model_id",
    "run_id",
    "tagged_at",
)
_ENCODING: Final[dict[str, Any]] = {
    "compression": "zstd",
    "compression_level": _ZSTD_LEVEL,
    "use_dictionary": list(_DICTIONARY),
    "column_encoding": dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT"),
    "data_page_size": _PAGE_BYTES,
    "write_statistics": ["image_id"],
    "write_page_checksum": True,  # a flipped bit is an error to the reader, not another embedding; costs 3 %
    "store_schema": False,  # plain Parquet: Arrow's own copy of the schema adds bytes and nothing else
}


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of the tags table; picklable, a few hundred bytes.

    Attributes:
        path: Name inside `tags/`, as the table's log has it.
        size_bytes: Size of the file; a commit checks it against the store.
        rows: Rows in the file.
        stats: Delta's statistics as JSON (numRecords, least and greatest image_id).
    """

    path: str
    size_bytes: int
    rows: int
    stats: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker hands to the driver for one part it has written.

    Attributes:
        part: The file.
        chunks: (chunk number, rows) of every chunk of the plan in the part; a part holds whole chunks.
        tagged: Rows with status `tagged`.
        failed: Rows with status `failed`.
    """

    part: Part
    chunks: tuple[tuple[int, int], ...] = ()
    tagged: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        if self.chunks and sum(rows for _, rows in self.chunks) != self.part.rows:
            raise ValueError(f"the chunks of {self.part.path} do not add up to its {self.part.rows} rows")


def part_name(run_id: str) -> str:
    """Return a name no other part has: the run, then a random number."""
    return f"{run_id}-{uuid.uuid4().hex}.parquet"


def part_key(path: str) -> str:
    """Return where the part `path` lies in the collection."""
    return f"{TAGS_FOLDER}/{path}"


class PartWriter:
    """Encodes a part in memory row group by row group, and stores it at the end."""

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        self._ends: list[str] = []

    def write(self, rows: pa.Table) -> None:
        """Append rows that have the types of `SCHEMA`; an empty table appends nothing."""
        if rows.num_rows == 0:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, SCHEMA, **_ENCODING)
        self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        self._rows += rows.num_rows
        ends = pc.min_max(rows.column("image_id")).as_py()
        self._ends = [min([ends["min"], *self._ends]), max([ends["max"], *self._ends])]

    def store(self, store: Store, name: str) -> Part | None:
        """Store the part; None, with nothing stored, when no row was written."""
        if self._writer is None:
            return None
        self._writer.close()
        data = self._sink.getvalue()
        store.put(part_key(name), data)
        stats = {
            "numRecords": self._rows,
            "minValues": {"image_id": self._ends[0]},
            "maxValues": {"image_id": self._ends[1]},
            "nullCount": {"image_id": 0},
        }
        text = json.dumps(stats, ensure_ascii=False, separators=(",", ":"))
        return Part(name, len(data), self._rows, text)


def write_part(store: Store, table: pa.Table, name: str) -> Part:
    """Encode rows as Parquet in memory and store them; the table does not know them until a commit.

    The same rows give the same bytes. Costs about 0.02 ms of CPU a row with 1280 embedding values.

    Args:
        store: The collection's root.
        table: Rows with the columns of `SCHEMA`, in any order of columns; kept in their order of rows.
        name: From `part_name`.

    Raises:
        ValueError: No rows, or rows that break the schema's rules: a bug of the caller.
    """
    writer = PartWriter()
    writer.write(conform(table))
    part = writer.store(store, name)
    if part is None:
        raise ValueError("a part holds at least one row")
    return part


def rewrite_part(store: Store, path: str, drop_ids: Items[str], *, name: str) -> Part | None:
    """Write the rows of a part that survive when some are replaced or removed.

    Reads and writes one row group at a time, so memory stays near the size of the file. Nothing is committed.

    Args:
        store: The collection's root.
        path: The live part.
        drop_ids: image_ids to leave out; every one must be in the part.
        name: Name of the new part, from `part_name`.

    Returns:
        The new part, or None when no row survives (nothing is written then).

    Raises:
        ValueError: Some of `drop_ids` are not in the part, so the caller's plan is not of this table.
    """
    drop = pa.array(sorted(drop_ids), pa.string())
    writer = PartWriter()
    dropped = 0
    for rows in read_row_groups(store, part_key(path)):
        survivors = rows.filter(pc.invert(pc.is_in(rows.column("image_id"), value_set=drop)))
        dropped += rows.num_rows - survivors.num_rows
        writer.write(survivors)
    if dropped != len(drop):
        raise ValueError(f"{path} holds {dropped} of the {len(drop)} rows to take out of it")
    return writer.store(store, name)


def conform(table: pa.Table) -> pa.Table:
    """Return `table` with exactly the columns and types of `SCHEMA`, its rules checked.

    Raises:
        ValueError: A column is missing, of another type, null where it may not be, or the combination of
            status, error and embedding is not one the table allows.
    """
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"rows lack the column {', '.join(missing)}")
    try:
        rows = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
    except (pa.ArrowException, ValueError) as error:  # ValueError: a null where none may be
        raise ValueError(f"rows do not fit the tags table: {error}") from error
    failed = pc.equal(rows.column("status"), "failed")
    if not pc.all(pc.or_(failed, pc.equal(rows.column("status"), "tagged")), min_count=0).as_py():
        raise ValueError("status must be tagged or failed")
    for name, null_when_failed in (("error", False), ("embedding", True), ("embedding_norm", True)):
        null = rows.column(name).is_null()
        wrong = pc.equal(null, failed) if not null_when_failed else pc.not_equal(null, failed)
        if pc.any(wrong, min_count=0).as_py():
            rule = "null exactly when the image failed" if null_when_failed else "set exactly then"
            raise ValueError(f"{name} must be {rule}")
    return rows
