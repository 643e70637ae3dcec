"""A product catalog in, the same catalog with what its pictures show out."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tagger.catalog.describing import COLOR, TAG, Describer, as_lists, rounded
from tagger.catalog.flags import FLAG, FLAGS, Flagger, FlagRules
from tagger.catalog.formats import find_format
from tagger.catalog.joining import join
from tagger.catalog.pictures import Assortment, likeness, taken, units, used_pictures
from tagger.catalog.reading import open_catalog
from tagger.catalog.roles import find_roles
from tagger.catalog.similar import Chooser, Rules
from tagger.catalog.suggesting import suggest
from tagger.catalog.together import LikedTogether
from tagger.catalog.writing import PRODUCT_PICTURES, ROW_PICTURES, Rows
from tagger.errors import UsageError
from tagger.outfile import out_file, refuse_to_overwrite
from tagger.search import Collection
from tagger.search.neighbours import neighbours, neighbours_on_cluster
from tagger.settings import load_settings
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from tagger.catalog.joining import Joined
    from tagger.catalog.pictures import Pictures, Search
    from tagger.catalog.table import CatalogTable
    from tagger.index import Index
    from tagger.index.vectors import Floats

    Ints = npt.NDArray[np.int64]

PRODUCT: Final = pa.struct([("product_id", pa.string()), ("score", pa.float64())])

OURS: Final = pa.schema(
    [
        ("image_ids", pa.list_(pa.string())),
        ("tags", pa.list_(TAG)),
        ("categories", pa.list_(TAG)),
        ("colors", pa.list_(COLOR)),
        ("category_suggestion", pa.string()),
        ("category_score", pa.float64()),
        ("category_source", pa.string()),
        ("alt_text", pa.list_(pa.string())),
        ("similar_products", pa.list_(PRODUCT)),
        ("quality_flags", pa.list_(FLAG)),
    ]
)
"""What tagger adds to every row. `image_ids` and `alt_text` are of the images that the row names, in the
catalog's order; the rest is of the product, whichever row names its images."""

RECOMMENDED: Final = pa.field("recommended_with", pa.list_(PRODUCT))
"""One more where events are given: products that the same customers like."""

UNMATCHED: Final = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        ("detail", pa.string()),
    ]
)
"""Names in the catalog that mean no image. `row` counts from 1, without the header; `problem` is missing,
ambiguous, failed or not indexed."""

