"""`tagger search` and `tagger recommend`: questions to an indexed collection."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tagger.cli import print_json, printable, require_local, teller
from tagger.errors import UsageError

if TYPE_CHECKING:
    from tagger.search import Collection, Found


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which images may be found."""
    options = [
        click.option(
            "--tag", "tags", multiple=True, metavar="T", help="Only with this tag; repeat for all of them."
        ),
        click.option(
            "--any-tag", "any_tags", multiple=True, metavar="T", help="Only with one of these; repeat."
        ),
        click.option("--not-tag", "not_tags", multiple=True, metavar="T", help="None with this tag; repeat."),
        click.option(
            "--min-score",
            type=float,
            default=0.0,
            help="Least score of --tag and --any-tag; without them, of any tag.",
        ),
        click.option("--color", help="Only where this colour covers a tenth of the picture."),
        click.option("--min-width", type=int, default=0, metavar="PX", help="Only as wide as this."),
        click.option("--min-height", type=int, default=0, metavar="PX", help="Only as high as this."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _filter(given: dict[str, Any]) -> dict[str, Any]:
    """Return the filter that the options ask for; takes them out of `given`."""
    return {
        "tags_all": given.pop("tags"),
        "tags_any": given.pop("any_tags"),
        "tags_none": given.pop("not_tags"),
        "min_score": given.pop("min_score"),
        "color": given.pop("color"),
        "min_width_px": given.pop("min_width"),
        "min_height_px": given.pop("min_height"),
    }


@click.command()
@click.argument("collection")
@click.argument("query")
@click.option("-k", type=int, default=10, help="Most matches.  [default: 10]")
@click.option("--offset", type=int, default=0, help="Matches to skip, for the next page.")
@_filter_options
@click.option("--fold", is_flag=True, help="Show one of several images with the same picture.")
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def search(collection: str, query: str, *, anonymous: bool, as_json: bool, **given: Any) -> int:
    """Find the images of COLLECTION that are like QUERY.

    QUERY is an image file, an image_id, or a tag or category. A tag in QUERY or in a filter also finds its
    descendants: dog finds every breed.
    """
    asked = _filter(given)
    opened = _open(collection, anonymous=anonymous)
    found = opened.search(query, filter=asked, **given)
    _warn_if_behind(opened)
    _print_found(found, as_json=as_json)
    return 0


@click.command()
@click.argument("collection")
@click.option("--like", multiple=True, metavar="ID", help="An image_id that was liked; repeat.")
@click.option("--dislike", multiple=True, metavar="ID", help="One that was disliked; repeat.")
@click.option(
    "--events", metavar="FILE", help="CSV or Parquet of what customers did: for all of them at once."
)
@click.option("--out", metavar="FILE", help="With --events: where the recommendations go, .csv or .parquet.")
@click.option(
    "--products", metavar="FILE", help="With --events: product_id and image_id, if events name products."
)
@click.option("-k", type=int, default=10, help="Most recommendations, for each customer.  [default: 10]")
@click.option(
    "--diversity",
    type=float,
    help="From 0, the most similar, to 1, the most different.  [default: 0.3; with --events 0.1]",
)
@_filter_options
@click.option("--anonymous", is_flag=True, help="Open a public bucket without credentials.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object.")
def recommend(collection: str, *, anonymous: bool, quiet: bool, as_json: bool, **given: Any) -> int:
    """Recommend images of COLLECTION: to somebody who liked some, or to every customer in a file of events.

    The file has the columns user_id, image_id or product_id, event (view, click, like, add_to_cart, purchase,
    dislike, …) and timestamp.
    """
    asked = _filter(given)
    if given["diversity"] is None:
        del given["diversity"]
    events, out, products = given.pop("events"), given.pop("out"), given.pop("products")
    if events is None:
        return _for_one(collection, asked, given, [out, products], anonymous=anonymous, as_json=as_json)
    if [*given.pop("like"), *given.pop("dislike")]:
        raise UsageError("--like and --dislike are for one customer: leave them out, or --events")
    for option, path in (("--events", events), ("--out", out), ("--products", products)):
        require_local(option, path)
    if out is None:
        raise UsageError("name with --out where the recommendations go: a .csv or .parquet file")

    opened = _open(collection, anonymous=anonymous)
    say = teller(quiet=quiet)
    done = opened.recommend_users(events, out, products=products, filter=asked, say=say, **given)
    _warn_if_behind(opened)
    if as_json:
        print_json(done.to_json())
        return 0
    cold = f", {done.cold:,} of them by what is popular" if done.cold else ""
    print(f"users    {done.users:,}{cold}")
    print(f"events   {done.events:,}")
    if done.unknown:
        print(f"unknown  {done.unknown:,} events of images that are not in the index")
    if done.incomplete:
        print(f"left out {done.incomplete:,} events without a user or an image")
    print(f"written  {printable(done.out)}, {done.rows:,} recommendations")
    return 0


def _for_one(
    collection: str,
    asked: dict[str, Any],
    given: dict[str, Any],
    of_events: list[str | None],
    *,
    anonymous: bool,
    as_json: bool,
) -> int:
    if any(of_events):
        raise UsageError("--out and --products belong to --events: add it, or leave them out")
    if not given["like"]:
        raise UsageError("name at least one liked image with --like, or a file with --events")
    opened = _open(collection, anonymous=anonymous)
    found = opened.recommend(given.pop("like"), given.pop("dislike"), filter=asked, **given)
    _warn_if_behind(opened)
    _print_found(found, as_json=as_json)
    return 0


def _print_found(found: "Found", *, as_json: bool) -> None:
    if as_json:
        print_json(found.to_json())
        return
    for match in found.matches:
        print(printable(str(match)))
    if not found.matches:
        print("no image matches", file=sys.stderr)
    elif found.next_offset is not None:
        print(f"more with --offset {found.next_offset}", file=sys.stderr)


def _warn_if_behind(collection: "Collection") -> None:
    behind = collection.opened_index().manifest.behind(collection.table.version)
    if behind:
        print(f"{behind}: `tagger index {printable(collection.uri)}` brings it up to date", file=sys.stderr)


def _open(collection: str, *, anonymous: bool) -> "Collection":
    from tagger.search import Collection
    from tagger.storage import StorageOptions

    return Collection.open(collection, StorageOptions(anonymous=anonymous))
