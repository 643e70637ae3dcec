"""The control plane over images that do not exist, and what it says of a billion: `python -m bench.scale`.

python -m bench.scale                             1,000,000 and 10,000,000 images, the log up to 1,000,000,000
python -m bench.scale --sizes 100000 --quick      to see that it works
python -m bench.scale --write-docs                put the tables into docs/scale.md

Listing, reading, decoding and the CNN are replaced by what costs nothing. Everything else is what a run of
`tagger tag` does: the plan and its files, Ray and Ray Data, the ledger, Parquet parts on a local disk, their
receipts, and commits into a Delta table under a lease and a fence. Each size is run twice: into an empty
collection, and again, when every image is settled and only compared.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import machine, report, scale_report
from bench.memory import Watch
from bench.scale_driver import CHUNK_ROWS
from bench.scale_log import measure_log

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs" / "scale.md"
SIZES: Final = (100_000, 1_000_000, 10_000_000)
LOG_SIZES: Final = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
QUICK_SIZES: Final = (20_000, 40_000)
QUICK_LOG_SIZES: Final = (1_000_000, 4_000_000)
# Not as a script: workers find the stages by the name of their module.
_DRIVER: Final = "import sys; from bench import scale_driver; sys.exit(scale_driver.main())"
_CHECKED: Final = 1_000_000  # `tagger check` reads every row: up to this size it says that they are right


def main() -> int:
    """Measure, print, write the JSON file, with --write-docs the page; 1 where rows are missing."""
    a = _arguments()
    sizes = a.sizes or (QUICK_SIZES if a.quick else SIZES)
    with tempfile.TemporaryDirectory(prefix="bench-scale-", dir=a.folder) as folder:
        results = {
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
            "quick": a.quick,
            "machine": machine.describe(),
            "load_before": os.getloadavg()[0],
            "cpus": a.cpus,
            "chunk_rows": a.chunk_rows,
            **measure(
                sizes,
                () if a.no_log else QUICK_LOG_SIZES if a.quick else LOG_SIZES,
                Path(folder),
                cpus=a.cpus,
                chunk_rows=a.chunk_rows,
            ),
        }
    results["load_after"] = os.getloadavg()[0]
    results["targets"] = report.as_json(scale_report.targets(results))
    report.publish(
        "scale",
        results,
        scale_report.render(results),
        page=DOCS if a.write_docs else None,
        begin=scale_report.BEGIN,
        end=scale_report.END,
    )
    return 0


def measure(
    sizes: Sequence[int], log_sizes: Sequence[int], folder: Path, *, cpus: int, chunk_rows: int
) -> dict[str, Any]:
    """Run every size twice, then the log alone.

    Returns:
        `runs`, `again`, `tables` (one for each size) and `log` (one for each of its sizes).
    """
    found: dict[str, Any] = {"runs": [], "again": [], "tables": [], "log": []}
    for images in sorted(sizes):
        collection = folder / f"collection-{images}" / "collection"
        for name in ("runs", "again"):
            run = run_driver(images, collection, cpus=cpus, chunk_rows=chunk_rows)
            result, wanted = run["result"], images if name == "runs" else 0
            if (result["listed"], result["planned"], result["tagged"]) != (images, wanted, wanted):
                raise RuntimeError(f"{images} images were listed, and the run says {result}")
            found[name].append(run)
            print(f"{name} {images:,}: {run['wall_s']:.1f} s, CPU {run['cpu_s']:.1f} s", flush=True)
        found["tables"].append(_look_at(collection, images, found["runs"][-1]["result"]["run_id"]))
        subprocess.run(["rm", "-rf", str(collection.parent)], check=True)
    if log_sizes:
        found["log"] = measure_log(log_sizes, folder / "log")
    return found


def run_driver(images: int, collection: Path, *, cpus: int, chunk_rows: int) -> dict[str, Any]:
    """Run the engine over so many images in a process of its own, watched from outside.

    Returns:
        What `scale_driver.simulate` says; also memory and CPU as `Watch.summary`, and `cpu_by_role_s`.
    """
    collection.parent.mkdir(parents=True, exist_ok=True)
    out = collection.parent / "driver.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _DRIVER, str(images), str(collection), str(out)),
            *("--cpus", str(cpus), "--chunk-rows", str(chunk_rows)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TAGGER_CACHE": str(collection.parent / "cache"),
        },
        start_new_session=True,
    )
    with Watch(process.pid) as watch:
        code = process.wait()
    if code:
        raise RuntimeError(f"the simulated run over {images} images ended with {code}")
    by_role = dict.fromkeys(("driver", "workers", "ray"), 0.0)
    for key, cpu_s in watch.cpu_by_process.items():
        by_role[watch.role(key)] += cpu_s
    return {"images": images, **json.loads(out.read_text()), **watch.summary(), "cpu_by_role_s": by_role}


def _look_at(collection: Path, images: int, run_id: str) -> dict[str, Any]:
    """Return sizes of what a run left, and how long a fresh look at the table takes."""
    from tagger.collection import Collection, check

    log = [file.stat().st_size for file in (collection / "tags" / "_delta_log").rglob("*") if file.is_file()]
    parts = [file.stat().st_size for file in (collection / "tags").glob("*.parquet")]
    plan = [file.stat().st_size for file in (collection / "runs" / run_id / "plan").iterdir()]
    began = time.perf_counter()
    opened = Collection.open(str(collection))
    rows = opened.table.rows
    open_s = time.perf_counter() - began
    if rows != images:
        raise RuntimeError(f"{images} images were tagged, and the table has {rows} rows")
    found: dict[str, Any] = {
        "images": images,
        "versions": opened.table.version,
        "parts": len(opened.table.parts()),
        "part_bytes": sum(parts),
        "log_bytes": sum(log),
        "plan_bytes": sum(plan),
        "plan_files": len(plan),
        "open_s": open_s,
    }
    if images <= _CHECKED:
        began = time.perf_counter()
        result = check(opened)
        found["check_s"] = time.perf_counter() - began
        if not result.ok:
            raise RuntimeError(f"{result.findings}")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="images of each simulated run")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--no-log", action="store_true", help="leave out the log of up to a billion images")
    parser.add_argument("--cpus", type=int, default=machine.cores(), help="logical CPUs of Ray")
    parser.add_argument("--chunk-rows", type=int, default=CHUNK_ROWS, help="images in a chunk, at most 512")
    parser.add_argument("--folder", type=Path, help="for the collections: 1 GB for 10,000,000 images")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/scale.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
