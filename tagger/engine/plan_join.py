"""Compares a listing with the rows a collection has, in DuckDB, on disk where memory ends."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa

from tagger.errors import SETTLED_CODES, RunError
from tagger.spill import open_database

_LOAD_ROWS: Final = 262_144
"""Rows handed to DuckDB at once: above its row group of 122,880, so that they bypass its write-ahead log."""
_READ_ROWS: Final = 16_384

VANISHED_SCHEMA: Final = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("part", pa.string())])
"""Rows of the table that the source no longer has."""


class SettledRows:
    """The rows a collection has, as one on-disk table that windows of a listing are joined with.

    Built on the driver from the few columns the plan needs. A bitmap remembers which rows were listed,
    one bit each, so that `vanished` needs no second join.

    Args:
        batches: Columns image_id, uri, etag, status, error, model_id, part; one row per image.
        model_id: Rows of another model are never settled; None compares no model.
        retry_failed: Settled failures come back too.
        spill_dir: Folder for the temporary database; a folder of its own is made inside.
        memory_limit_bytes: DuckDB spills above this.

    Raises:
        RunError: `spill_dir` is full or cannot be written.
    """

    def __init__(
        self,
        batches: Iterator[pa.RecordBatch],
        *,
        model_id: str | None,
        retry_failed: bool,
        spill_dir: Path,
        memory_limit_bytes: int,
    ) -> None:
        self._spill_dir = spill_dir
        with self._explained():
            spill_dir.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="tagger-plan-", dir=spill_dir))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._db = open_database(
                str(self._folder / "plan.duckdb"),
                memory_limit=f"{max(memory_limit_bytes, 64 << 20)}B",
                temp_directory=str(self._folder / "spill"),
                threads=2,  # the CNN wants the other cores
                preserve_insertion_order=False,  # every read below says its order
                autoinstall_known_extensions=False,
                autoload_known_extensions=False,
            )
        self._load(batches, model_id, retry_failed=retry_failed)
        self._listed = np.zeros((self.rows + 7) // 8, dtype=np.uint8)
        self._begin_window()

    def _load(self, batches: Iterator[pa.RecordBatch], model_id: str | None, *, retry_failed: bool) -> None:
        with self._explained():
            # A uri is nearly always the image_id: kept only where it differs.
            self._db.execute(
                "CREATE TABLE existing (image_id VARCHAR, other_uri VARCHAR, etag VARCHAR, part VARCHAR,"
                " settled BOOLEAN, error VARCHAR)"
            )
        insert = (
            "INSERT INTO existing SELECT image_id, CASE WHEN uri <> image_id THEN uri END, etag, part,"
            " coalesce((status = 'tagged' OR list_contains($codes, error))"
            " AND ($model IS NULL OR model_id = $model), false),"
            " CASE WHEN NOT list_contains($settled, error) THEN error END FROM loading"
        )
        settled = sorted(SETTLED_CODES)
        codes: list[str] = [] if retry_failed else settled
        for table in _gathered(batches, _LOAD_ROWS):
            with self._explained(), self._registered("loading", table):
                self._db.execute(insert, {"codes": codes, "settled": settled, "model": model_id})
        self.rows = self._count("existing")
        self._named_by_manifests = self._count("existing WHERE other_uri IS NOT NULL") > 0

    def _count(self, what: str) -> int:
        # fetchall, not fetchone: DuckDB refuses the next statement until a result was read to its end.
        return int(self._db.execute(f"SELECT count(*) FROM {what}").fetchall()[0][0])  # noqa: S608

    def _begin_window(self) -> None:
        self._db.execute(
            "CREATE OR REPLACE TEMP TABLE listing"
            " (seq BIGINT, image_id VARCHAR, uri VARCHAR, etag VARCHAR, size_bytes BIGINT)"
        )
        self._staged = 0

    def stage(self, tables: Sequence[pa.Table]) -> None:
        """Add listed images (image_id, uri, etag, size_bytes) to the window that is open."""
        if not tables:
            return
        table = pa.concat_tables(tables)
        seq = pa.array(np.arange(self._staged, self._staged + table.num_rows))
        with self._explained(), self._registered("staging", table.add_column(0, "seq", seq)):
            self._db.execute("INSERT INTO listing SELECT * FROM staging")
        self._staged += table.num_rows

    def join(self) -> tuple[int, Iterator[pa.Table]]:
        """Close the window and compare it with the table.

        Returns:
            How many images are settled, and the others as tables of the plan's columns: new images first
            in listing order, then the known ones by the part that holds their old row. Take all of them
            before the next `stage`.
        """
        with self._explained():
            self._db.execute(
                "CREATE OR REPLACE TEMP TABLE matched AS SELECT l.seq, e.rowid AS place, e.part, e.error,"
                " coalesce(e.settled AND (l.etag IS NULL OR l.etag = e.etag), false) AS settled"
                " FROM listing l JOIN existing e ON l.image_id = e.image_id"
            )
            self._mark_listed("SELECT place FROM matched")
            if self._named_by_manifests:  # listed under its address, an image still has the row of that name
                self._mark_listed("SELECT e.rowid FROM listing l JOIN existing e ON l.uri = e.other_uri")
            # One row per image even where a damaged table holds two.
            self._db.execute(
                "CREATE OR REPLACE TEMP TABLE matched AS SELECT seq, min(part) AS part,"
                " min(error) AS error, bool_or(settled) AS settled FROM matched GROUP BY seq"
            )
            skipped = self._count("matched WHERE settled")
        return skipped, self._unsettled()

    def _mark_listed(self, places: str) -> None:
        for batch in self._db.sql(places).to_arrow_reader(_READ_ROWS):
            place = batch.column(0).to_numpy()
            np.bitwise_or.at(self._listed, place >> 3, np.uint8(1) << (place & 7).astype(np.uint8))

    def _unsettled(self) -> Iterator[pa.Table]:
        with self._explained():
            reader = self._db.sql(
                "SELECT l.image_id, l.uri, l.etag, l.size_bytes, m.part AS old_part, m.error AS old_error"
                " FROM listing l LEFT JOIN matched m ON l.seq = m.seq"
                " WHERE NOT coalesce(m.settled, false) ORDER BY m.part NULLS FIRST, l.seq"
            ).to_arrow_reader(_READ_ROWS)
        yield from self._tables(reader)
        self._begin_window()

    def vanished(self, covers: Callable[[str], bool]) -> Iterator[pa.Table]:
        """Give the rows whose uri lies under the source and was not listed (`VANISHED_SCHEMA`)."""
        with self._explained():
            reader = self._db.sql(
                "SELECT image_id, coalesce(other_uri, image_id) AS uri, part, rowid AS place FROM existing"
                " ORDER BY rowid"
            ).to_arrow_reader(_READ_ROWS)
        for table in self._tables(reader):
            place = table["place"].to_numpy()
            gone = (self._listed[place >> 3] >> (place & 7).astype(np.uint8)) & 1 == 0
            rows = table.drop_columns("place").filter(pa.array(gone))
            under = [covers(uri) for uri in rows["uri"].to_pylist()]
            if any(under):
                yield rows.filter(pa.array(under)).cast(VANISHED_SCHEMA)

    def close(self) -> None:
        """Remove the temporary database."""
        self._db.close()
        self._remove()

    def _tables(self, reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
        while True:
            with self._explained():
                batch = next(reader, None)
            if batch is None:
                return
            yield pa.Table.from_batches([batch])

    @contextmanager
    def _registered(self, name: str, table: pa.Table) -> Iterator[None]:
        self._db.register(name, table)
        try:
            yield
        finally:
            self._db.unregister(name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise RunError(
                f"the plan needs room to work in {self._spill_dir}, and got: {str(error).splitlines()[0]};"
                " free some space there and run the same command again"
            ) from error


def _gathered(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Join small batches into tables of at least `rows` rows, but for the last."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= rows:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)
