"""Everything in one run, on one set of images, with one server: `python -m bench`."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import limit, machine, report
from bench.engine import run_engine, run_retag
from bench.peer_runs import PEERS, make_environment, run_peer
from bench.photos import FOLDER_IMAGES, put_all
from tagger.testing import SeaweedFS

if TYPE_CHECKING:
    from bench.photos import Photos

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
_CONVERT = "from bench import limit; limit.convert_model(); import os; os._exit(0)"
DOCS = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure, print the tables, write the JSON file, with --write-docs the page; 1 when something failed."""
    a = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started must end with it
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the load average is {load:.2f}: other programs run here, and the numbers will say less")
    images = 300 if a.quick else a.images
    large = max(100_000, images) if a.large else images
    peer_images = min(images, FOLDER_IMAGES)
    packages = None if a.no_peers else make_environment()
    (ROOT / ".cache").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / ".cache") as folder,
        SeaweedFS(Path(folder) / "server") as server,
    ):
        photos = put_all(server, images=images, large=large)
        results: dict[str, Any] = {
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
            "quick": a.quick,
            "images": images,
            "large": large,
            "peer_images": peer_images,
            "bytes_each": photos.bytes_each,
            "load_before": load,
            "machine": machine.describe(packages),
            **_measure(photos, [peer_images, images, large], Path(folder), peers=not a.no_peers),
        }
    results["targets"] = report.as_json(report.targets(results))
    path = _save(results)
    text = report.render(results)
    print(f"\n{text}\n\nwritten to {path}")
    if a.write_docs:
        DOCS.write_text(report.replace_block(DOCS.read_text(encoding="utf-8"), text), encoding="utf-8")
    errors = [
        run["error"]
        for run in [*results["engine"], results["retag"], *results["peers"].values()]
        if "error" in run
    ]
    bad = [run["check"] for run in results["engine"] if run.get("check", {}).get("exit_code", 0)]
    for error in [*errors, *bad]:
        print(f"FAILED: {error}", file=sys.stderr)
    return 1 if errors or bad else 0


def _measure(photos: Photos, sizes: list[int], folder: Path, *, peers: bool) -> dict[str, Any]:
    """Run every part in turn; the limit before and after the engine, so that a drift of the machine shows."""
    peer_images, images, large = sizes
    # Converting the model takes seconds once a machine and is cached; a run that finds it done counts.
    subprocess.run([sys.executable, "-c", _CONVERT], cwd=ROOT, check=True, stdout=sys.stderr)
    engine = {peer_images: _engine(photos, peer_images)}
    if "error" in engine[peer_images]:
        raise SystemExit(f"bench: {engine[peer_images]['error']}")
    collection = engine[peer_images]["collection"]
    before = _limit(photos, collection, peer_images, folder)
    for size in sorted({images, large} - {peer_images}):
        engine[size] = _engine(photos, size)
    after = _limit(photos, collection, peer_images, folder)
    print("tagger retag", flush=True)
    retag = run_retag(photos, engine[max(engine)])
    found = {}
    for name in PEERS if peers else ():
        print(f"{name}, {peer_images:,} images", flush=True)
        found[name] = run_peer(name, photos, peer_images)
    return {
        "limit": limit.merge([before, after]),
        "limit_drift": after["images_per_s"] / before["images_per_s"],
        "engine": [engine[size] for size in sorted(engine)],
        "retag": retag,
        "peers": found,
    }


def _engine(photos: Photos, images: int) -> dict[str, Any]:
    print(f"tagger tag, {images:,} images", flush=True)
    return run_engine(photos, images)


def _limit(photos: Photos, collection: str, images: int, folder: Path) -> dict[str, Any]:
    print("the limit, part by part", flush=True)
    uris = folder / "uris.txt"
    uris.write_text("".join(f"{photos.bucket.uri}/{key}\n" for key in photos.keys(images)), encoding="utf-8")
    command = [sys.executable, "-m", "bench.limit", str(uris), collection]
    done = subprocess.run(
        [*command, "--server-pid", str(photos.server.pid)],
        cwd=ROOT,
        env={**os.environ, **photos.server.env()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _save(results: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 images, to try the bench out")
    parser.add_argument("--images", type=int, default=10_000, help="photos for the engine  [default: 10000]")
    parser.add_argument("--large", action="store_true", help="also 100,000 photos (7 GB of disk)")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()
