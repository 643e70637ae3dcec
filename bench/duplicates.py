"""Duplicates planted among photos, and time and memory at a million rows: `python -m bench.duplicates`.

python -m bench.duplicates                  20,000 pictures through decoder and CNN; 1,000,000 look-alikes
python -m bench.duplicates --quick          1,000 and 5,000, to see that it works
python -m bench.duplicates --write-docs     put the tables into docs/benchmarks.md

A picture is a crop of one real photo with a crop of another one laid into it, so that 20,000 different ones
can be made of 66 photos. Of some, altered copies lie among the others. A pair that is found but was not
planted counts as wrong, though pictures of the same two photos may well look alike.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import io
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations
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
BEGIN: Final = "<!-- duplicates: begin, written by `python -m bench.duplicates --write-docs` -->"
END: Final = "<!-- duplicates: end -->"

_PX: Final = (480, 360)
_COPIES: Final = 40  # one picture in so many has a copy of each kind


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pictures: int
    rows: int


QUICK: Final = Plan(pictures=1_000, rows=5_000)
FULL: Final = Plan(pictures=20_000, rows=1_000_000)


def _encoded(picture: Image, quality: int = 85) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _inset(picture: Image, share: float) -> Image:
    w, h = picture.size
    return picture.crop((int(w * share), int(h * share), int(w * (1 - share)), int(h * (1 - share))))


def _recoloured(picture: Image) -> Image:
    from PIL import Image as Pillow

    hue, saturation, value = picture.convert("HSV").split()
    return Pillow.merge("HSV", (hue.point(lambda x: (x + 60) % 256), saturation, value)).convert("RGB")


def _mirrored(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.mirror(picture)


COPIES: Final[dict[str, Callable[[Image], bytes]]] = {
    "the same bytes": _encoded,
    "encoded again": lambda picture: _encoded(picture, 60),
    "half the size": lambda picture: _encoded(picture.resize((picture.width // 2, picture.height // 2))),
    "2 % cut off each side": lambda picture: _encoded(_inset(picture, 0.02)),
    "5 % cut off each side": lambda picture: _encoded(_inset(picture, 0.05)),
    "mirrored": lambda picture: _encoded(_mirrored(picture)),
    "made grey": lambda picture: _encoded(picture.convert("L").convert("RGB")),
    "hues turned by 85°": lambda picture: _encoded(_recoloured(picture)),
}


def picture(i: int) -> Image:
    """Return picture `i`, always the same."""
    rng = random.Random(i)
    photos = _photos()
    back, front = (photos[rng.randrange(len(photos))] for _ in range(2))
    whole = cut(back, rng, _PX, least=0.4)
    share = rng.uniform(0.35, 0.6)
    small = (int(_PX[0] * share), int(_PX[1] * share))
    place = (rng.randrange(_PX[0] - small[0]), rng.randrange(_PX[1] - small[1]))
    whole.paste(cut(front, rng, small, least=0.4), place)
    return whole


_photos = functools.cache(lookalike.photos)


def _write(task: tuple[str, int, bool]) -> None:
    folder, i, with_copies = task
    made = picture(i)
    (Path(folder) / f"{i:06d}_0_original.jpg").write_bytes(_encoded(made))
    if with_copies:
        for n, make in enumerate(COPIES.values(), 1):
            (Path(folder) / f"{i:06d}_{n}_copy.jpg").write_bytes(make(made))


def plant(folder: Path, pictures: int) -> int:
    """Write pictures and copies, `pictures` in all; return how many have copies."""
    each = _COPIES + len(COPIES)
    originals = pictures * _COPIES // each
    with ProcessPoolExecutor() as pool:
        tasks = ((str(folder), i, i % _COPIES == 0) for i in range(originals))
        list(pool.map(_write, tasks, chunksize=32))
    return -(-originals // _COPIES)


def of_name(image_id: str) -> tuple[int, int]:
    """Return which picture a file is, and which copy of it."""
    number, copy, _ = image_id.rpartition("/")[2].split("_")
    return int(number), int(copy)


def judge(rows: list[dict[str, Any]], planted: int) -> dict[str, Any]:
    """Return recall by kind of copy, and the precision of all pairs, at each kind of duplicates.

    A copy is found if it is in the group of its original. Of a group, every pair counts.
    """
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    found: Counter[str] = Counter()
    right = wrong = 0
    names = list(COPIES)
    for group in groups.values():
        members = [of_name(row["image_id"]) for row in group]
        originals = {number for number, copy in members if copy == 0}
        found.update(names[copy - 1] for number, copy in members if copy and number in originals)
        for one, other in combinations(members, 2):
            right += one[0] == other[0]
            wrong += one[0] != other[0]
    return {
        "recall": {name: found[name] / planted for name in names},
        "pairs": right + wrong,
        "precision": right / max(1, right + wrong),
    }


def measure_planted(plan: Plan, folder: Path) -> dict[str, Any]:
    """Tag planted pictures and judge every kind."""
    photos = folder / "photos"
    photos.mkdir()
    planted = plant(photos, plan.pictures)
    print(f"{plan.pictures:,} pictures, {planted:,} with {len(COPIES)} copies each", flush=True)
    run = tagger.tag(str(photos), str(folder / "c"), quiet=True)
    opened = tagger.open(folder / "c")
    opened.index()
    kinds = {}
    for kind in ("bytes", "picture", "near"):
        out = folder / f"{kind}.parquet"
        began = time.perf_counter()
        opened.duplicates(out, kind=kind)
        seconds = time.perf_counter() - began
        kinds[kind] = judge(pq.read_table(out).to_pylist(), planted) | {"seconds": seconds}
    return {"images": run.tagged, "planted": planted, "kinds": kinds}


def measure_large(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Run the commands over look-alikes, each in a process of its own, with its peak of memory."""
    place = folder / "large"
    vectors = folder / "vectors"
    made = lookalike.write_collection(
        place, lookalike.make(lookalike.real_embeddings(), plan.rows, seed=1, path=vectors)
    )
    tagger.open(made.uri).index()
    vectors.unlink()
    command = str(Path(sys.executable).with_name("tagger"))
    found = []
    for words in (["duplicates", "--kind", "picture"], ["duplicates"], ["outliers"]):
        out = folder / "out.parquet"
        full = [command, words[0], str(place), *words[1:], "--out", str(out), "--quiet", "--json"]
        said, seconds, peak = run_measured(full, folder)
        said.pop("largest", None)
        said.pop("first", None)
        found.append({"command": f"tagger {' '.join(words)}", "seconds": seconds, "peak_bytes": peak, **said})
        print(found[-1], flush=True)
    return found


