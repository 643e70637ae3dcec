"""What lists and filters need of each product, put into a DuckDB file of the server's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.catalog.flags import FLAG, FLAGS
from tagger.catalog.table import cell_text, values_of
from tagger.errors import RunError, UsageError
from tagger.spill import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import duckdb
    import numpy.typing as npt

    from tagger.catalog.enriched import EnrichedCatalog

_MEMORY: Final = "512MB"  # while it is built
_LASTING: Final = "256MB"
_MOST_THREADS: Final = 4

_STAGE: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("price", pa.string()),
        ("image_ids", pa.list_(pa.string())),
        ("mask", pa.int64()),
        ("flags", pa.list_(FLAG)),
        ("suggestion", pa.string()),
    ]
)

_BUILD: Final = (
    """
    CREATE TABLE firsts AS
    SELECT key, min(row) AS first, arg_min(title, row) FILTER (title <> '') AS title,
        arg_min(category, row) FILTER (category <> '') AS category,
        arg_min(price, row) FILTER (price <> '') AS price,
        arg_min(image_ids[1], row) FILTER (len(image_ids) > 0) AS image_id
    FROM stage GROUP BY key
    """,
    """
    CREATE TABLE products AS
    SELECT row_number() OVER (ORDER BY f.first) - 1 AS product, f.key, f.title, f.category, f.price,
        f.image_id, s.mask, s.flags, s.suggestion,
        lower(strip_accents(concat_ws(' ', f.title, f.key, f.category))) AS words
    FROM firsts f JOIN stage s ON s.row = f.first ORDER BY f.first
    """,
    """
    CREATE TABLE pictures AS
    SELECT s.row, p.product, s.image_ids FROM stage s JOIN products p ON s.key = p.key ORDER BY s.row
    """,
    "CREATE TABLE hashes AS SELECT hash(unnest(image_ids)) AS image, product FROM pictures",
    "DROP TABLE stage",
    "DROP TABLE firsts",
)


def product_index(catalog: EnrichedCatalog, folder: Path, cpus: int) -> duckdb.DuckDBPyConnection:
    """Read a catalog once.

    Tables: `products`, in the catalog's order; `pictures`, the images of their rows; `hashes`, the products
    that have an image, by the hash of its id.

    Args:
        catalog: The catalog.
        folder: Where the database is made, and what does not fit into memory.
        cpus: Threads at most.

    Raises:
        UsageError: The catalog is damaged.
        RunError: There is no room in the folder.
    """
    import duckdb

    database = open_database(
        str(folder / "products.duckdb"),
        memory_limit=_MEMORY,
        threads=min(cpus, _MOST_THREADS),
        temp_directory=str(folder),
        autoinstall_known_extensions=False,
        autoload_known_extensions=False,
    )
    try:
        database.register("staged", pa.RecordBatchReader.from_batches(_STAGE, _staged(catalog)))
        database.execute("CREATE TABLE stage AS SELECT * FROM staged WHERE key IS NOT NULL")
        database.unregister("staged")
        for statement in (*_BUILD, "CHECKPOINT", f"SET memory_limit = '{_LASTING}'"):
            database.execute(statement)
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        database.close()
        raise RunError(
            f"there is no room to read the catalog {catalog.path}: {_first_line(error)}; free some space, or "
            "name another folder in TAGGER_CACHE"
        ) from None
    except (duckdb.Error, pa.ArrowException) as error:
        database.close()
        raise UsageError(f"the catalog {catalog.path} is damaged: {_first_line(error)}") from None
    return database


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _staged(catalog: EnrichedCatalog) -> Iterator[pa.RecordBatch]:
    """Yield what lists and filters need of each row; rows that are no product have no key."""
    roles, ours = catalog.roles, catalog.ours
    own = [roles.id, roles.title, roles.category, catalog.price]
    names = ("image_ids", "quality_flags", "category_suggestion")
    wanted = [*(column for column in own if column is not None), *(ours[name] for name in names)]
    row = 0
    for arrays in catalog.batches(wanted):
        n = len(arrays[0])
        columns = dict(zip(wanted, arrays, strict=True))
        ids, titles, categories, prices = (
            [""] * n if column is None else [cell_text(one) for one in values_of(columns[column])]
            for column in own
        )
        image_ids, flags, suggestion = (columns[ours[name]] for name in names)
        is_product = _lengths(image_ids) + _lengths(flags) > 0
        keys = [
            key or (f"row {row + at + 1}" if some else None)
            for at, (key, some) in enumerate(zip(ids, is_product.tolist(), strict=True))
        ]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(np.arange(row, row + n)),
                pa.array(keys, pa.string()),
                *(pa.array(texts, pa.string()) for texts in (titles, categories, prices)),
                image_ids.cast(_STAGE.field("image_ids").type),
                pa.array(_masks(flags)),
                _flags(flags),
                suggestion.cast(pa.string()),
            ],
            schema=_STAGE,
        )
        row += n


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), np.int64)


def _masks(flags: pa.Array) -> npt.NDArray[np.int64]:
    """Return the flags of each row as bits, in the order of `FLAGS`."""
    names = flags.flatten().field("flag").cast(pa.string())
    place = np.asarray(pc.fill_null(pc.index_in(names, pa.array(FLAGS)), -1), np.int64)
    owner = np.repeat(np.arange(len(flags)), _lengths(flags))
    found = np.zeros(len(flags), np.int64)
    known = place >= 0
    np.bitwise_or.at(found, owner[known], np.left_shift(1, place[known]))
    return found


def _flags(flags: pa.Array) -> pa.Array:
    values = flags.flatten()
    lengths = _lengths(flags)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    fields = [values.field(field.name).cast(field.type) for field in FLAG]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(FLAG)))
