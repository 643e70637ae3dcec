"""ids.parquet: which image has which slot, and the facts about it that a search needs.

Rows are sorted by image_id, so that an id is found by halving and equal contents make equal files.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger.errors import IndexUnusable
from tagger.index.manifest import REMEDY
from tagger.spill import open_database

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from tagger.index.vectors import Slots

IDS_NAME: Final = "ids.parquet"

FACTS: Final = ("etag", "tagged_at", "width_px", "height_px", "sha256", "phash", "uri")
"""Columns of the tags table that become those beside the id."""

SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("slot", pa.int64(), nullable=False),
        ("etag", pa.string()),
        pa.field("tagged_at", pa.timestamp("us", tz="UTC"), nullable=False),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("content", pa.uint64()),
        ("phash", pa.uint64()),
        ("uri", pa.string()),
    ]
)
"""`content` is the first 64 bits of the sha256: equal for equal bytes. `uri` is null where the image_id
is it."""

FACTS_SCHEMA: Final = SCHEMA.remove(SCHEMA.get_field_index("slot"))

_GROUP_ROWS: Final = 131_072
_JOIN_MEMORY: Final = "2GB"
_ENCODING: Final = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["tagged_at", "width_px", "height_px"],
    "row_group_size": _GROUP_ROWS,
    "store_schema": False,
}


def write_ids(path: Path, table: pa.Table) -> None:
    """Write rows that are sorted by image_id."""
    pq.write_table(table.cast(SCHEMA), path, **_ENCODING)


def read_ids(data: npt.NDArray[np.uint8]) -> pa.Table:
    """Read the file's bytes."""
    return pq.read_table(pa.BufferReader(pa.py_buffer(data)), schema=SCHEMA)


