"""The products of an enriched catalog, as the page asks for them.

Lists and filters are answered from `product_index`; the details of a product are read from the catalog.
"""

# ruff: noqa: S608 - the queries are made of parts that stand in this file; values go beside them

from __future__ import annotations

import contextlib
import os
import uuid
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tagger.catalog.enriched import EnrichedCatalog, value_text
from tagger.catalog.flags import FLAGS
from tagger.catalog.schema import RECOMMENDED
from tagger.catalog.table import values_of
from tagger.errors import UnknownName, UsageError
from tagger.index.filters import shown
from tagger.serve.product_index import product_index
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

    from tagger.settings import Settings

ANY_FLAG: Final = "any"
MOST_CATEGORIES: Final = 100
"""Categories that are counted: the most frequent ones."""

_MOST_OWN: Final = 60
_PATH: Final = " > "
_IS_DECIDED: Final = "product IN (SELECT product FROM hashes WHERE image IN (SELECT image FROM decided))"
_DECIDED_IMAGES: Final = f"""
SELECT product, image_id FROM (
    SELECT product, unnest(image_ids) AS image_id FROM pictures WHERE {_IS_DECIDED}
) WHERE hash(image_id) IN (SELECT image FROM decided)
"""
_BLOCK_ROWS: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFilter:
    """Which products are asked for.

    Attributes:
        flag: Only those with this flag, or with any.
        category: Only those of this category of the shop's.
        q: Only those whose title, id or category have all of these words.
        decided: Only those of whose images something was decided, or nothing; None for all.
    """

    flag: str | None = None
    category: str | None = None
    q: str = ""
    decided: bool | None = None


