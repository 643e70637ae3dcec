"""The similarity index against bare FAISS and against peers, in one run: `python -m bench.index`.

python -m bench.index                  1,000,000 and 200,000 images: 20 GB of disk
python -m bench.index --quick          30,000 and 25,000, to see that it works
python -m bench.index --write-docs     put the tables into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bench import index_report, lookalike, machine, report
from bench.index_peers.peers import PEERS
from bench.index_peers.process import EngineProcess
from bench.index_peers.worker import Job, K
from bench.memory import Watch
from bench.peer_runs import ENVIRONMENT, make_environment
from bench.report import medians
from tagger.collection import new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from bench.index_peers.peers import Effort, Ladder, Peer
    from bench.lookalike import Block, Floats, Keys, Real
    from tagger.engine.targets import Target

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs" / "benchmarks.md"

IMAGES_SEED, QUERIES_SEED, CHANGES_SEED = 1, 2, 3
CHANGED: Final = 0.01
THREADS: Final = (1, 8)
RANKING, SEARCH = "tagger, ranks", "tagger, whole query"
BARE: Final = "bare FAISS"
PATHS: Final = {SEARCH: {"path": "search"}, RANKING: {"path": "ranking"}}
FILTER: Final = "sale"
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1"}
"""For bare FAISS: `omp_set_num_threads` holds for the thread that calls it, and its clients are others."""

_BLOCK_ROWS: Final = 16_384
_PACKAGES: Final = ("tagger", "faiss-cpu", "numpy", "pyarrow", "pyroaring", "duckdb")
_PEER_PACKAGES: Final = ("lancedb", "hnswlib", "usearch")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        large: Images of the main collection.
        small: Images of the one that peers are compared on.
        queries: Of each measurement.
        rounds: In which engines take turns.
        limit_s: Most time for an engine's turn with one thread.
        busy_s: Time of its turn with several.
    """

    large: int
    small: int
    queries: int
    rounds: int
    limit_s: float
    busy_s: float


QUICK: Final = Plan(large=30_000, small=25_000, queries=300, rounds=2, limit_s=2.0, busy_s=1.0)
FULL: Final = Plan(large=1_000_000, small=200_000, queries=1000, rounds=5, limit_s=10.0, busy_s=4.0)


def main() -> int:
    """Measure, print the tables, write the JSON file, with --write-docs the page; 1 when a peer failed."""
    a = _arguments()
    plan = QUICK if a.quick else FULL
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the load average is {load:.2f}: other programs run here, and the numbers will say less")
    packages = None if a.no_peers else make_environment()
    real = lookalike.real_embeddings()
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-index-", dir=ROOT / ".cache") as folder:
        data = Data.make(Path(folder), real, plan)
        results: dict[str, Any] = {
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
            "quick": a.quick,
            "plan": plan.__dict__,
            "load_before": load,
            "machine": machine.describe() | {"versions": _versions(packages)},
            "alike": {
                "real": lookalike.describe(real.vectors),
                "look-alikes": data.describe(len(real.vectors)),
            },
        }
        if a.only != "large":
            results["small"] = measure_small(data, peers=not a.no_peers)
        if a.only != "small":
            results["large"] = measure_large(data, real)
    results["targets"] = report.as_json(index_report.targets(results))
    text = index_report.render(results)
    report.publish(
        "index",
        results,
        text,
        page=DOCS if a.write_docs else None,
        begin=index_report.BEGIN,
        end=index_report.END,
    )
    errors = results.get("small", {}).get("errors", [])
    for error in errors:
        print(f"FAILED: {error}", file=sys.stderr)
    return 1 if errors else 0


@dataclass(frozen=True)
class Data:
    """Look-alikes on disk, and queries that are not among them.

    Attributes:
        folder: Where everything of this run is.
        plan: How much.
        images: All of them; the small collection has the first.
        queries: Shape (Q, D).
        queries_file: The same, for the engines.
        vectors_file, allowed_file: The images, and what the filter admits, for the engines.
    """

    folder: Path
    plan: Plan
    images: Block
    queries: Floats
    queries_file: Path
    vectors_file: Path
    allowed_file: Path

    @classmethod
    def make(cls, folder: Path, real: Real, plan: Plan) -> Data:
        """Make them."""
        n = max(plan.large, plan.small)
        say(f"making {n:,} look-alikes")
        images = lookalike.make(real, n, seed=IMAGES_SEED, path=folder / "vectors.f16")
        queries = lookalike.make(real, plan.queries, seed=QUERIES_SEED).vectors.astype(np.float32)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "allowed.npy", images.has(FILTER))
        return cls(
            folder,
            plan,
            images,
            queries,
            folder / "queries.npy",
            folder / "vectors.f16",
            folder / "allowed.npy",
        )

    def job(self, collection: Path, rows: int) -> Job:
        """Return what an engine is given."""
        return Job(
            vectors=self.vectors_file,
            rows=rows,
            dim=self.queries.shape[1],
            allowed=self.allowed_file,
            collection=str(collection),
            folder=self.folder,
            cores=machine.cores(),
        )

    def describe(self, n: int) -> dict[str, Any]:
        """Describe the first look-alikes."""
        return lookalike.describe(self.images.vectors[:n])