class Ids:
    """Image ids by slot, slots by image id; a place is a row of the file.

    Args:
        table: Rows as in the file.
        n_slots: Slots of the index.

    Raises:
        IndexUnusable: Two rows have one slot, or one has none of them.
    """

    def __init__(self, table: pa.Table, n_slots: int) -> None:
        self._table = table
        self.slots: Slots = np.asarray(table.column("slot").to_numpy(), np.int64)
        self._place_of: Slots = np.full(n_slots, -1, np.int64)
        first, last = (int(self.slots.min()), int(self.slots.max())) if len(self.slots) else (0, -1)
        within = first >= 0 and last < n_slots
        if within:
            self._place_of[self.slots] = np.arange(len(self.slots))
        if not within or np.count_nonzero(self._place_of >= 0) != len(self.slots):
            raise IndexUnusable(f"the slots of ids.parquet are not those of the vectors: {REMEDY}")
        ids = table.column("image_id").combine_chunks().cast(pa.large_string())
        self._ids = ids if isinstance(ids, pa.Array) else pa.concat_arrays(ids.chunks)
        buffers = self._ids.buffers()
        self._offsets = np.frombuffer(buffers[1], np.int64, len(self._ids) + 1, self._ids.offset * 8)
        self._text = memoryview(buffers[2] or b"")

    def __len__(self) -> int:
        return len(self.slots)

    def find(self, image_id: str) -> int | None:
        """Return the slot of an image, or None if it is not in the index."""
        wanted = image_id.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low < len(self) and self._bytes(low) == wanted:
            return int(self.slots[low])
        return None

    def places(self, slots: Slots) -> npt.NDArray[np.int64]:
        """Return the rows of slots; -1 for those of no image."""
        return self._place_of[slots]

    def are_all(self, slots: Slots) -> bool:
        """Tell whether these are the slots of all images, each once and in any order."""
        if len(slots) != len(self) or (
            len(slots) and not 0 <= slots.min() <= slots.max() < len(self._place_of)
        ):
            return False
        seen = np.zeros(len(self), np.bool_)
        places = self._place_of[slots]
        seen[places[places >= 0]] = True
        return bool(seen.all())

    def image_ids(self, slots: Slots) -> list[str]:
        """Return the ids of slots that have an image."""
        return [self._bytes(place).decode("utf-8", "surrogatepass") for place in self.places(slots).tolist()]

    def take_ids(self, slots: Slots) -> pa.Array:
        """Return the ids of slots that have an image, as an Arrow array."""
        return self._ids.take(pa.array(self.places(slots)))

    def facts(self, place: int) -> dict[str, Any]:
        """Return the row of a place."""
        found: dict[str, Any] = self._table.slice(place, 1).to_pylist()[0]
        return found

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column, in the order of the file."""
        return self._table.column(name)

    @cached_property
    def phash(self) -> npt.NDArray[np.uint64]:
        """Perceptual hashes by place; 0 where there is none, see `has_phash`."""
        return _filled(self._table.column("phash"))

    @cached_property
    def has_phash(self) -> npt.NDArray[np.bool_]:
        """Which places have a perceptual hash."""
        found: npt.NDArray[np.bool_] = self._table.column("phash").is_valid().to_numpy()
        return found

    @cached_property
    def content(self) -> npt.NDArray[np.uint64]:
        """The first 64 bits of the sha256 by place; 0 where there is none."""
        return _filled(self._table.column("content"))

    def _bytes(self, place: int) -> bytes:
        return bytes(self._text[self._offsets[place] : self._offsets[place + 1]])


def _filled(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    return np.asarray(pc.fill_null(column, pa.scalar(0, pa.uint64())).to_numpy(), np.uint64)


def facts_of(rows: pa.RecordBatch) -> pa.Table:
    """Return what ids.parquet says of rows of the tags table, but for their slots."""
    columns = {name: rows.column(name) for name in SCHEMA.names if name in rows.schema.names}
    columns["content"] = _first_64_bits(pc.utf8_slice_codeunits(rows.column("sha256"), 0, 16))
    columns["phash"] = _first_64_bits(rows.column("phash"))
    same = pc.equal(rows.column("uri"), rows.column("image_id"))
    columns["uri"] = pc.if_else(same, pa.scalar(None, pa.string()), rows.column("uri"))
    return pa.table(columns, schema=FACTS_SCHEMA)


def _first_64_bits(digits: pa.Array) -> pa.Array:
    """Turn 16 hexadecimal digits a row into numbers; null for null, and for what is not that."""
    fits = pc.fill_null(pc.match_substring_regex(digits, "^[0-9a-f]{16}$"), False)
    text = "".join(pc.if_else(fits, digits, "0" * 16).to_pylist())
    numbers = np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)
    return pa.array(numbers, pa.uint64(), mask=~fits.to_numpy(zero_copy_only=False))


def changes(held: pa.Table, rows: pa.Table, spill_dir: Path) -> tuple[pa.Array, pa.Array]:
    """Compare the index with the table, by image_id, etag and tagged_at.

    Args:
        held: Rows of ids.parquet.
        rows: The table's tagged images: image_id, etag, tagged_at, and what else the caller needs.
        spill_dir: For what does not fit into memory.

    Returns:
        Positions in `rows` of images that are new or other than in the index, and positions in `held` of
        images that are gone or other than in the table; both ascending.
    """
    left = held.select(["image_id", "etag", "tagged_at"]).append_column(
        "place", pa.array(np.arange(len(held)))
    )
    right = rows.select(["image_id", "etag", "tagged_at"]).append_column(
        "place", pa.array(np.arange(len(rows)))
    )
    same = "l.image_id = r.image_id AND l.etag IS NOT DISTINCT FROM r.etag AND l.tagged_at = r.tagged_at"
    config: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "temp_directory": str(spill_dir),
        "memory_limit": _JOIN_MEMORY,
    }
    with open_database(**config) as database:
        database.register("l", left)
        database.register("r", right)

        def places(query: str) -> pa.Array:
            return database.sql(query).to_arrow_table().column(0).combine_chunks()

        fresh = places(f"SELECT place FROM r ANTI JOIN l ON {same} ORDER BY place")  # noqa: S608 - no input
        gone = places(f"SELECT place FROM l ANTI JOIN r ON {same} ORDER BY place")  # noqa: S608
    return fresh, gone
