"""Products and their images: which rows are one product, and which image of the collection a cell means.

The rule, tried in this order for every name in an image column:

1. It is the image_id of an image.
2. It is the uri of an image.
3. Its file name, the last part of the path without what follows `?`, is that of one image, in any case;
   outside web addresses the name with its `?` is tried first. Where several images have the name, those count
   whose address ends with as much of the path as the cell has; if that is not one image, the name means none:
   it is ambiguous.

A cell may name several images, apart by `|`, `;`, comma or line end, as a JSON list, or as a list column; the
cell as a whole is tried first. A comma in a web address is its own where the cell has other signs for the end
of one: `|`, line ends, or that another address begins. Rows with one product id are one product.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tagger.catalog.roles import in_stock
from tagger.catalog.table import cell_text, values_of
from tagger.errors import RunError
from tagger.spill import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import duckdb
    import numpy.typing as npt

    from tagger.catalog.roles import Roles
    from tagger.catalog.table import CatalogTable
    from tagger.index import Index
    from tagger.search import Collection

    Ints = npt.NDArray[np.int64]

MISSING, FAILED, AMBIGUOUS, NOT_INDEXED = "missing", "failed", "ambiguous", "not indexed"
_BARS: Final = re.compile(r"[|\n]")
_COMMAS: Final = re.compile(r"[;,]")
_BEFORE_ADDRESS: Final = re.compile(r"[;,](?=\s*(?:(?:[a-z][a-z0-9+.-]*:)?//|$))", re.IGNORECASE)
_WEB: Final = re.compile(r"\s*https?://", re.IGNORECASE)
_MEMORY: Final = "768MB"
_MEASURES: Final = ("sharpness", "brightness", "embedding_norm")

_ROWS: Final = pa.schema(
    [
        *(("row", pa.int64()), ("key", pa.string()), ("category", pa.string())),
        *(("title", pa.string()), ("stock", pa.bool_())),
    ]
)
_REFS: Final = pa.schema(
    [
        *(("row", pa.int64()), ("cell", pa.int32()), ("pos", pa.int32()), ("ref", pa.string())),
        *(("is_whole", pa.bool_()), ("is_cut", pa.bool_())),
    ]
)

_NAMES_OF_REFS: Final = r"""
CREATE TABLE asked AS
SELECT ref, path, lower(regexp_extract(path, '[^/]*$')) AS name, is_cut FROM (
    SELECT ref, false AS is_cut,
        CASE WHEN is_web THEN coalesce(try(url_decode(path)), path) ELSE path END AS path
    FROM (
    SELECT ref, regexp_matches(ref, '^([a-zA-Z][a-zA-Z0-9+.-]*:)?//') AND NOT starts_with(lower(ref), 'file:')
        AS is_web, CASE
        WHEN is_web
        THEN regexp_replace(regexp_replace(ref, '[?#].*$', ''), '^([^:/]*:)?//[^/]*/?', '')
        ELSE replace(regexp_replace(ref, '^[fF][iI][lL][eE]://', ''), '\', '/')
    END AS path
    FROM (SELECT DISTINCT ref FROM refs))
)
"""
_WITHOUT_QUERIES: Final = r"""
INSERT INTO asked
SELECT ref, cut, lower(regexp_extract(cut, '[^/]*$')), true
FROM (SELECT ref, regexp_replace(path, '\?.*$', '') AS cut FROM asked WHERE contains(path, '?'))
"""

_FOUND: Final = r"""
CREATE TABLE found AS
WITH by_id AS (SELECT a.ref, i.n FROM asked a JOIN images i ON a.ref = i.image_id),
by_uri AS (
    SELECT a.ref, min(i.n) AS n, count(*) AS many
    FROM asked a JOIN images i ON a.ref = i.uri ANTI JOIN by_id b ON a.ref = b.ref GROUP BY a.ref
),
by_name AS (
    SELECT a.ref, a.is_cut, i.n,
        ends_with(i.uri, '/' || regexp_replace(a.path, '^(\./)+|^/+', '')) AS is_whole
    FROM asked a JOIN images i ON a.name = i.name AND a.name <> ''
    ANTI JOIN by_id b ON a.ref = b.ref ANTI JOIN by_uri u ON a.ref = u.ref
),
by_names AS (
    SELECT ref, count(*) AS many, min(n) AS n, count(*) FILTER (is_whole) AS whole,
        min(n) FILTER (is_whole) AS whole_n
    FROM (SELECT *, min(is_cut) OVER (PARTITION BY ref) AS is_best FROM by_name) WHERE is_cut = is_best
    GROUP BY ref
)
SELECT ref, n, 'image_id' AS how FROM by_id
UNION ALL SELECT ref, CASE WHEN many = 1 THEN n END, CASE WHEN many = 1 THEN 'uri' ELSE 'ambiguous' END
    FROM by_uri
UNION ALL SELECT ref, CASE WHEN many = 1 THEN n WHEN whole = 1 THEN whole_n END,
    CASE WHEN many = 1 OR whole = 1 THEN 'file name' ELSE 'ambiguous' END FROM by_names
"""

# Of a cell that was also cut into pieces: itself if it means something, else the pieces.
_RESOLVED: Final = """
CREATE TABLE resolved AS
WITH joined AS (SELECT r.*, f.n, f.how FROM refs r LEFT JOIN found f ON r.ref = f.ref),
whole AS (SELECT row, cell FROM joined WHERE is_whole AND n IS NOT NULL)
SELECT j.row, j.cell, j.pos, j.ref, j.how, i.place, i.error
FROM joined j LEFT JOIN whole w ON j.row = w.row AND j.cell = w.cell LEFT JOIN images i ON j.n = i.n
WHERE CASE WHEN j.is_whole THEN w.row IS NOT NULL OR NOT j.is_cut ELSE w.row IS NULL END
"""

_PROBLEMS: Final = f"""
SELECT position, ref AS name, CASE WHEN how IS NULL THEN '{MISSING}' WHEN how = 'ambiguous' THEN '{AMBIGUOUS}'
    WHEN error IS NOT NULL THEN '{FAILED}' ELSE '{NOT_INDEXED}' END AS problem,
    CASE WHEN how IS NULL THEN 'no image of the collection has this name'
    WHEN how = 'ambiguous' THEN 'several images of the collection have this name'
    WHEN error IS NOT NULL THEN error ELSE 'it was tagged after the last tagger index: run that again' END
    AS detail
FROM (SELECT *, row_number() OVER (ORDER BY row, cell, pos) - 1 AS position FROM resolved)
WHERE place IS NULL ORDER BY position
"""  # noqa: S608 - constants of this file

_PRODUCTS: Final = """
CREATE TABLE products AS
SELECT key, row_number() OVER (ORDER BY first) - 1 AS product, first, category, title, stock FROM (
    SELECT key, min(row) AS first, arg_min(category, row) FILTER (category <> '') AS category,
        arg_min(title, row) FILTER (title <> '') AS title, coalesce(bool_or(stock), true) AS stock
    FROM rows GROUP BY key
)
"""


@dataclass(frozen=True)
class Joined:
    """Products with their images. A product is a number, in the order of its first row.

    Attributes:
        product_of_row: Product of each row of the catalog, shape (R,); -1 of a row without any content.
        keys: Product ids, in the shop's words.
        category: Category of each product as a position in `categories`; -1 where there is none.
        categories: The catalog's categories.
        stock: Whether each product can be bought.
        rows: Of each image that a row names, the row; ascending.
        places: Its place in the index; -1 where the name means no image that can be compared.
        problems: Names that mean none, by row: `position` in `rows`; `name`; `problem`; `detail`.
        joined_by: How many names were joined by what.
        measures: Of the images that are named, by place: `sharpness`, `brightness`, `embedding_norm`.
        names: The names by position in `rows`, if they were asked for.
        titles: The title of each product, in the first of its rows that has one, if they were asked for.
    """

    product_of_row: Ints
    keys: pa.Array
    category: Ints
    categories: list[str]
    stock: npt.NDArray[np.bool_]
    rows: Ints
    places: Ints
    problems: pa.Table
    joined_by: dict[str, int]
    measures: pa.Table
    names: pa.Array | None
    titles: pa.Array | None

    @property
    def products(self) -> int:
        """How many there are."""
        return len(self.keys)


def join(
    collection: Collection,
    index: Index,
    table: CatalogTable,
    roles: Roles,
    folder: Path,
    *,
    separator: str | None,
    with_names: bool = False,
) -> Joined:
    """Read a catalog once and find its products and their images.

    Args:
        collection: Whose images; those that failed are told apart from those that are not there.
        index: Its index.
        table: The catalog.
        roles: Its columns.
        folder: For what does not fit into memory.
        separator: Between the images of a cell, if it is known.
        with_names: Keep the names of images as the catalog has them, and the titles.

    Raises:
        UsageError: The catalog is damaged.
        RunError: The folder is full.
    """
    import duckdb

    config = {
        "autoinstall_known_extensions": False,
        "temp_directory": str(folder),
        "memory_limit": _MEMORY,
        "preserve_insertion_order": False,
    }
    try:
        with open_database(str(folder / "catalog.duckdb"), **config) as database:
            n_rows = _put_rows(database, table, roles, separator, with_titles=with_names)
            _put_images(database, collection, index)
            for statement in (_NAMES_OF_REFS, _WITHOUT_QUERIES, _FOUND, _RESOLVED, _PRODUCTS):
                database.execute(statement)
            return _fetched(database, n_rows, with_names=with_names)
    except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException) as error:
        raise RunError(
            f"there is no room to join the catalog in {folder}: {str(error).splitlines()[0]}; free "
            "some space there, or name another folder in TAGGER_CACHE"
        ) from None


def _put_rows(
    database: duckdb.DuckDBPyConnection,
    table: CatalogTable,
    roles: Roles,
    separator: str | None,
    *,
    with_titles: bool,
) -> int:
    """Put rows and image names into the database; returns how many rows there are."""
    for name, schema in (("rows", _ROWS), ("refs", _REFS)):
        database.from_arrow(schema.empty_table()).create(name)
    title = roles.title if with_titles else None
    used = (roles.id, *roles.images, roles.category, title, roles.stock)
    wanted = sorted({n for n in used if n is not None})
    first = 0
    for batch in table.batches(wanted):
        columns = dict(zip(wanted, map(values_of, batch.columns), strict=True))

        def cells(column: int | None, of: dict[int, list[Any]] = columns, n: int = len(batch)) -> list[Any]:
            return [None] * n if column is None else of[column]

        images = list(zip(*(columns[column] for column in roles.images), strict=True))
        named = [
            ref
            for row, row_cells in enumerate(images, first)
            for cell, value in enumerate(row_cells)
            for ref in _names(row, cell, value, separator)
        ]
        showing = {ref[0] for ref in named}
        keys = [
            cell_text(one) or (f"row {row + 1}" if row in showing else None)
            for row, one in enumerate(cells(roles.id), first)
        ]
        stock = [None if roles.stock is None else _in_stock(one) for one in cells(roles.stock)]
        categories = [cell_text(one) for one in cells(roles.category)]
        titles = [cell_text(one) for one in cells(title)]
        rows = [range(first, first + len(batch)), keys, categories, titles, stock]
        for name, schema, values in (("rows", _ROWS, rows), ("refs", _REFS, zip(*named, strict=True))):
            _insert(database, name, schema, list(values))
        first += len(batch)
    database.execute("DELETE FROM rows WHERE key IS NULL")
    return first


def _insert(database: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, values: list[Any]) -> None:
    if values:
        arrays = [pa.array(column, kind) for column, kind in zip(values, schema.types, strict=True)]
        database.register("batch", pa.Table.from_arrays(arrays, schema=schema))
        database.execute(f"INSERT INTO {name} SELECT * FROM batch")  # noqa: S608 - one of two names
        database.unregister("batch")


def _names(
    row: int, cell: int, value: Any, separator: str | None
) -> Iterator[tuple[int, int, int, str, bool, bool]]:
    """Yield the names in a cell: row, cell, position, name, whether it is the whole cell, and was cut."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
        if isinstance(parsed, list):
            value = parsed
    if isinstance(value, list):
        for pos, one in enumerate(value):
            if text := cell_text(one):
                yield row, cell, pos, text, False, True
        return
    text = cell_text(value)
    if not text:
        return
    parts = _parts(text) if separator is None else text.split(separator)
    pieces = [piece for piece in map(str.strip, parts) if piece]
    is_cut = pieces != [text]
    if not (is_cut and text.count("://") > 1):  # several web addresses are no one's name
        yield row, cell, 0, text, True, is_cut
    if is_cut:
        for pos, piece in enumerate(pieces):
            yield row, cell, pos, piece, False, True


def _parts(text: str) -> list[str]:
    bars = _BARS.split(text)
    found: list[str] = []
    for part in bars:
        is_apart = len(bars) > 1 or part.count("://") > 1
        cut = _BEFORE_ADDRESS if is_apart and _WEB.match(part) else _COMMAS
        found += cut.split(part)
    return found


def _in_stock(value: Any) -> bool:
    return value if isinstance(value, bool) else in_stock(cell_text(value))


def _put_images(database: duckdb.DuckDBPyConnection, collection: Collection, index: Index) -> None:
    known = pa.table(
        {
            "image_id": index.ids.column("image_id"),
            "place": pa.array(np.arange(len(index.ids), dtype=np.int64)),
        }
    )
    database.register("known", known)
    reader = collection.tags(["image_id", "uri", "error", "error_detail", *_MEASURES])
    database.register("table_rows", reader)
    database.execute(
        """
        CREATE TABLE images AS
        SELECT t.image_id, t.uri, lower(regexp_extract(t.uri, '[^/]*$')) AS name, k.place,
            CASE WHEN t.error IS NOT NULL THEN t.error || ': ' || coalesce(t.error_detail, '') END AS error,
            row_number() OVER () AS n, sharpness, brightness, embedding_norm
        FROM table_rows t LEFT JOIN known k ON t.image_id = k.image_id
        """
    )
    database.unregister("table_rows")
    database.unregister("known")


def _fetched(database: duckdb.DuckDBPyConnection, n_rows: int, *, with_names: bool) -> Joined:
    products = database.sql("SELECT key, category, stock FROM products ORDER BY product").to_arrow_table()
    of_row = database.sql("SELECT r.row, p.product FROM rows r JOIN products p ON r.key = p.key").fetchnumpy()
    product_of_row = np.full(n_rows, -1, np.int64)
    product_of_row[np.asarray(of_row["row"])] = np.asarray(of_row["product"])
    encoded = products.column("category").combine_chunks().dictionary_encode()
    category = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    places = database.sql("SELECT row, place FROM resolved ORDER BY row, cell, pos").fetchnumpy()
    names = titles = None
    if with_names:
        titles = database.sql("SELECT title FROM products ORDER BY product").to_arrow_table().column(0)
        names = database.sql("SELECT ref FROM resolved ORDER BY row, cell, pos").to_arrow_table()
    problems = database.sql(_PROBLEMS).to_arrow_table()
    counts = database.sql(
        "SELECT how, count(*) AS n FROM resolved WHERE place IS NOT NULL GROUP BY how ORDER BY how"
    ).fetchall()
    measures = database.sql(
        f"SELECT place, {', '.join(_MEASURES)} FROM images"  # noqa: S608 - a constant
        " WHERE place IN (SELECT place FROM resolved) ORDER BY place"
    ).to_arrow_table()
    return Joined(
        product_of_row=product_of_row,
        keys=products.column("key").combine_chunks(),
        category=category,
        categories=encoded.dictionary.to_pylist(),
        stock=np.asarray(products.column("stock").to_numpy(), np.bool_),
        rows=np.asarray(places["row"], np.int64),
        places=np.ma.filled(places["place"], -1).astype(np.int64),
        problems=problems,
        joined_by=dict(counts),
        measures=measures,
        names=None if names is None else names.column(0).combine_chunks(),
        titles=None if titles is None else titles.combine_chunks(),
    )
