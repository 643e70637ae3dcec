"""Catalogs: quality flags against planted faults, and a million products: `python -m bench.catalog`.

python -m bench.catalog                  4,000 products with planted faults; 1,000,000 of 100,000 images
python -m bench.catalog --quick          400 and 20,000 of 2,000, to see that it works
python -m bench.catalog --write-docs     put the tables into docs/benchmarks.md

Faults. A picture is a crop of one real photo with a crop of another one laid into it, both of one of eight
groups of photos, which is the product's category: so products of a category have things in common, as in a
shop, and no two pictures are the same. Each fault is planted in one product of twenty, at most one in each. A
flag that is raised and was not planted counts as wrong.

Speed. The images are look-alikes of real embeddings (bench/lookalike.py). A product has one to three of them,
named by file, and its category is their best tag.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import functools
import io
import random
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

import tagger
from bench import lookalike, machine, report
from bench.lookalike import cut
from bench.memory import run_measured
from bench.report import markdown_table, measured_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- catalog: begin, written by `python -m bench.catalog --write-docs` -->"
END: Final = "<!-- catalog: end -->"

_PX: Final = (800, 600)
_LEAST_SIDE: Final = 390  # of photos: smaller ones would look blurred at this size
_GROUPS: Final = 8
_EVERY: Final = 20


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pictures: int
    products: int
    images: int


QUICK: Final = Plan(pictures=400, products=20_000, images=2_000)
FULL: Final = Plan(pictures=4_000, products=1_000_000, images=100_000)


def _encoded(picture: Image, quality: int = 88) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _blurred(picture: Image, rng: random.Random) -> bytes:
    from PIL import ImageFilter

    return _encoded(picture.filter(ImageFilter.GaussianBlur(rng.uniform(5, 12))))


def _tiny(picture: Image, rng: random.Random) -> bytes:
    height = rng.randint(150, 499)
    return _encoded(picture.resize((height * 4 // 3, height)))


def _dark(picture: Image, rng: random.Random) -> bytes:
    share = rng.uniform(0.05, 0.25)
    return _encoded(picture.point(lambda value: int(value * share)))


def _copied(picture: Image, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return _encoded(picture, 60)
    return _encoded(picture.resize((680, 510)), 80)


FAULTS: Final[dict[str, Callable[[Image, random.Random], bytes]]] = {
    "blurred": _blurred,
    "too_small": _tiny,
    "too_dark": _dark,
    "duplicate_of": _copied,
    "looks_unlike_its_category": lambda picture, _: _encoded(picture),
    "image_missing": lambda picture, _: _encoded(picture),
    "image_failed": lambda picture, _: _encoded(picture)[:20_000],
}


def fault_of(i: int) -> str | None:
    """Return what is the matter with product `i`."""
    kinds = list(FAULTS)
    return kinds[i % _EVERY] if i >= _EVERY and i % _EVERY < len(kinds) else None


def picture(i: int) -> Image:
    """Return the picture of product `i`; of a duplicate that of a sound product in front of it."""
    if fault_of(i) == "duplicate_of":
        i = i - i % _EVERY - 1
    rng = random.Random(i)
    photos = _groups()[i % _GROUPS]
    back, front = rng.sample(photos, 2)
    whole = cut(back, rng, _PX, least=0.7)
    share = rng.uniform(0.35, 0.6)
    small = (int(_PX[0] * share), int(_PX[1] * share))
    whole.paste(
        cut(front, rng, small, least=0.7),
        (rng.randrange(_PX[0] - small[0]), rng.randrange(_PX[1] - small[1])),
    )
    return whole


@functools.cache
def _groups() -> list[list[Image]]:
    photos = [photo for photo in lookalike.photos() if min(photo.size) >= _LEAST_SIDE]
    random.Random(7).shuffle(photos)
    return [photos[n::_GROUPS] for n in range(_GROUPS)]


def category_of(i: int) -> str:
    """Return the category that the catalog says product `i` has."""
    if fault_of(i) == "duplicate_of":
        i = i - i % _EVERY - 1
    swapped = fault_of(i) == "looks_unlike_its_category"
    return f"Category {(i + (1 + i // _EVERY % (_GROUPS - 1)) * swapped) % _GROUPS}"


def _write(task: tuple[str, int]) -> None:
    folder, i = task
    fault = fault_of(i)
    made = picture(i)
    data = _encoded(made) if fault is None else FAULTS[fault](made, random.Random(-i))
    (Path(folder) / f"{i:06d}.jpg").write_bytes(data)


def measure_planted(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Make pictures, tag them, enrich a catalog of them, and judge each flag."""
    photos = folder / "photos"
    photos.mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, ((str(photos), i) for i in range(plan.pictures)), chunksize=16))
    tagger.tag(str(photos), str(folder / "c"), quiet=True)
    opened = tagger.open(folder / "c")
    opened.index()
    with (folder / "catalog.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "category", "image"])
        for i in range(plan.pictures):
            name = f"{i:06d}.jpg" if fault_of(i) != "image_missing" else f"{i:06d}-gone.jpg"
            out.writerow([i, category_of(i), name])
    tagger.enrich(opened, folder / "catalog.csv", folder / "out.parquet")
    raised: dict[str, set[int]] = defaultdict(set)
    rows = pq.read_table(folder / "out.parquet", columns=["id", "quality_flags"]).to_pylist()
    for row in rows:
        for flag in row["quality_flags"]:
            raised[flag["flag"]].add(int(row["id"]))
    return [
        _judged(flag, {i for i in range(plan.pictures) if fault_of(i) == flag}, raised[flag])
        for flag in FAULTS
    ]


def _judged(flag: str, planted: set[int], raised: set[int]) -> dict[str, Any]:
    right = len(planted & raised)
    return {
        "flag": flag,
        "planted": len(planted),
        "raised": len(raised),
        "recall": right / max(1, len(planted)),
        "precision": right / max(1, len(raised)),
        "wrong": sorted(raised - planted)[:20],
        "lost": sorted(planted - raised)[:20],
    }


def write_catalog(path: Path, shown: dict[str, list[str]], products: int) -> None:
    """Write a catalog of products that show one to three images of what they are, by file name."""
    rng = random.Random(11)
    kinds, sizes = list(shown), [len(names) for names in shown.values()]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["sku", "title", "brand", "price", "category", "availability", "images", "description"])
        for i in range(products):
            (kind,) = rng.choices(kinds, sizes)
            images = "|".join(rng.choice(shown[kind]) for _ in range(rng.randint(1, 3)))
            stock = "in stock" if rng.random() < 0.9 else "out of stock"
            price = f"{rng.randint(1, 500)},{rng.randint(0, 99):02d}"
            about = f"Product {i}, made of things that are usual in a shop; 100 % of what it says."
            out.writerow([f"{i:07d}", f"Product {i}", f"Brand {i % 97}", price, kind, stock, images, about])


