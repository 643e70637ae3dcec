"""`tagger demo`: the whole way on sample photos, in one folder that can be looked at and thrown away."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from tagger.catalog import Enriched, EnrichOptions, enrich
from tagger.engine import Run, tag
from tagger.errors import UsageError
from tagger.index import Indexed
from tagger.report import write_report
from tagger.search import Collection
from tagger.storage import canonical_uri

ENRICHED: Final = "enriched.parquet"
"""In the folder of products: what `tagger serve --catalog` takes."""

# Of the sample photos:
_QUERY = "chelsea.jpg"
_TAG = "dog"
_LIKED = ("german_shepherd.jpg", "koala.jpg")
_CATALOG, _EVENTS = "catalog.csv", "events.csv"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Where the demo left its results.

    Attributes:
        photos: Folder of the sample photos.
        collection: Folder of the collection.
        products: Folder of the sample catalog, enriched, and of the feeds made of it.
        report: The HTML report.
        run: What the tagging run did.
        index: What indexing it did.
        enriched: What was made of the catalog.
    """

    photos: str
    collection: str
    products: str
    report: str
    run: Run
    index: Indexed
    enriched: Enriched

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger demo --json` prints."""
        parts: dict[str, Any] = {name: getattr(self, name).to_json() for name in ("run", "index", "enriched")}
        return asdict(self) | parts


def demo(folder: Path, *, say: Callable[[str], None], quiet: bool = False) -> Demo:
    """Tag the sample photos, index them, search, recommend, enrich a catalog, and write a report.

    Args:
        folder: Where everything goes; photos and results of an earlier demo are used again.
        say: Takes one line at a time for the person who watches.
        quiet: Show no progress.

    Raises:
        UsageError: The folder holds other things, or cannot be one.
    """
    photos, collection = folder / "photos", folder / "collection"
    try:
        _put_photos(folder, photos)
    except OSError as error:
        raise UsageError(
            f"the demo cannot be put into {folder} ({error.strerror}): name another folder"
        ) from None
    say(f"$ tagger tag {photos} {collection}")
    run = tag(str(photos), str(collection), quiet=quiet)
    say(f"{run.tagged + run.skipped} photos tagged in {run.seconds:.1f} s")

    opened = Collection.open(str(collection))
    for row in _some_rows(opened):
        say(row)
    say(f"$ tagger index {collection}")
    indexed = opened.index()
    say(f"{indexed.count} images indexed in {indexed.seconds:.1f} s")
    say(f"$ tagger search {collection} {photos / _QUERY} -k 3")
    for match in opened.search(image=photos / _QUERY, k=3).matches:
        say(str(match))
    say(f"$ tagger search {collection} {_TAG} -k 3")
    for match in opened.search(tag=_TAG, k=3).matches:
        say(str(match))
    liked = [canonical_uri(str(photos / name)) for name in _LIKED]
    say(f"$ tagger recommend {collection} {' '.join(f'--like {one}' for one in liked)} -k 3")
    for match in opened.recommend(liked, k=3).matches:
        say(str(match))
    enriched = _enrich(opened, collection, folder / "products", say)
    say(f"$ tagger outliers {collection}")
    for strange in opened.outliers(share=3 / indexed.count).first:
        say(f"  {strange['percentile']:.2f}  {strange['image_id'].rsplit('/', 1)[-1]}")
    say(f"$ tagger report {collection}")
    report = write_report(opened)
    return Demo(
        photos=str(photos),
        collection=str(collection),
        products=str(folder / "products"),
        report=report.out,
        run=run,
        index=indexed,
        enriched=enriched,
    )


def _enrich(opened: Collection, place: Path, products: Path, say: Callable[[str], None]) -> Enriched:
    """Enrich the sample catalog: for people, for programs, and as feeds of two shops."""
    products.mkdir(exist_ok=True)
    with as_file(files("tagger") / "samples") as samples:
        for name in (_CATALOG, _EVENTS):
            shutil.copyfile(samples / name, products / name)
    catalog, options = products / _CATALOG, EnrichOptions(k=5, events=products / _EVENTS)
    say(f"$ tagger enrich {place} {catalog} -k 5 --events {options.events} --out {products / 'enriched.csv'}")
    unmatched = products / "unmatched.csv"
    done = enrich(opened, catalog, products / "enriched.csv", options=options, unmatched=unmatched)
    say(f"  {done.enriched} of {done.products} products have pictures; {done.missing} without: {unmatched}")
    for flag, count in done.flags.items():
        say(f"  {flag:<26} {count}")
    say(f"$ tagger enrich {place} {catalog} -k 5 --events {options.events} --out {products / ENRICHED}")
    enrich(opened, catalog, products / ENRICHED, options=options)
    for name, kind in (("google.txt", "google-merchant"), ("shopify.csv", "shopify")):
        say(f"$ tagger enrich {place} {catalog} --format {kind} --out {products / name}")
        enrich(opened, catalog, products / name, format=kind, options=options)
    return done


def _put_photos(folder: Path, photos: Path) -> None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file: name a new or empty folder")
    if folder.exists() and any(folder.iterdir()) and not photos.is_dir():
        raise UsageError(f"{folder} holds other files: name a new or empty folder")
    photos.mkdir(parents=True, exist_ok=True)
    with as_file(files("tagger") / "samples") as samples:
        for sample in sorted(samples.glob("*.jpg")):
            target = photos / sample.name
            if not target.exists():  # a copy has a new modification time: the image would be tagged again
                shutil.copyfile(sample, target)


def _some_rows(collection: Collection, count: int = 6) -> list[str]:
    """Return a line for some of the surest photos: file, best tag, its parents from near to far."""
    taxonomy = collection.taxonomy()
    rows = collection.tags(["image_id", "tags"]).read_all().to_pylist()
    rows = sorted(
        (row for row in rows if row["tags"]), key=lambda row: (-row["tags"][0]["score"], row["image_id"])
    )
    lines = []
    for row in rows[:count]:
        best = row["tags"][0]
        parents = "".join(f" → {name}" for name in taxonomy.ancestors(best["tag"])[:3])
        lines.append(f"  {row['image_id'].rsplit('/', 1)[-1]:<24} {best['tag']} {best['score']:.2f}{parents}")
    return lines
