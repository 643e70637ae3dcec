"""A manifest must name each image once; found out for any number of rows within bounded memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pyarrow as pa

from tagger.errors import RunError, SourceError
from tagger.spill import open_database, spill_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Lined = tuple[pa.Table, Sequence[int]]
    """A table with `image_id`, and the line of each of its rows."""

_SCHEMA: Final = pa.schema([("image_id", pa.string()), ("line", pa.int64())])
_MEMORY: Final = "1GB"
_TWICE: Final = """
    CREATE TABLE twice AS
    SELECT h FROM seen GROUP BY h HAVING count(*) > 1 ORDER BY min(line) LIMIT 1000
"""
_REPEATED: Final = """
    SELECT image_id, list(line ORDER BY line)[:5] FROM ids SEMI JOIN twice ON hash(image_id) = h
    GROUP BY image_id HAVING count(*) > 1 ORDER BY min(line) LIMIT 3
"""


def refuse_repeats(tables: Callable[[], Iterator[Lined]], uri: str, cache: Path) -> int:
    """Read a manifest to its end and refuse it if an image_id comes twice.

    Only 64-bit hashes of the ids are kept, on disk where memory does not hold them; a second reading tells
    equal ids from equal hashes.

    Args:
        tables: Begins to read the manifest.
        uri: Address of the manifest, for the message.
        cache: The cache folder, for temporary files.

    Returns:
        The number of rows.

    Raises:
        SourceError: Names the first repeated ids and their lines.
        RunError: There is no room for temporary files.
    """
    with spill_folder(cache, f"manifest-{uuid4().hex}") as folder, _explained(folder):
        database = open_database(f"{folder}/ids.duckdb", memory_limit=_MEMORY)
        try:
            database.execute("SET preserve_insertion_order = false")
            _run(database, tables, "CREATE TABLE seen AS SELECT hash(image_id) AS h, line FROM ids")
            database.execute(_TWICE)
            repeated: list[tuple[str, list[int]]] = []
            if _one(database, "SELECT count(*) FROM twice"):
                repeated = _run(database, tables, _REPEATED)
            rows: int = _one(database, "SELECT count(*) FROM seen")
        finally:
            database.close()
    if repeated:
        shown = "; ".join(f"{name} in lines {', '.join(map(str, lines))}" for name, lines in repeated)
        raise SourceError(f"{uri} names an image_id more than once: {shown}")
    return rows


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise RunError(
            f"reading the manifest needs room to work in {folder.parent}, and got: "
            f"{str(error).splitlines()[0]}; free some space there, or name another folder in TAGGER_CACHE"
        ) from None


def _one(database: Any, query: str) -> Any:
    return database.execute(query).fetchall()[0][0]


def _run(database: Any, tables: Callable[[], Iterator[Lined]], query: str) -> Any:
    """Run a query over the view `ids`; an error of reading comes out as itself, not as DuckDB's."""
    import duckdb

    failures: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table, lines in tables():
                columns = [table.column("image_id"), pa.array(lines, pa.int64())]
                yield from pa.Table.from_arrays(columns, schema=_SCHEMA).to_batches()
        except BaseException as error:
            failures.append(error)
            raise

    database.register("ids", pa.RecordBatchReader.from_batches(_SCHEMA, batches()))
    try:
        return database.execute(query).fetchall()
    except (duckdb.Error, pa.ArrowException):
        if failures:
            raise failures[0] from None
        raise
    finally:
        database.unregister("ids")