class Products:
    """The products of a catalog. Threads share it; it goes with the last reference to it.

    The file may be replaced meanwhile: it stays open, and the one that was read goes on being read.

    Args:
        path: Parquet file that `tagger enrich` wrote.
        settings: What the environment says.

    Attributes:
        count: How many products there are.
        at: When the catalog was written, seconds since 1970.
        signature: Tells this file from one that takes its place.

    Raises:
        UsageError: The catalog cannot be used.
        RunError: There is no room in the cache folder.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.name = path.name
        with contextlib.ExitStack() as stack:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, file)
                facts = os.fstat(file)
            except OSError as error:
                raise UsageError(f"the catalog {path} cannot be opened: {error.strerror or error}") from None
            self.signature = signature_of(facts)
            self.at = facts.st_mtime
            same = Path(f"/proc/self/fd/{file}")
            self._file = str(same if same.exists() else path)
            self._catalog = EnrichedCatalog(path, file=self._file)
            folder = stack.enter_context(
                spill_folder(settings.cache_dir, f"serve-{os.getpid()}-{uuid.uuid4().hex}")
            )
            self._database = product_index(self._catalog, folder, settings.cpus)
            stack.callback(self._database.close)
            self.count: int = self._database.execute("SELECT count(*) FROM products").fetchall()[0][0]
            weakref.finalize(self, stack.pop_all().close)

    def page(
        self, asked: ProductFilter, decided: Sequence[str], *, offset: int, k: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return some of the products that were asked for, and what there is of them in all.

        Args:
            asked: Which products.
            decided: Images of which anything was decided.
            offset: Products to skip.
            k: Most products.

        Returns:
            Rows with `product_id, title, category, price, image_id, image_ids, suggestion, flags`; and
            `total`, `flags` and `categories`: products by flag and by category, each counted as if nothing
            were asked of it.
        """
        with self._cursor(asked, decided) as (cursor, conditions, values):
            where, given = _where(conditions, values)
            rows = _dicts(
                cursor.execute(
                    "SELECT product, key AS product_id, title, category, price, image_id, flags, suggestion "
                    f"FROM products WHERE {where} ORDER BY product LIMIT ? OFFSET ?",
                    [*given, k, offset],
                )
            )
            pictures = self._pictures(cursor, [row["product"] for row in rows])
            for row in rows:
                row["image_ids"] = pictures[row.pop("product")]
                row["flags"] = row["flags"] or []
            return rows, self._counts(cursor, conditions, values)

    def _counts(
        self, cursor: duckdb.DuckDBPyConnection, conditions: dict[str, str], values: dict[str, list[Any]]
    ) -> dict[str, Any]:
        other, given = _where(conditions, values, without="flag")
        flag = conditions.get("flag", "true")
        flags = ", ".join(f"count(*) FILTER (mask & {1 << n} > 0)" for n in range(len(FLAGS)))
        total, flagged, *by_flag = cursor.execute(
            f"SELECT count(*) FILTER ({flag}), count(*) FILTER (mask > 0), {flags} FROM products "
            f"WHERE {other}",
            given,
        ).fetchall()[0]
        other, given = _where(conditions, values, without="category")
        categories = cursor.execute(
            f"SELECT category, count(*) FROM products WHERE {other} AND category IS NOT NULL "
            f"GROUP BY category ORDER BY count(*) DESC, category LIMIT {MOST_CATEGORIES}",
            given,
        ).fetchall()
        counted = {name: n for name, n in zip(FLAGS, by_flag, strict=True) if n}
        return {
            "total": total,
            "flagged": flagged,
            "flags": dict(sorted(counted.items(), key=lambda one: -one[1])),
            "categories": [{"category": category, "count": n} for category, n in categories],
        }

    def product(self, product_id: str) -> dict[str, Any]:
        """Return what the catalog says of a product.

        Raises:
            UnknownName: There is no such product.
        """
        cursor = self._database.cursor()
        try:
            found = cursor.execute("SELECT * FROM products WHERE key = ?", [product_id])
            row = next(iter(_dicts(found)), None)
            if row is None:
                raise UnknownName(f"there is no product {shown(product_id)} in the catalog")
            at = cursor.execute("SELECT row FROM pictures WHERE product = ? ORDER BY row", [row["product"]])
            rows = [one for (one,) in at.fetchall()]
            lines = self._lines(cursor, rows)
            ours, first = self._catalog.ours, lines[0]
            said = {name: first[place] for name, place in ours.items()}
            alike = {name: said.get(name) or [] for name in ("similar_products", RECOMMENDED.name)}
            alike = {name: _scored(value) for name, value in alike.items()}
            known = self._named(cursor, {key for some in alike.values() for key, _ in some})
            return {
                **{name: row[name] for name in ("title", "category", "price")},
                "product_id": row["key"],
                "images": _images([(line[ours["image_ids"]], line[ours["alt_text"]]) for line in lines]),
                **{name: said[name] or [] for name in ("tags", "categories", "colors")},
                "suggestion": _suggestion(said),
                "flags": said["quality_flags"] or [],
                "similar_products": [_short(known, *one) for one in alike["similar_products"]],
                "recommended_with": [_short(known, *one) for one in alike[RECOMMENDED.name]],
                "own": self._own(first),
            }
        finally:
            cursor.close()

    def export(
        self, asked: ProductFilter, decided: Sequence[str]
    ) -> Iterator[tuple[str, str | None, list[dict[str, Any]], list[str]]]:
        """Yield all that were asked for: id, title, flags, and the images that were decided about."""
        with self._cursor(asked, decided, always=True) as (cursor, conditions, values):
            images: dict[int, list[str]] = {}
            if decided:
                for product, image_id in cursor.execute(_DECIDED_IMAGES).fetchall():
                    images.setdefault(product, []).append(image_id)
            where, given = _where(conditions, values)
            cursor.execute(
                f"SELECT product, key, title, flags FROM products WHERE {where} ORDER BY product", given
            )
            while rows := cursor.fetchmany(_BLOCK_ROWS):
                for product, key, title, flags in rows:
                    yield key, title, flags or [], list(dict.fromkeys(images.get(product, ())))

    def _lines(self, cursor: duckdb.DuckDBPyConnection, rows: list[int]) -> list[list[Any]]:
        """Return rows of the catalog, all columns."""
        import duckdb

        names = ", ".join(f"c{n}" for n in range(len(self._catalog.names)))
        try:
            read = cursor.sql(
                f"SELECT * FROM read_parquet(?, file_row_number = true) AS t({names}, n) "
                f"WHERE n BETWEEN ? AND ? AND n IN ({', '.join('?' * len(rows))}) ORDER BY n",
                params=[self._file, rows[0], rows[-1], *rows],
            ).to_arrow_table()
        except duckdb.Error:  # it takes no text that is not UTF-8, and not every type
            return self._catalog.rows(rows)
        return list(map(list, zip(*map(values_of, read.columns), strict=True)))

    def _own(self, line: list[Any]) -> list[dict[str, str]]:
        roles = self._catalog.roles
        told = {roles.id, roles.title, roles.category}
        values = (
            (name, value_text(line[n]))
            for n, name in enumerate(self._catalog.names[: self._catalog.own])
            if n not in told
        )
        return [{"name": name, "value": value} for name, value in values if value][:_MOST_OWN]

    def _named(self, cursor: duckdb.DuckDBPyConnection, keys: set[str]) -> dict[str, tuple[Any, Any]]:
        if not keys:
            return {}
        marks = ", ".join("?" * len(keys))
        found = cursor.execute(
            f"SELECT key, title, image_id FROM products WHERE key IN ({marks})", sorted(keys)
        )
        return {key: (title, image_id) for key, title, image_id in found.fetchall()}

    def _pictures(self, cursor: duckdb.DuckDBPyConnection, products: list[int]) -> dict[int, list[str]]:
        found: dict[int, dict[str, None]] = {product: {} for product in products}
        if products:
            marks = ", ".join("?" * len(products))
            rows = cursor.execute(
                f"SELECT product, image_ids FROM pictures WHERE product IN ({marks}) ORDER BY row", products
            ).fetchall()
            for product, image_ids in rows:
                found[product].update(dict.fromkeys(image_ids or ()))
        return {product: list(images) for product, images in found.items()}

    @contextlib.contextmanager
    def _cursor(
        self, asked: ProductFilter, decided: Sequence[str], *, always: bool = False
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, str], dict[str, list[Any]]]]:
        """Give a connection of its own, with the conditions by what they are about and their values.

        Its table `decided` is there if it is asked for, or `always`.
        """
        cursor = self._database.cursor()
        try:
            if always or asked.decided is not None:
                images = pa.table({"image_id": pa.array(decided, pa.string())})
                cursor.register("decided_images", images)
                cursor.execute(
                    "CREATE TEMP TABLE decided AS SELECT hash(image_id) AS image FROM decided_images"
                )
            conditions: dict[str, str] = {}
            values: dict[str, list[Any]] = {}
            if asked.flag is not None:
                bits = (1 << len(FLAGS)) - 1 if asked.flag == ANY_FLAG else 1 << FLAGS.index(asked.flag)
                conditions["flag"] = f"mask & {bits} > 0"
            if asked.category is not None:
                conditions["category"], values["category"] = "category = ?", [asked.category]
            if words := asked.q.split():
                part = "contains(words, lower(strip_accents(?)))"
                conditions["q"], values["q"] = " AND ".join([part] * len(words)), words
            if asked.decided is not None:
                conditions["decided"] = _IS_DECIDED if asked.decided else f"NOT ({_IS_DECIDED})"
            yield cursor, conditions, values
        finally:
            cursor.close()