def measure_large(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Run the command over look-alikes, each time in a process of its own, with its peak of memory."""
    place, vectors = folder / "large", folder / "vectors"
    made = lookalike.write_collection(
        place, lookalike.make(lookalike.real_embeddings(), plan.images, seed=1, path=vectors)
    )
    opened = tagger.open(made.uri)
    opened.index()
    vectors.unlink()
    shown: dict[str, list[str]] = defaultdict(list)
    for batch in opened.tags(["image_id", "tags"]):
        for row in batch.to_pylist():
            best = row["tags"][0]["tag"] if row["tags"] else "other"
            shown[best].append(row["image_id"].rpartition("/")[2])
    del opened
    write_catalog(folder / "large.csv", shown, plan.products)
    command = str(Path(sys.executable).with_name("tagger"))
    found = []
    for words in (["out.csv"], ["out.parquet"], ["out.csv", "--similar-from", "same", "--in-stock"]):
        full = [command, "enrich", str(place), str(folder / "large.csv"), "--out", str(folder / words[0])]
        said, seconds, peak = run_measured([*full, *words[1:], "--quiet", "--json"], folder)
        found.append(
            {
                "command": " ".join(["tagger enrich … --out", *words]),
                "seconds": seconds,
                "peak_bytes": peak,
                "bytes": (folder / words[0]).stat().st_size,
                "products": said["products"],
                "images": said["images"],
            }
        )
        print(found[-1], flush=True)
    return found


def render(results: dict[str, Any]) -> str:
    """Return the whole report as Markdown."""
    flags = [
        [
            f"`{one['flag']}`",
            str(one["planted"]),
            str(one["raised"]),
            f"{one['recall']:.3f}",
            f"{one['precision']:.3f}",
        ]
        for one in results["flags"]
    ]
    large = [
        [
            f"`{one['command']}`",
            f"{one['seconds']:.0f}",
            f"{one['peak_bytes'] / 1e6:,.0f}",
            f"{one['bytes'] / 1e6:,.0f}",
        ]
        for one in results["large"]
    ]
    first = results["large"][0]
    return "\n\n".join(
        [
            measured_on(results),
            f"{results['pictures']:,} products with one picture each:",
            markdown_table(["flag", "planted", "raised", "recall", "precision"], flags),
            (
                f"{first['products']:,} products with one to three of {first['images']:,} images, from CSV; "
                "start-up and opening the index included; memory with mapped files:"
            ),
            markdown_table(["command", "seconds", "peak MB", "file MB"], large),
        ]
    )


def main() -> int:
    """Measure, print, and with --write-docs put the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["flags", "large"])
    parser.add_argument("--write-docs", action="store_true")
    a = parser.parse_args()
    plan = QUICK if a.quick else FULL
    results: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "quick": a.quick,
        "machine": machine.describe(),
        "pictures": plan.pictures,
        "flags": [],
        "large": [],
    }
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-catalog-", dir=cache) as folder:
        if a.only != "large":
            results["flags"] = measure_planted(plan, Path(folder))
            for one in results["flags"]:
                print(one, flush=True)
        if a.only != "flags":
            results["large"] = measure_large(plan, Path(folder))
    if a.only is None:
        report.publish(
            "catalog", results, render(results), page=DOCS if a.write_docs else None, begin=BEGIN, end=END
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