def render(results: dict[str, Any]) -> str:
    """Return the whole report as Markdown."""
    planted = results["planted"]
    kinds = planted["kinds"]
    rows = [[f"found: {name}", *(f"{kinds[kind]['recall'][name]:.3f}" for kind in kinds)] for name in COPIES]
    rows.append(["pairs found", *(f"{kinds[kind]['pairs']:,}" for kind in kinds)])
    rows.append(["precision of these pairs", *(f"{kinds[kind]['precision']:.3f}" for kind in kinds)])
    rows.append(["seconds", *(f"{kinds[kind]['seconds']:.1f}" for kind in kinds)])
    large = [
        [one["command"], f"{one['seconds']:.0f}", f"{one['peak_bytes'] / 1e6:,.0f}"]
        for one in results["large"]
    ]
    return "\n\n".join(
        [
            measured_on(results),
            (
                f"{planted['images']:,} pictures, {planted['planted']:,} of them with {len(COPIES)} copies "
                "each; the share of the copies that is found, by the weakest kind that counts:"
            ),
            markdown_table(["", *(f"`--kind {kind}`" for kind in kinds)], rows),
            f"{results['rows']:,} images, start-up and opening the index included; memory with mapped files:",
            markdown_table(["command", "seconds", "peak MB"], large),
        ]
    )


def main() -> int:
    """Measure, print, and with --write-docs put the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    a = parser.parse_args()
    plan = QUICK if a.quick else FULL
    results: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "quick": a.quick,
        "machine": machine.describe(),
        "rows": plan.rows,
    }
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-duplicates-", dir=cache) as folder:
        results["planted"] = measure_planted(plan, Path(folder))
        results["large"] = measure_large(plan, Path(folder))
    report.publish(
        "duplicates", results, render(results), page=DOCS if a.write_docs else None, begin=BEGIN, end=END
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