def signature_of(facts: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from one that takes its place."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def last_word(path: str) -> str:
    """Return the tag that a suggested category stands for.

    >>> last_word("animal > cat > tabby")
    'tabby'
    """
    return path.rpartition(_PATH)[2].strip()


def _where(
    conditions: dict[str, str], values: dict[str, list[Any]], *, without: str = ""
) -> tuple[str, list[Any]]:
    """Return conditions as one, and their values."""
    kept = [name for name in conditions if name != without]
    where = " AND ".join(f"({conditions[name]})" for name in kept) or "true"
    return where, [value for name in kept for value in values.get(name, ())]


def _dicts(found: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _images(lines: list[tuple[list[str] | None, list[str] | None]]) -> list[dict[str, str]]:
    """Return the images of a product's rows, each once, with their alternative texts."""
    found: dict[str, str] = {}
    for image_ids, texts in lines:
        for n, image_id in enumerate(image_ids or ()):
            text = texts[n] if texts is not None and n < len(texts) else ""
            found[image_id] = found.get(image_id) or text or ""
    return [{"image_id": image_id, "alt_text": text} for image_id, text in found.items()]


def _scored(products: list[Any]) -> list[tuple[str, float]]:
    return [
        (one["product_id"], one.get("score") or 0.0)
        for one in products
        if isinstance(one, dict) and "product_id" in one
    ]


def _short(known: dict[str, tuple[Any, Any]], product_id: str, score: float) -> dict[str, Any]:
    title, image_id = known.get(product_id, (None, None))
    return {"product_id": product_id, "title": title, "image_id": image_id, "score": score}


def _suggestion(said: dict[str, Any]) -> dict[str, Any] | None:
    category = said["category_suggestion"]
    if not category:
        return None
    return {
        "category": category,
        "tag": last_word(category),
        "score": said["category_score"] or 0.0,
        "source": said["category_source"] or "",
    }
