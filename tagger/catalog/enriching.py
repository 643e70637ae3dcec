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

import pyarrow as pa

from tagger.catalog.assembling import Assembler
from tagger.catalog.flags import FLAGS
from tagger.catalog.formats import find_format
from tagger.catalog.joining import join
from tagger.catalog.options import EnrichOptions
from tagger.catalog.reading import open_catalog
from tagger.catalog.roles import find_roles
from tagger.catalog.schema import UNMATCHED, our_columns
from tagger.errors import UsageError
from tagger.outfile import out_file, refuse_to_overwrite
from tagger.search import Collection
from tagger.search.neighbours import neighbours, neighbours_on_cluster
from tagger.settings import load_settings
from tagger.spill import spill_folder
from tagger.tags import load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagger.catalog.formats import Format
    from tagger.catalog.joining import Joined
    from tagger.catalog.pictures import Search
    from tagger.catalog.roles import Roles
    from tagger.catalog.table import CatalogTable

_SHOWN: Final = 10
_BLOCK: Final = 65_536


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
        remarks: What else is worth knowing, with numbers of products or events.
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
    remarks: dict[str, int]
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
    kind, table, roles = _checked(catalog, out, format, options, unmatched)
    if not isinstance(collection, Collection):
        collection = Collection.open(str(collection))
    if options.taxonomy is not None:  # an error in it is told before any work
        load_taxonomy(Path(options.taxonomy), collection.config.labels, collection.config.wnids)
    index = collection.opened_index()
    settings = load_settings()
    address = address or settings.ray_address
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(out_file(unmatched, UNMATCHED))
        output = kind.open(Path(out), table, roles, our_columns(with_events=options.events is not None))
        stack.callback(output.discard)
        kept = (catalog, options.taxonomy, options.events, unmatched)
        output.kept = tuple(Path(one) for one in kept if one is not None)
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
        assembler = Assembler(collection, index, joined, options, search=search, say=say)
        for rows in assembler.rows(table):
            output.append(rows)
            say(f"{assembler.done:,} of {len(joined.product_of_row):,} rows written")
        table.require_unchanged()
        told = _unmatched(joined)
        if lost is not None:
            for start in range(0, len(told), _BLOCK):
                lost.write(told.slice(start, _BLOCK))
        output.publish()
    has = assembler.pictures.set_of_product >= 0
    return Enriched(
        products=joined.products,
        enriched=int(has.sum()),
        missing=int((~has).sum()),
        rows=len(joined.product_of_row),
        images=len(assembler.pictures.places),
        joined=joined.joined_by,
        unmatched=dict(sorted(Counter(told.column("problem").to_pylist()).items())),
        examples=told.slice(0, _SHOWN).to_pylist(),
        flags={flag: int(count) for flag, count in zip(FLAGS, assembler.flagged, strict=True) if count},
        columns=roles.describe(table.header),
        read_as=table.describe(),
        left_out=dict(output.left_out),
        remarks={**table.remarks, **output.remarks, **assembler.remarks},
        out=output.files[0],
        files=output.files,
        unmatched_out=None if unmatched is None else str(unmatched),
        seconds=round(time.monotonic() - started, 3),
    )


def _checked(
    catalog: str | Path,
    out: str | Path,
    format: str | None,  # noqa: A002
    options: EnrichOptions,
    unmatched: str | Path | None,
) -> tuple[Format, CatalogTable, Roles]:
    """Look at all that was given before any work; return the format, the catalog and its columns."""
    given = {"catalog": catalog, "taxonomy": options.taxonomy, "events": options.events}
    refuse_to_overwrite(out, **given)
    if unmatched is not None:
        refuse_to_overwrite(unmatched, **given)
        if Path(unmatched).resolve() == Path(out).resolve():
            raise UsageError(f"{out} cannot be both the catalog's file and that of the unmatched names")
    kind = find_format(Path(out), format)
    if unmatched is not None and kind.is_further(Path(out), Path(unmatched)):
        raise UsageError(
            f"{unmatched} is the name of a further file of {out}: name another file for the unmatched names"
        )
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
    for rule, is_set, column, what in (
        ("--in-stock", options.similar.in_stock, roles.stock, "--stock-column"),
        ("--similar-from", options.similar.category != "any", roles.category, "--category-column"),
    ):
        if is_set and column is None:
            raise UsageError(
                f"{rule} cannot be kept to: no column of {catalog} seems to say it; name one with {what}"
            )
    return kind, table, roles


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