# Exact neighbours and recall


def nearest(
    queries: Floats, sets: Sequence[tuple[npt.NDArray[np.float16], Keys]], k: int = K
) -> list[list[int]]:
    """Return the numbers of the `k` images nearest to each query, by brute force, best first.

    Args:
        queries: Shape (Q, D).
        sets: Embeddings (N, D), which may lie in files, and the number of each image.
        k: How many.
    """
    best = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for vectors, keys in sets:
        for start in range(0, len(keys), _BLOCK_ROWS):
            rows = np.asarray(vectors[start : start + _BLOCK_ROWS], np.float32)
            scores = queries @ rows.T
            keep = min(k, len(rows))
            places = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
            best = np.concatenate([best, np.take_along_axis(scores, places, axis=1)], axis=1)
            found = np.concatenate([found, keys[start + places]], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
    return [[int(key) for key in row if key >= 0] for row in found]


def recall(found: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> float:
    """Return the share of exact neighbours that were found."""
    hits = sum(len(set(mine) & set(truth)) for mine, truth in zip(found, exact, strict=True))
    return hits / max(1, sum(len(truth) for truth in exact))


def admitted(images: Block, tag: str | None) -> tuple[npt.NDArray[np.float16], Keys]:
    """Return the embeddings and numbers of the images that have a tag."""
    if tag is None:
        return images.vectors, np.arange(len(images))
    rows = np.flatnonzero(images.has(tag))
    return images.vectors[rows], rows


# Commands


def run_index(collection: Path, *options: str) -> dict[str, Any]:
    """Run `tagger index`, and return its own JSON with `wall_s` and memory as of `Watch.summary`.

    Raises:
        RuntimeError: It failed.
    """
    return _run("index", collection, "--quiet", *options)


def _run(command: str, collection: Path, *options: str) -> dict[str, Any]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("tagger"), command, collection, *options, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the family of this process is told by its session too
    )
    with Watch(process.pid, least_s=0.1) as watch:
        out, _ = process.communicate()
    wall_s = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"tagger {command} ended with {process.returncode}")
    return {**json.loads(out.splitlines()[-1]), "wall_s": wall_s, **watch.summary()}


def forget(folder: Path) -> None:
    """Take the files of a folder out of the page cache, as after a restart of the machine."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# Engines


@dataclass
class Runner:
    """An engine that takes turns with others.

    Attributes:
        process: Where it runs.
        effort: How hard it tries.
        rounds: What its turns measured, by number of threads.
        recall: Of the ten nearest.
    """

    process: EngineProcess
    effort: Effort
    recall: float = 0.0
    rounds: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return medians over the turns."""
        return {
            "effort": self.effort,
            "recall": self.recall,
            "threads": {str(n): medians(turns) for n, turns in self.rounds.items()},
        }


def take_turns(
    runners: dict[str, Runner], tag: str | None, exact: list[list[int]], data: Data
) -> dict[str, Any]:
    """Measure recall once and time in several rounds; returns the summary of each engine."""
    queries = str(data.queries_file)
    for runner in runners.values():
        runner.process.ask("use", effort=runner.effort, filter=tag)
        runner.recall = recall(runner.process.ask("find", queries=queries)["keys"], exact)
    for _ in range(data.plan.rounds):
        for threads in THREADS:
            for runner in runners.values():
                runner.process.ask("use", effort=runner.effort, filter=tag)
                limit_s = data.plan.limit_s if threads == 1 else data.plan.busy_s
                turn = runner.process.ask("time", queries=queries, threads=threads, limit_s=limit_s)
                runner.rounds.setdefault(threads, []).append(turn)
    return {name: runner.summary() for name, runner in runners.items()}


def choose(
    ladders: Sequence[Ladder], try_out: Callable[[Effort], tuple[float, float]], least: float
) -> Effort:
    """Return the effort to compare with: of those whose recall is enough the fastest, else the best there is.

    Args:
        ladders: Each from the least effort to the most.
        try_out: Returns recall and time of an effort.
        least: Recall that is enough.
    """
    enough: list[tuple[float, Effort]] = []
    best: tuple[float, Effort] = (-1.0, {})
    for ladder in ladders:
        for effort in ladder:
            found, took = try_out(effort)
            best = max(best, (found, effort), key=lambda pair: pair[0])
            if found >= least:
                enough.append((took, effort))
                break
    return min(enough, key=lambda pair: pair[0])[1] if enough else best[1]


