"""`tagger enrich`: a product catalog with what its pictures show."""

from typing import Any

import click

from tagger.cli import print_json, printable, require_local, teller


@click.command()
@click.argument("collection")
@click.argument("catalog")
@click.option(
    "--out",
    metavar="FILE",
    required=True,
    help="Where the enriched catalog goes.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["parquet", "csv", "jsonl", "google-merchant", "shopify"]),
    help="By default by the ending of FILE: .parquet, .csv, .tsv or .jsonl.",
)
@click.option("--taxonomy", metavar="FILE", help="Categories of your own to suggest; see docs/taxonomy.md.")
@click.option(
    "--events",
    metavar="FILE",
    help="What customers did, for recommended_with; as for `tagger recommend`.",
)
@click.option(
    "--unmatched", metavar="FILE", help="Where names that mean no image go, and why: .csv or .parquet."
)
@click.option("-k", type=int, default=10, help="Similar products of each.  [default: 10]")
@click.option("--in-stock", is_flag=True, help="Similar products must be in stock.")
@click.option(
    "--similar-from",
    type=click.Choice(["any", "same", "other"]),
    default="any",
    help="Category of similar products.  [default: any]",
)
@click.option(
    "--min-likeness",
    type=float,
    default=-1.0,
    metavar="X",
    help="Least score of similar ones.",
)
@click.option("--min-side", type=int, default=500, metavar="PX", help="Smaller is too_small.  [default: 500]")
@click.option("--id-column", metavar="NAME", help="Column that names the product.")
@click.option("--image-column", metavar="NAME", multiple=True, help="Column with images; may be repeated.")
@click.option("--category-column", metavar="NAME", help="Column with the category.")
@click.option("--title-column", metavar="NAME", help="Column with the title.")
@click.option("--stock-column", metavar="NAME", help="Column that tells whether it is in stock.")
@click.option("--separator", metavar="TEXT", help="Between the images of a cell.  [default: any of | ; ,]")
@click.option("--encoding", metavar="NAME", help="Of a text file, if it is not UTF-8 or Windows-1252.")
@click.option("--delimiter", metavar="CHAR", help=r"Between the cells of a text file; \t is a tab.")
@click.option("--sheet", metavar="NAME", help="Sheet of a workbook.  [default: the first]")
@click.option(
    "--address",
    help="Ray cluster that compares the images; `local` starts one here.  [default: this process]",
)
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def enrich(
    collection: str,
    catalog: str,
    *,
    out: str,
    kind: str | None,
    unmatched: str | None,
    address: str | None,
    anonymous: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Add what its pictures show to the products of CATALOG.

    CATALOG is CSV, TSV, Parquet, JSON Lines or XLSX, with a row or several for each product and the names of
    its images: image_id, uri or file name. All of its columns come back as they were. Added are tags,
    categories, colours, a suggested category, alternative texts, similar products and quality flags.
    """
    from tagger.catalog import EnrichOptions, FlagRules, Rules
    from tagger.catalog import enrich as run
    from tagger.search import Collection
    from tagger.storage import StorageOptions

    for name, path in (("--out", out), ("--unmatched", unmatched), ("CATALOG", catalog)):
        require_local(name, path)
    options = EnrichOptions(
        similar=Rules(
            in_stock=given.pop("in_stock"),
            category=given.pop("similar_from"),
            min_cosine=given.pop("min_likeness"),
        ),
        flags=FlagRules(min_side_px=given.pop("min_side")),
        image_columns=given.pop("image_column"),
        **given,
    )
    opened = Collection.open(collection, StorageOptions(anonymous=anonymous))
    done = run(
        opened,
        catalog,
        out,
        format=kind,
        options=options,
        unmatched=unmatched,
        address=address,
        say=teller(quiet=quiet),
    )
    if as_json:
        print_json(done.to_json())
        return 0
    print(f"read as   {printable(done.read_as)}; {printable(done.columns)}")
    print(f"products  {done.products:,} in {done.rows:,} rows")
    print(f"enriched  {done.enriched:,}; {done.missing:,} have no picture in the collection")
    joined = ", ".join(f"{count:,} by {how}" for how, count in done.joined.items()) or "none"
    print(f"images    {done.images:,} different ones; joined: {joined}")
    for row in done.examples:
        where = f"row {row['row']}, product {printable(row['product_id'])}: {printable(row['name'])}"
        print(f"          {row['problem']}: {where} ({printable(row['detail'] or '')})")
    lost = sum(done.unmatched.values())
    if lost:
        counts = ", ".join(f"{count:,} {what}" for what, count in done.unmatched.items())
        more = "" if unmatched or lost <= len(done.examples) else "; --unmatched FILE writes all"
        print(f"unmatched {lost:,} names of images: {counts}{more}")
    if done.flags:
        print(f"flagged   {', '.join(f'{count:,} {flag}' for flag, count in done.flags.items())}")
    for reason, count in done.left_out.items():
        print(f"left out  {count:,}: {reason}")
    for remark, count in done.remarks.items():
        print(f"note      {count:,} {remark}")
    print(f"written   {', '.join(map(printable, done.files))} in {done.seconds:.1f} s")
    return 0
