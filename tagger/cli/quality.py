"""`tagger duplicates` and `tagger outliers`: what a catalog holds twice, and what does not belong."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tagger.cli import print_json, printable, require_local, teller
from tagger.errors import UsageError

if TYPE_CHECKING:
    from tagger.search import Collection


@click.command()
@click.argument("collection")
@click.option(
    "--kind",
    type=click.Choice(["bytes", "picture", "near"]),
    default="near",
    help="bytes: equal files; picture: also encoded or resized anew; near: also cropped, mirrored, "
    "recoloured.  [default: near]",
)
@click.option(
    "--min-cosine", type=float, default=0.95, help="Likeness from which two are near.  [default: 0.95]"
)
@click.option(
    "--against",
    metavar="SOURCE",
    help="Tell which images of SOURCE the collection has already; they are read, and nothing is changed.",
)
@click.option(
    "--out", metavar="FILE", help="Where the groups, or with --against the images, go: .csv or .parquet."
)
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def duplicates(
    collection: str,
    *,
    kind: str,
    min_cosine: float,
    against: str | None,
    out: str | None,
    anonymous: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Group the images of COLLECTION that are the same or nearly the same picture.

    The first of each group is its best: the largest, then the sharpest. No image is read, but with --against
    those of SOURCE.
    """
    from tagger.storage import StorageOptions

    opened = _open(collection, out, anonymous=anonymous)
    if against is not None:
        return _against(
            opened,
            against,
            out,
            as_json=as_json,
            kind=kind,
            min_cosine=min_cosine,
            storage=StorageOptions(anonymous=anonymous),
            say=teller(quiet=quiet),
        )
    found = opened.duplicates(out, kind=kind, min_cosine=min_cosine, say=teller(quiet=quiet))  # type: ignore[arg-type]
    if as_json:
        print_json(found.to_json())
        return 0
    if out is None:
        for group in found.largest:
            _print_group(group)
    kinds = ", ".join(f"{count:,} {name}" for name, count in found.kinds.items() if count)
    print(f"groups   {found.groups:,} with {found.images:,} images" + (f": copies {kinds}" if kinds else ""))
    if out is not None:
        print(f"written  {printable(out)}")
    elif found.groups > len(found.largest):
        print(f"these are the {len(found.largest)} largest; --out FILE writes all", file=sys.stderr)
    return 0


def _against(opened: "Collection", source: str, out: str | None, *, as_json: bool, **given: Any) -> int:
    found = opened.compare(source, out, **given)
    if as_json:
        print_json(found.to_json())
        return 0
    if out is None:
        for row in found.first:
            here = f"{printable(row['image_id'])} is {printable(row['match'])}"
            print(f"{row['verdict']:<8} {row['cosine']:.3f}  {here}")
        if sum(found.known.values()) > len(found.first):
            print(f"these are the first {len(found.first)}; --out FILE writes all", file=sys.stderr)
    kinds = ", ".join(f"{count:,} {name}" for name, count in found.known.items() if count)
    print(
        f"known    {sum(found.known.values()):,} of {found.images:,} images" + (f": {kinds}" if kinds else "")
    )
    print(f"new      {found.new:,}" + (f", and {found.failed:,} that cannot be used" if found.failed else ""))
    if out is not None:
        print(f"written  {printable(out)}")
    return 0


def _print_group(group: dict[str, Any]) -> None:
    best, *others = group["rows"]
    print(f"{printable(best['image_id'])}  {best['width_px']} x {best['height_px']}")
    for row in others:
        size = f"{row['width_px']} x {row['height_px']}"
        print(f"    {row['kind']:<8} {row['cosine']:.3f}  {size:<12} {printable(row['image_id'])}")
    if group["images"] > len(group["rows"]):
        print(f"    and {group['images'] - len(group['rows']):,} more")


@click.command()
@click.argument("collection")
@click.option(
    "--within", metavar="TAG", help="Only images with this tag or category, compared with each other."
)
@click.option("--share", type=float, default=0.01, help="Share of the images to list.  [default: 0.01]")
@click.option("--out", metavar="FILE", help="Where the list goes, .csv or .parquet.")
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def outliers(
    collection: str,
    *,
    within: str | None,
    share: float,
    out: str | None,
    anonymous: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """List the images of COLLECTION that do not look like their peers, the strangest first.

    Each is measured by its distance to the ten images nearest to it, as a percentile: 0.99 is farther from
    them than 99 of 100 images are. No image is read.
    """
    opened = _open(collection, out, anonymous=anonymous)
    found = opened.outliers(out, within=within, share=share, say=teller(quiet=quiet))
    if as_json:
        print_json(found.to_json())
        return 0
    if out is None:
        for row in found.first:
            print(f"{row['percentile']:.4f}  {row['distance']:.3f}  {printable(row['image_id'])}")
        if found.outliers > len(found.first):
            print(f"these are the first {len(found.first)}; --out FILE writes all", file=sys.stderr)
    print(f"listed   {found.outliers:,} of {found.images:,} images")
    if out is not None:
        print(f"written  {printable(out)}")
    return 0


def _open(collection: str, out: str | None, *, anonymous: bool) -> "Collection":
    from tagger.outfile import ENDINGS
    from tagger.search import Collection
    from tagger.storage import StorageOptions

    require_local("--out", out)
    if out is not None and Path(out).suffix.lower() not in ENDINGS:
        raise UsageError(f"--out must end in .parquet or .csv, got {out!r}")
    return Collection.open(collection, StorageOptions(anonymous=anonymous))
