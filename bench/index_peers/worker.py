"""What every engine's process does: reads a request a line, measures, answers with a line of JSON.

    {"do": "build"}                                          build or open what will be searched
    {"do": "use", "effort": {…}, "filter": null}             how hard to try, and what may be found
    {"do": "find", "queries": FILE}                          the ten best of every query, by number
    {"do": "first", "queries": FILE}                         how long one query takes
    {"do": "time", "threads": 8, "queries": FILE, …}         how long queries take, asked one at a time
    {"do": "memory"}                                         what the process holds

Engines take turns: while one is asked, the others wait for their next line and use no core.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

K = 10
WARM_UP = 20


@dataclass(frozen=True)
class Job:
    """What all engines are given.

    Attributes:
        vectors: File of float16 embeddings, row after row.
        rows: How many count.
        dim: Values in each.
        allowed: File (.npy) of a bool a row: what the filter admits.
        collection: The same images as a collection of tagger.
        folder: For the engine's own files.
        cores: Of this machine.
    """

    vectors: Path
    rows: int
    dim: int
    allowed: Path
    collection: str
    folder: Path
    cores: int

    def to_json(self) -> str:
        """Return it as an argument for the engine's process."""
        return json.dumps(self.__dict__, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        given = json.loads(text)
        return cls(**given | {name: Path(given[name]) for name in ("vectors", "allowed", "folder")})

    def load_vectors(self) -> npt.NDArray[np.float16]:
        """Return the embeddings, mapped."""
        return np.memmap(self.vectors, np.float16, "r", shape=(self.rows, self.dim))

    def load_allowed(self) -> npt.NDArray[np.bool_]:
        """Return what the filter admits."""
        allowed: npt.NDArray[np.bool_] = np.load(self.allowed)[: self.rows]
        return allowed


class Engine(Protocol):
    """Something that finds the nearest images."""

    def build(self) -> dict[str, Any]:
        """Make ready to search; returns facts for the report."""

    def use(self, effort: dict[str, Any], tag: str | None) -> None:
        """Take another effort and filter from now on."""

    def search(self, query: Floats) -> Any:
        """Return the ten images nearest to a query of shape (D,): what is timed."""

    def keys(self, found: Any) -> list[int]:
        """Return the numbers of the images that `search` found."""


def serve(make: Callable[[Job], Engine]) -> None:
    """Answer requests until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what an engine prints must not be taken for an answer
    engine = make(Job.from_json(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(engine, request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    answers.flush()
    os._exit(0)  # no engine's threads may keep the bench waiting


def _answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "build":
            began = time.perf_counter()
            facts = engine.build()
            return {"build_s": time.perf_counter() - began, **facts}
        case "use":
            began = time.perf_counter()
            engine.use(request["effort"], request["filter"])
            return {"use_s": time.perf_counter() - began}
        case "find":
            queries = np.load(request["queries"])[: request.get("most")]
            return {"keys": [engine.keys(engine.search(query)) for query in queries]}
        case "first":
            query = np.load(request["queries"])[0]
            began = time.perf_counter()
            engine.search(query)
            return {"ms": (time.perf_counter() - began) * 1000}
        case "time":
            queries = np.load(request["queries"])
            return measure(
                engine.search, queries, threads=request["threads"], limit_s=request.get("limit_s", 10.0)
            )
        case "memory":
            return memory()
    raise ValueError(f"unknown request {request['do']!r}")


def measure(
    search: Callable[[Floats], Any], queries: Floats, *, threads: int, limit_s: float
) -> dict[str, float]:
    """Time queries, one at a time in each thread.

    One thread asks every query once. Several ask until the time is over, so that all of them are busy for as
    long as anything is measured; else the last ones would be measured with nobody beside them.

    Args:
        search: Answers one.
        queries: Shape (Q, D); each thread begins elsewhere.
        threads: Clients.
        limit_s: When to stop.

    Returns:
        `p50_ms`, `p99_ms`, `per_s` (answers of all threads together ÷ the time from the first question to the
        last answer), `queries` (asked in all).
    """
    clock = time.perf_counter
    ready = threading.Barrier(threads)

    def client(number: int) -> tuple[float, float, list[float]]:
        mine = np.roll(queries, -number * len(queries) // threads, axis=0)
        for query in mine[:WARM_UP]:
            search(query)
        ready.wait()
        took: list[float] = []
        start = ended = clock()
        for query in mine if threads == 1 else itertools.cycle(mine):
            began = clock()
            search(query)
            ended = clock()
            took.append(ended - began)
            if ended > start + limit_s:
                break
        return start, ended, took

    if threads == 1:
        turns: Sequence[tuple[float, float, list[float]]] = [client(0)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            turns = list(pool.map(client, range(threads)))
    wall_s = max(ended for _, ended, _ in turns) - min(start for start, _, _ in turns)
    every = np.concatenate([took for _, _, took in turns]) * 1000
    p50, p99 = np.percentile(every, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "per_s": len(every) / wall_s, "queries": len(every)}


def memory() -> dict[str, int]:
    """Return bytes of this process: `own` (nobody else's, not backed by a file) and `mapped` (of files)."""
    found = {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return {"own": found["Pss_Anon"] + found["Pss_Shmem"], "mapped": found["Pss_File"]}