def tune(
    peer: Peer, process: EngineProcess, tag: str | None, *, exact: list[list[int]], data: Data, least: float
) -> Effort:
    """Return the effort of a peer that finds enough in the least time."""
    queries = str(data.queries_file)

    def try_out(effort: Effort) -> tuple[float, float]:
        process.ask("use", effort=effort, filter=tag)
        found = recall(process.ask("find", queries=queries)["keys"], exact)
        if found < least:
            return found, 0.0
        return found, process.ask("time", queries=queries, threads=1, limit_s=2.0)["p50_ms"]

    return choose(peer.filtered if tag else peer.ladders, try_out, least)


# The two collections


def measure_small(data: Data, *, peers: bool) -> dict[str, Any]:
    """Every kind of index, then `ivf` against bare FAISS and the peers."""
    n = data.plan.small
    images = data.images.part(slice(0, n))
    folder = data.folder / "small"
    say(f"writing a collection of {n:,} images")
    lookalike.write_collection(folder, images)
    exact = {tag: nearest(data.queries, [admitted(images, tag)]) for tag in (None, FILTER)}
    job = data.job(folder, n)
    kinds = {}
    for kind in ("flat", "ivf-pq", "ivf"):
        say(f"building {kind}")
        made = run_index(folder, "--kind", kind, "--rebuild")
        with EngineProcess("tagger_index", job) as process:
            opened = process.ask("build")
            measured = take_turns({SEARCH: Runner(process, PATHS[SEARCH])}, None, exact[None], data)
            kinds[kind] = made | {"opened": opened, "memory": process.ask("memory"), **measured[SEARCH]}
    found: dict[str, Any] = {"count": n, "admitted": len(admitted(images, FILTER)[1]), "kinds": kinds}
    with ExitStack() as stack:
        processes: dict[str, EngineProcess] = {}

        def start(name: str, module: str, **more: Any) -> dict[str, Any]:
            say(f"building {name}")
            processes[name] = stack.enter_context(EngineProcess(module, job, **more))
            return processes[name].ask("build")

        built = {
            "tagger": start("tagger", "tagger_index"),
            BARE: start(BARE, "bare_faiss", environ=ONE_THREAD),
        }
        found["errors"] = errors = []
        for name, peer in PEERS.items() if peers else ():
            try:
                built[name] = start(name, peer.module, python=ENVIRONMENT / "bin" / "python")
                built[name]["memory"] = processes[name].ask("memory")
            except RuntimeError as error:  # the others are measured all the same
                errors.append(str(error))
        found["built"] = built
        for label, tag in (("unfiltered", None), ("filtered", FILTER)):
            runners = {name: Runner(processes["tagger"], effort) for name, effort in PATHS.items()}
            if tag is None:
                runners[BARE] = Runner(processes[BARE], {})
            least = 0.95
            if tag is None:  # with a filter tagger is exact, which nobody else can be asked to be
                processes["tagger"].ask("use", effort=PATHS[SEARCH], filter=tag)
                mine = processes["tagger"].ask("find", queries=str(data.queries_file))["keys"]
                least = recall(mine, exact[tag])
            for name in (name for name in PEERS if name in built):
                say(f"how hard {name} must try, {label}")
                try:
                    effort = tune(PEERS[name], processes[name], tag, exact=exact[tag], data=data, least=least)
                except RuntimeError as error:
                    errors.append(str(error))
                else:
                    runners[name] = Runner(processes[name], effort)
            say(f"taking turns, {label}")
            found[label] = {"least": least, "engines": take_turns(runners, tag, exact[tag], data)}
    return found


def measure_large(data: Data, real: Real) -> dict[str, Any]:
    """Build, open, search with and without filters, update, retag."""
    n = data.plan.large
    images = data.images.part(slice(0, n))
    folder = data.folder / "large"
    say(f"writing a collection of {n:,} images")
    began = time.perf_counter()
    lookalike.write_collection(folder, images)
    found: dict[str, Any] = {"count": n, "write_s": time.perf_counter() - began}
    tags = (None, *lookalike.TAUGHT)
    say("looking for the exact neighbours")
    exact = {tag: nearest(data.queries, [admitted(images, tag)]) for tag in tags}
    say("building")
    found["build"] = run_index(folder)
    job = data.job(folder, n)
    forget(folder / "index")
    with EngineProcess("tagger_index", job) as process:
        found["cold"] = process.ask("build")
    with ExitStack() as stack:
        mine = stack.enter_context(EngineProcess("tagger_index", job))
        found["opened"] = mine.ask("build")
        runners = {name: Runner(mine, effort) for name, effort in PATHS.items()}
        if found["build"]["kind"] != "flat":
            bare = stack.enter_context(EngineProcess("bare_faiss", job, environ=ONE_THREAD))
            bare.ask("build")
            runners[BARE] = Runner(bare, {})
        say("taking turns")
        found["unfiltered"] = take_turns(runners, None, exact[None], data)
        found["memory"] = mine.ask("memory")
        found["filtered"] = {}
        for tag in lookalike.TAUGHT:
            mine.ask("use", effort=PATHS[SEARCH], filter=tag)
            first_ms = mine.ask("first", queries=str(data.queries_file))["ms"]
            turns = take_turns({SEARCH: Runner(mine, PATHS[SEARCH])}, tag, exact[tag], data)
            found["filtered"][tag] = turns[SEARCH] | {
                "admitted": len(admitted(images, tag)[1]),
                "first_ms": first_ms,
            }
    found["update"] = measure_update(data, real, images, folder)
    say("retagging")
    retag = _run("retag", folder, "--threshold", "0.2")
    say("updating after the retag")
    found["retag"] = {"retag_s": retag["wall_s"], "index": run_index(folder)}
    return found


