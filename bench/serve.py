"""The search API under load, and from start to ready, in one run: `python -m bench.serve`.

python -m bench.serve                  100,000 images under load; from start to ready with 1,000,000
python -m bench.serve --quick          5,000 images and short, to see that it works
python -m bench.serve --write-docs     put the tables into docs/benchmarks.md

The server has one core and the client another; requests come at random moments at a given rate, whatever the
server does. «Unloaded» is a tenth of the promised rate.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bench import http_load, lookalike, machine, report
from bench.index import forget
from bench.memory import family
from bench.report import Target, markdown_table, measured_on, medians, targets_table
from tagger.index import index
from tagger.testing import make_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.http_load import Load

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- serve: begin, written by `python -m bench.serve --write-docs` -->"
END: Final = "<!-- serve: end -->"

RATES: Final = {"by image_id": 300.0, "by uploaded image": 60.0}
LEVELS: Final = {"unloaded": 0.1, "promised": 1.0, "overload": 4.0}
_CORE_OF_SERVER, _CORE_OF_CLIENT = 0, 1
_WARM_UP_S: Final = 3.0
_MB: Final = 1e6


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    images: int
    cold_images: int
    seconds: float
    rounds: int


QUICK: Final = Plan(images=5_000, cold_images=5_000, seconds=3.0, rounds=1)
FULL: Final = Plan(images=100_000, cold_images=1_000_000, seconds=20.0, rounds=3)


class Served:
    """`tagger serve` on one core."""

    def __init__(self, collection: Path, core: int | None = _CORE_OF_SERVER) -> None:
        pin = [] if core is None else ["taskset", "-c", str(core)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [
                *pin,
                *(str(Path(sys.executable).with_name("tagger")), "serve", str(collection)),
                *("--port", "0", "--json", "--quiet", "--rate", "1000000"),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # its family is told by the session
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 300)
        line = self.process.stdout.readline() if readable else b""
        if b'"url"' not in line:
            self._log.seek(0)
            raise RuntimeError(f"the server did not start: {line!r} {self._log.read()!r}")
        self.ready_s = time.perf_counter() - began
        self.port = int(json.loads(line)["url"].rpartition(":")[2])

    def memory_mb(self) -> dict[str, float]:
        """Return its memory: its own, and with the files it maps."""
        found = {}
        for text in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            name, _, value = text.partition(":")
            if name in {"RssAnon", "VmRSS"}:
                found[name] = int(value.split()[0]) * 1024 / _MB
        return found

    def cpu_s(self) -> float:
        """Return the CPU time of the server and its decoder, in seconds."""
        return sum(process.cpu_s for process in family(self.process.pid, {}))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def served(collection: Path, core: int | None = _CORE_OF_SERVER) -> Iterator[Served]:
    server = Served(collection, core)
    try:
        yield server
    finally:
        server.stop()


def questions(images: int, seed: int = 5) -> dict[str, list[bytes]]:
    """Return requests of each kind."""
    rng = np.random.default_rng(seed)
    ids = lookalike.image_ids(rng.integers(images, size=4000)).to_pylist()
    photos = [data for _, data in make_photos(64, seed=7)]
    return {
        "by image_id": [
            http_load.request("/v1/search", json.dumps({"image_id": one, "k": 10}).encode()) for one in ids
        ],
        "by uploaded image": [http_load.upload("/v1/search", photo, k="10") for photo in photos],
    }


def measure_load(server: Served, asked: dict[str, list[bytes]], plan: Plan) -> dict[str, Any]:
    """Measure every kind at every level, in turns, and give the medians of the rounds."""
    found: dict[str, Any] = {}
    for kind, requests in asked.items():
        rate = RATES[kind]
        http_load.run(server.port, requests, per_s=rate / 2, seconds=_WARM_UP_S)
        rounds: dict[str, list[dict[str, Any]]] = {level: [] for level in LEVELS}
        for turn in range(plan.rounds):
            for level, factor in LEVELS.items():
                seconds = plan.seconds * (3 if factor < 1 else 1)
                before = server.cpu_s()
                load: Load = http_load.run(
                    server.port, requests, per_s=rate * factor, seconds=seconds, seed=turn
                )
                used = (server.cpu_s() - before) / load.seconds
                rounds[level].append(load.to_json() | {"server_cpu": used})
                print(f"{kind}, {level}: {_short(rounds[level][-1])}", flush=True)
                time.sleep(1.0)
        found[kind] = {level: medians(turns) for level, turns in rounds.items()}
        found[kind]["memory"] = server.memory_mb()
    return found


def _short(of: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in of.items() if isinstance(value, float | int))


def measure_start(collection: Path, images: int) -> dict[str, Any]:
    """Measure from start to ready with nothing of the index in memory, and with all of it."""
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(3):
        forget(collection)
        for name in ("cold", "warm"):
            with served(collection, None) as server:
                times[name].append(server.ready_s)
                memory = server.memory_mb()
    size = sum(path.stat().st_size for path in (collection / "index").rglob("*") if path.is_file())
    return {
        "images": images,
        "bytes": size,
        "memory": memory,
        **{name: float(np.median(some)) for name, some in times.items()},
    }


def targets(results: dict[str, Any]) -> list[Target]:
    """Compare what was measured with what is promised for a server on one core."""
    found = []
    for kind, promised_p99 in (("by image_id", 25.0), ("by uploaded image", None)):
        if kind not in results["load"]:
            continue
        levels = results["load"][kind]
        found.append(
            Target(
                f"{kind}: answered per second", "≥", RATES[kind] * 0.99, levels["promised"]["answered_per_s"]
            )
        )
        if promised_p99 is not None:
            found.append(
                Target(f"{kind}: p99 at that rate, ms", "≤", promised_p99, levels["promised"]["p99_ms"])
            )
        over, calm = levels["overload"]["p99_ms"], levels["unloaded"]["p99_ms"]
        found.append(Target(f"{kind}: p99 at 4 x the rate ÷ unloaded", "≤", 2.0, over / calm))
        found.append(
            Target(
                f"{kind}: requests that failed otherwise",
                "≤",
                0,
                sum(levels[one]["failed"] for one in LEVELS),
            )
        )
    if "start" in results:
        found.append(Target("start to ready, s", "≤", 5.0, results["start"]["cold"]))
    return found


def render(results: dict[str, Any]) -> str:
    """Return the whole report as Markdown."""
    parts = [measured_on(results), targets_table(targets(results))]
    rows = []
    for kind, levels in results["load"].items():
        for level in LEVELS:
            of = levels[level]
            rows.append(
                [
                    kind,
                    level,
                    f"{of['wanted_per_s']:.0f}",
                    f"{of['answered_per_s']:.0f}",
                    _ms(of["p50_ms"]),
                    _ms(of["p99_ms"]),
                    f"{of['refused'] / of['sent']:.0%}",
                    _ms(of["refused_p99_ms"]),
                    f"{of['server_cpu']:.2f}",
                    f"{of['client_cpu']:.2f}",
                ]
            )
    columns = [
        *("Search", "Load", "Asked/s", "Answered/s", "p50 ms", "p99 ms", "Refused", "p99 of refusals, ms"),
        *("Server, cores", "Client, cores"),
    ]
    parts.append(f"{results['images']:,} images, a server with one core:")
    parts.append(markdown_table(columns, rows))
    if "start" in results:
        start = results["start"]
        memory = start["memory"]
        parts.append(
            f"From start to ready with {start['images']:,} images ({start['bytes'] / 1e9:.1f} GB of index): "
            f"{start['cold']:.1f} s with the files not in memory, {start['warm']:.1f} s with them; "
            f"{memory['RssAnon']:,.0f} MB of its own memory, {memory['VmRSS']:,.0f} MB with mapped files."
        )
    return "\n\n".join(parts)


def _ms(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.1f}"


def main() -> int:
    """Measure, print, and with --write-docs put the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--only", choices=["load", "start"])
    a = parser.parse_args()
    plan = QUICK if a.quick else FULL
    real = lookalike.real_embeddings()
    described = machine.describe()
    os.sched_setaffinity(0, {_CORE_OF_CLIENT} if (os.cpu_count() or 1) > 1 else {0})
    results: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "quick": a.quick,
        "machine": described,
        "images": plan.images,
        "load": {},
    }
    with tempfile.TemporaryDirectory(prefix="bench-serve-", dir=_cache()) as folder:
        if a.only != "start":
            place = _collection(real, plan.images, Path(folder) / "load")
            with served(place) as server:
                results["load"] = measure_load(server, questions(plan.images), plan)
        if a.only != "load":
            place = _collection(real, plan.cold_images, Path(folder) / "start")
            results["start"] = measure_start(place, plan.cold_images)
    results["targets"] = report.as_json(targets(results))
    text = render(results)
    report.publish("serve", results, text, page=DOCS if a.write_docs else None, begin=BEGIN, end=END)
    return 0


def _cache() -> Path:
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    return cache


def _collection(real: lookalike.Real, images: int, place: Path) -> Path:
    """Write and index a collection with every core, before anything is measured."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        print(f"making a collection of {images:,} images", flush=True)
        vectors = place.with_suffix(".vectors")
        made = lookalike.write_collection(place, lookalike.make(real, images, seed=1, path=vectors))
        index(made)
        vectors.unlink()
    finally:
        os.sched_setaffinity(0, own)
    return place


if __name__ == "__main__":
    sys.exit(main())