MOST_SIMILAR: Final = 100
_NEIGHBOURS: Final = 64
_SHOWN: Final = 10
_BLOCK: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichOptions:
    """How a catalog is read and what is made of it.

    Attributes:
        k: Similar products of each, at most 100.
        similar: Which products may be similar ones.
        flags: When a picture is flagged.
        events: What customers did, for `recommended_with`: CSV or Parquet with user_id, product_id or
            image_id, event, timestamp; see `tagger.search.events.Events`.
        taxonomy: Taxonomy file of the shop's own categories; see docs/taxonomy.md.
        id_column, image_columns, category_column, title_column, stock_column: Names of columns; found by
            their usual names if not given.
        separator: Between the images of one cell, if it is known.
        encoding, delimiter: Of a text file, if they are known.
        sheet: Of a workbook; the first by default.
    """

    k: int = 10
    similar: Rules = Rules()  # noqa: RUF009 - frozen
    flags: FlagRules = FlagRules()  # noqa: RUF009 - frozen
    events: str | Path | None = None
    taxonomy: str | Path | None = None
    id_column: str | None = None
    image_columns: tuple[str, ...] = ()
    category_column: str | None = None
    title_column: str | None = None
    stock_column: str | None = None
    separator: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.k <= MOST_SIMILAR:
            raise UsageError(f"k must be from 0 to {MOST_SIMILAR}, got {self.k}")
        if self.separator == "":
            raise UsageError("the separator between images must be at least one character")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enriched:
    """What was made of a catalog.

    Attributes:
        products: Products of the catalog.
        enriched: Those with at least one image of the collection.
        missing: Those without any.
        rows: Rows of the catalog, empty ones included.
        images: Different images that it uses.
        joined: Names of images by what joined them: image_id, uri, file name.
        unmatched: Names that mean no image, by what is the matter.
        examples: Some of them, as in the file of all.
        flags: Products by quality flag.
        columns: Which column was taken for what.
        read_as: How the file was read.
        left_out: Products that a feed cannot have, by the reason.
        out: The file that was written.
        files: All of them: a feed that is too large for one is in several.
        unmatched_out: That of the names that mean no image, if it was asked for.
        seconds: Wall time.
    """

    products: int
    enriched: int
    missing: int
    rows: int
    images: int
    joined: dict[str, int]
    unmatched: dict[str, int]
    examples: list[dict[str, Any]]
    flags: dict[str, int]
    columns: str
    read_as: str
    left_out: dict[str, int]
    out: str
    files: list[str]
    unmatched_out: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger enrich --json` prints."""
        return asdict(self)


def enrich(
    collection: Collection | str | Path,
    catalog: str | Path,
    out: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    options: EnrichOptions | None = None,
    unmatched: str | Path | None = None,
    address: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Enriched:
    """Enrich a product catalog; docs/marketing.md tells what is in it.

    The catalog is read twice, once for its products and images and once for its own columns, and is never in
    memory as a whole, unless it is a workbook. The file appears when it is complete.

    Args:
        collection: With an index; opened, or where it is.
        catalog: CSV, TSV, Parquet, JSON Lines or XLSX.
        out: File to write.
        format: parquet, csv, jsonl, google-merchant or shopify; told by the ending of `out` if not given.
        options: How it is read, and what is made of it.
        unmatched: File for the names that mean no image, `.csv` or `.parquet`.
        address: Ray cluster that compares the images, `local` for one on this machine; None compares them in
            this process, unless the environment names a cluster.
        say: Takes a line at a time for the person who waits.

    Raises:
        UsageError: A file cannot be used; the text says why.
        TaxonomyError: The taxonomy cannot be used.
        IndexUnusable: There is no index.
        RunError: The disk is full.
    """
    started = time.monotonic()
    options = options or EnrichOptions()
    given = {"catalog": catalog, "taxonomy": options.taxonomy, "events": options.events}
    refuse_to_overwrite(out, **given)
    if unmatched is not None:
        refuse_to_overwrite(unmatched, **given)
        if Path(unmatched).absolute() == Path(out).absolute():
            raise UsageError(f"{out} cannot be both the catalog's file and that of the unmatched names")
    kind = find_format(Path(out), format)
    table = open_catalog(catalog, encoding=options.encoding, delimiter=options.delimiter, sheet=options.sheet)
    roles = find_roles(
        table.header,
        where=f"the catalog {catalog}",
        id=options.id_column,
        images=options.image_columns,
        category=options.category_column,
        title=options.title_column,
        stock=options.stock_column,
    )
    kind.check(table, roles)
    if not isinstance(collection, Collection):
        collection = Collection.open(str(collection))
    index = collection.opened_index()
    settings = load_settings()
    address = address or settings.ray_address
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(out_file(unmatched, UNMATCHED))
        output = kind.open(Path(out), table, roles, _columns(options))
        stack.callback(output.discard)
        say(f"catalog: {table.describe()}; {roles.describe(table.header)}")
        with spill_folder(settings.cache_dir, f"enrich-{uuid.uuid4().hex}") as folder:
            joined = join(
                collection,
                index,
                table,
                roles,
                folder,
                separator=options.separator,
                with_names=kind.with_names,
            )
        say(f"{joined.products:,} products in {len(joined.product_of_row):,} rows")
        search: Search = neighbours
        if address is not None:
            cluster = None if address == "local" else address
            search = partial(neighbours_on_cluster, collection, address=cluster, settings=settings)
        enricher = _Enricher(collection, index, joined, options, search=search, say=say)
        for rows in enricher.rows(table):
            output.append(rows)
            say(f"{enricher.done:,} of {len(joined.product_of_row):,} rows written")
        told = _unmatched(joined)
        if lost is not None:
            for start in range(0, len(told), _BLOCK):
                lost.write(told.slice(start, _BLOCK))
        output.publish()
    has = enricher.pictures.set_of_product >= 0
    return Enriched(
        products=joined.products,
        enriched=int(has.sum()),
        missing=int((~has).sum()),
        rows=len(joined.product_of_row),
        images=len(enricher.pictures.places),
        joined=joined.joined_by,
        unmatched=dict(sorted(Counter(told.column("problem").to_pylist()).items())),
        examples=told.slice(0, _SHOWN).to_pylist(),
        flags={flag: int(count) for flag, count in zip(FLAGS, enricher.flagged, strict=True) if count},
        columns=roles.describe(table.header),
        read_as=table.describe(),
        left_out=dict(output.left_out),
        out=output.files[0],
        files=output.files,
        unmatched_out=None if unmatched is None else str(unmatched),
        seconds=round(time.monotonic() - started, 3),
    )


def _columns(options: EnrichOptions) -> pa.Schema:
    """Return our columns, in their order."""
    behind = OURS.get_field_index("similar_products") + 1
    return OURS if options.events is None else OURS.insert(behind, RECOMMENDED)


def _unmatched(joined: Joined) -> pa.Table:
    rows = joined.rows[joined.problems.column("position").to_numpy()]
    return pa.Table.from_arrays(
        [
            pa.array(rows + 1),
            joined.keys.take(pa.array(joined.product_of_row[rows])),
            *(joined.problems.column(name) for name in ("name", "problem", "detail")),
        ],
        schema=UNMATCHED,
    )


class _Enricher:
    """What is known of the products, and rows made of it."""

    def __init__(
        self,
        collection: Collection,
        index: Index,
        joined: Joined,
        options: EnrichOptions,
        *,
        search: Search,
        say: Callable[[str], None],
    ) -> None:
        self._index = index
        self._joined = joined
        self.done = 0
        self.flagged = np.zeros(len(FLAGS), np.int64)
        self.pictures: Pictures = used_pictures(joined)
        like = likeness(
            index,
            self.pictures,
            max(_NEIGHBOURS, 4 * options.k),
            search=search,
            say=lambda done, of: say(f"{done:,} of {of:,} images compared"),
        )
        seen = Assortment(index, joined, self.pictures, like, units(joined, self.pictures))
        self._units = seen.units
        self._similar = Chooser(seen, options.similar, options.k, threads=load_settings().cpus).choose()
        taxonomy = None if options.taxonomy is None else Path(options.taxonomy)
        self._suggestions = suggest(collection, seen, self._similar, taxonomy=taxonomy)
        self._k = options.k
        self._columns = _columns(options).names
        self._together = None
        if options.events is not None:
            eligible = joined.stock if options.similar.in_stock else np.ones(joined.products, np.bool_)
            self._together = LikedTogether(seen, Path(options.events), eligible, say=say)
            if self._together.unknown:
                say(f"{self._together.unknown:,} events name a product that is not in the catalog")
        self._describer = Describer(index, self.pictures)
        self._alt = self._describer.alt_texts()
        self._flagger = Flagger(seen, self._similar, options.flags)
        # Names that mean an image, by row and by product: positions in the arrays of `joined`.
        self._entries = np.flatnonzero(joined.places >= 0)
        products = joined.product_of_row[joined.rows[self._entries]]
        order = np.argsort(products, kind="stable")
        self._by_product, self._entry_products = self._entries[order], products[order]

    def rows(self, table: CatalogTable) -> Iterator[Rows]:
        """Yield the rows of the catalog with what is said of them."""
        seen = np.zeros(self._joined.products, np.bool_)
        for own in table.batches():
            products = self._joined.product_of_row[self.done : self.done + len(own)]
            known = np.flatnonzero(products >= 0)
            is_first = np.zeros(len(own), np.bool_)
            _, first = np.unique(products[known], return_index=True)
            is_first[known[first]] = True
            is_first[known] &= ~seen[products[known]]
            seen[products[known]] = True
            ours = self._ours(products, self.done, is_first)
            self.done += len(own)
            yield Rows(own, ours, is_first)

    def _ours(self, products: Ints, start: int, is_first: npt.NDArray[np.bool_]) -> dict[str, pa.Array]:
        sets = taken(self.pictures.set_of_product, products)
        unit = taken(self._units.of_product, products)
        category, score, source = self._suggestions.of(unit)
        flags, has_flag = self._flagger.of(products)
        self.flagged += has_flag[is_first].sum(axis=0)
        ours = {
            **self._images(start, len(products)),
            **self._describer.sets(sets),
            "category_suggestion": category,
            "category_score": score,
            "category_source": source,
            "similar_products": self._similar_products(unit),
            "quality_flags": flags,
        }
        if self._together is not None:
            row, other, strength = self._together.of(products, self._k)
            ours[RECOMMENDED.name] = self._products(row, other, strength, none=products < 0)
        return {name: ours[name] for name in self._columns} | self._named(products, start)

    def _images(self, start: int, n: int) -> dict[str, pa.Array]:
        begin, end = np.searchsorted(self._joined.rows, [start, start + n])
        row, place = self._joined.rows[begin:end] - start, self._joined.places[begin:end]
        row, place = row[place >= 0], place[place >= 0]
        number = np.searchsorted(self.pictures.places, place)
        names = self._index.ids.take_ids(self._index.ids.slots[place]).cast(pa.string())
        return {
            "image_ids": as_lists(row, names, n),
            "alt_text": as_lists(row, self._alt.take(pa.array(number)).cast(pa.string()), n),
        }

    def _named(self, products: Ints, start: int) -> dict[str, pa.Array]:
        """Return the images by the names that the catalog has for them, of rows and of products."""
        if self._joined.names is None:
            return {}
        begin, end = np.searchsorted(self._joined.rows[self._entries], [start, start + len(products)])
        row = self._joined.rows[self._entries[begin:end]] - start
        firsts, lasts = (np.searchsorted(self._entry_products, products, side) for side in ("left", "right"))
        sizes = np.where(products >= 0, lasts - firsts, 0)
        at = np.arange(int(sizes.sum())) + np.repeat(firsts - (np.cumsum(sizes) - sizes), sizes)
        of_products = np.repeat(np.arange(len(products)), sizes)
        return {
            ROW_PICTURES: as_lists(row, self._pictures_at(self._entries[begin:end]), len(products)),
            PRODUCT_PICTURES: as_lists(of_products, self._pictures_at(self._by_product[at]), len(products)),
        }

    def _pictures_at(self, entries: Ints) -> pa.StructArray:
        number = np.searchsorted(self.pictures.places, self._joined.places[entries])
        assert self._joined.names is not None
        names = self._joined.names.take(pa.array(entries)).cast(pa.string())
        alt = self._alt.take(pa.array(number)).cast(pa.string())
        return pa.StructArray.from_arrays([names, alt], names=["name", "alt"])

    def _similar_products(self, unit: Ints) -> pa.ListArray:
        products = taken(self._similar.products, unit)
        row, column = np.nonzero(products >= 0)
        scores = np.clip(self._similar.cosine[unit[row], column], 0, 1)
        return self._products(row, products[row, column], scores, none=unit < 0)

    def _products(
        self, row: Ints, products: Ints, scores: Floats, *, none: npt.NDArray[np.bool_]
    ) -> pa.ListArray:
        keys = self._joined.keys.take(pa.array(products))
        values = pa.StructArray.from_arrays([keys, rounded(scores)], fields=list(PRODUCT))
        return as_lists(row, values, len(none), none=none)