def measure_update(data: Data, real: Real, images: Block, folder: Path) -> dict[str, Any]:
    """Change 1 % of the images all over the table, update the index, and look for what must not be there."""
    say("changing 1 % of the images")
    n = len(images)
    third = max(1, round(n * CHANGED / 3))
    rng = np.random.default_rng(CHANGES_SEED)
    chosen = np.sort(rng.permutation(n)[: 2 * third])
    removed, again = (np.sort(part) for part in np.split(rng.permutation(chosen), 2))
    changed = lookalike.make(real, 2 * third, seed=CHANGES_SEED)
    keys = np.concatenate([again, np.arange(n, n + third)])
    began = time.perf_counter()
    change(lookalike.open_target(folder), keys, changed, removed=removed, again=again)
    commit_s = time.perf_counter() - began
    say("updating")
    made = run_index(folder)
    stay = np.setdiff1d(np.arange(n), chosen)
    sets = [
        *((images.vectors[some], some) for some in np.array_split(stay, -(-n // _BLOCK_ROWS))),
        (changed.vectors, keys),
    ]
    exact = nearest(data.queries, sets)
    gone = data.folder / "gone.npy"
    np.save(gone, images.vectors[chosen].astype(np.float32))
    with EngineProcess("tagger_index", data.job(folder, n)) as process:
        opened = process.ask("build")
        process.ask("use", effort=PATHS[SEARCH], filter=None)
        answers = process.ask("find", queries=str(data.queries_file))["keys"]
        nearby = process.ask("find", queries=str(gone))["keys"]  # asked for the very vectors that are gone
        measured = take_turns({SEARCH: Runner(process, PATHS[SEARCH])}, None, exact, data)[SEARCH]
        own = data.folder / "changed.npy"
        np.save(own, changed.vectors.astype(np.float32))
        themselves = process.ask("find", queries=str(own))["keys"]
    return {
        "removed": len(removed),
        "retagged": len(again),
        "new": third,
        "commit_s": commit_s,
        "index": made,
        "opened": opened,
        "queries": len(answers) + len(nearby),
        "removed_found": sum(len(set(answer) & set(removed.tolist())) for answer in [*answers, *nearby]),
        "changed_found": sum(int(key) in answer for key, answer in zip(keys, themselves, strict=True))
        / len(keys),
        **measured,
    }


def change(target: Target, keys: Keys, changed: Block, *, removed: Keys, again: Keys) -> None:
    """Commit new rows for some images and take others out, as `tagger tag --prune` does.

    Args:
        target: The collection.
        keys: Numbers of the images that get rows.
        changed: Their embeddings.
        removed: Images that go.
        again: Images among `keys` that have a row, which is replaced.
    """
    rows = lookalike.Rows(target, new_run_id())
    with target.collection.writer(rows.run_id, "bench") as writer:
        old = lookalike.image_ids(np.concatenate([removed, again])).to_pylist()
        wanted, places = set(old), {}
        for batch in target.collection.table.scan(["image_id"], part_column=True):
            for image_id, part in zip(
                batch.column("image_id").to_pylist(), batch.column("part").to_pylist(), strict=True
            ):
                if image_id in wanted:
                    places.setdefault(part, set()).add(image_id)
        writer.commit([rows.part(keys, changed, seed=CHANGES_SEED)], replaced=places)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def _versions(peer_packages: Path | None) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    if peer_packages is not None:
        for found in importlib.metadata.distributions(path=[str(peer_packages)]):
            if found.name in _PEER_PACKAGES:
                versions[found.name] = found.version
    return versions


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="30,000 and 25,000 images, to try the bench out")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument(
        "--only", choices=["small", "large"], help="only the collection for peers, or the other"
    )
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
