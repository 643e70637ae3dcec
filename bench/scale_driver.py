"""One simulated run in a process of its own: the engine as it is, over images that do not exist.

Listing, fetching and the CNN are replaced by what costs nothing; the plan, its files, Ray and Ray Data, the
ledger, the parts, their receipts and the commits are those of `tagger tag`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.schema import SCHEMA
from tagger.engine.blocks import chunk_number, pack, table_of
from tagger.source import LISTING_SCHEMA, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tagger.engine.fetch import FetchSettings
    from tagger.engine.tagging import TagSettings
    from tagger.engine.targets import Wish

DIM: Final = 8
PAGE_KEYS: Final = 1000  # of one answer of S3
CHUNK_ROWS: Final = 512  # what a cluster gets
_PREFIX: Final = "s3://simulated/photos/"
_NAME: Final = "model-that-costs-nothing"
_LABELS: Final = ("tabby", "lynx", "daisy", "bridge")
_MOST_ROWS: Final = 512
_SAMPLE_S: Final = 0.5


class Keys(Source):
    """So many keys, in order, a page of S3 at a time; making one takes 0.3 µs.

    Args:
        images: How many.
    """

    def __init__(self, images: int) -> None:
        super().__init__(_PREFIX)
        self._images = images

    def covers(self, uri: str) -> bool:
        return uri.startswith(_PREFIX)

    def _tables(self) -> Iterator[pa.Table]:
        for start in range(0, self._images, PAGE_KEYS):
            yield keys(start, min(start + PAGE_KEYS, self._images))


def keys(start: int, stop: int) -> pa.Table:
    """Return the images of a range of numbers as the listing gives them."""
    numbers = pa.array(np.arange(start, stop))
    digits = pc.utf8_lpad(numbers.cast(pa.string()), 12, "0")
    folder = pc.utf8_slice_codeunits(digits, 0, 8)
    uris = pc.binary_join_element_wise(_PREFIX + "by-thousands/", folder, "/image-", digits, ".jpg", "")
    etags = pc.binary_join_element_wise("0123456789abcdef0123", digits, "")  # as long as those of S3
    sizes = pc.add(numbers, 70_000).cast(pa.int64())
    return pa.Table.from_arrays([uris, uris, etags, sizes], schema=LISTING_SCHEMA)


class FreeFetcher:
    """Stands in for `Fetcher`: reads nothing, hands the plan on."""

    def __init__(self, settings: FetchSettings, *, on_image: Callable[[], None]) -> None:
        del settings
        self._on_image = on_image

    def __call__(self, block: pa.Table) -> pa.Table:
        self._on_image()
        return block.append_column("seconds", pa.array([b"{}"], pa.large_binary()))

    def close(self) -> None:
        """Nothing is held."""


class FreeTagger:
    """Stands in for `Tagger`: every image gets the same tags and the same embedding of 8 numbers."""

    def __init__(
        self, settings: tuple[TagSettings, ...], payloads: tuple[Mapping[str, bytes], ...], *, threads: int
    ) -> None:
        del payloads, threads
        self._columns = _columns(settings[0])

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = table_of(block, "rows")
        n = rows.num_rows
        columns = [
            self._columns[name].slice(0, n) if name in self._columns else rows.column(name)
            for name in SCHEMA.names
        ]
        table = pa.table(columns, SCHEMA)
        for name in ("old_part", "old_error"):
            table = table.append_column(name, rows.column(name))
        return pack(chunk_number(block), seconds=b"{}", rows_0=table)


def _columns(settings: TagSettings) -> dict[str, pa.Array]:
    """Return what is the same for every image, as often as a chunk may need it."""
    one: dict[str, Any] = {
        "sha256": "0" * 64,
        "status": "tagged",
        "error": None,
        "error_detail": None,
        "width_px": 800,
        "height_px": 600,
        "format": "jpeg",
        "tags": [{"tag": _LABELS[0], "score": 0.75, "source": settings.source}],
        "categories": [],
        "colors": [{"hex": "#102030", "name": "blue", "fraction": 0.5}],
        "sharpness": 1.5,
        "brightness": 0.5,
        "phash": "0123456789abcdef",
        "embedding": [0.25] * 4 + [0.4330127] * 4,
        "embedding_norm": 2.0,
        "model_id": settings.prepared.model_id,
        "run_id": settings.run_id,
        "tagged_at": 1_700_000_000_000_000,
    }
    one["embedding"] = np.array(one["embedding"], np.float16).astype(np.float32).tolist()
    return {name: pa.array([value] * _MOST_ROWS, SCHEMA.field(name).type) for name, value in one.items()}


def wish(collection: str, folder: Path) -> Wish:
    """Return the collection of a model without weights, whose last layer is all zeros."""
    from tagger.collection import Config, Tagging
    from tagger.engine.targets import Wish
    from tagger.models import ModelSpec, PreparedModel
    from tagger.models.head import Head, head_to_bytes
    from tagger.models.prepared import HEAD_FILE
    from tagger.tags import load_taxonomy
    from tagger.vision import Framing

    head = head_to_bytes(Head(np.zeros((len(_LABELS), DIM), np.float32), np.zeros(len(_LABELS), np.float32)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEAD_FILE).write_bytes(head)
    prepared = PreparedModel(
        model_id=hashlib.sha256(_NAME.encode()).hexdigest(),
        name=_NAME,
        dim=DIM,
        framing=Framing(8, 8),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        labels=_LABELS,
        wnids=None,
        activation="softmax",
        backend="openvino",
        precision="f32",
        library="timm",
        architecture=_NAME,
        head_name="head",
        files=((HEAD_FILE, hashlib.sha256(head).hexdigest()),),
        folder=folder,
    )
    taxonomy = load_taxonomy(None, _LABELS)
    config = Config(
        model_id=prepared.model_id,
        model=_NAME,
        dim=DIM,
        labels=_LABELS,
        activation="softmax",
        head_sha256=prepared.head_sha256,
        tagging=Tagging.of(taxonomy, threshold=0.1, top_k=3),
    )
    spec = ModelSpec(name=_NAME, library="timm", architecture=_NAME, weights="hub")
    return Wish(collection, spec, prepared, taxonomy, config)


class Threads:
    """CPU seconds of the threads of this process by name, sampled; those of libraries by their own names."""

    def __init__(self, spill: Path) -> None:
        self._seen: dict[int, tuple[str, float]] = {}
        self._spill = spill
        self.spill_bytes = 0
        self.growth: list[tuple[float, int]] = []  # seconds, resident bytes
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.sample()

    def sample(self) -> None:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        for path in Path("/proc/self/task").iterdir():
            number = int(path.name)
            try:
                text = (path / "stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            # A number may be given again: a thread whose time fell is another one.
            name, before = self._seen.get(number, ("", 0.0))
            if cpu_s < before:
                self._seen[-len(self._seen) - 1] = (name, before)
            own = text[text.index("(") + 1 : text.rindex(")")]  # "python" where nobody gave the thread a name
            self._seen[number] = (names.get(number) or name or f"native: {own}", cpu_s)
        used = sum(f.stat().st_blocks * 512 for f in self._spill.rglob("*") if f.is_file())
        self.spill_bytes = max(self.spill_bytes, used)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        self.growth.append((round(time.monotonic() - self._began, 2), resident))

    def stop(self) -> dict[str, float]:
        self.sample()
        self._stop.set()
        self._thread.join()
        found: dict[str, float] = {}
        for name, cpu_s in self._seen.values():
            short = name.partition("-dataset")[0].rstrip("0123456789-_ ")
            found[short] = found.get(short, 0.0) + cpu_s
        return {name: round(cpu_s, 2) for name, cpu_s in sorted(found.items(), key=lambda x: -x[1])}


def timed_commits() -> list[dict[str, float]]:
    """Note when each commit of this process began, how long it took, and its CPU time."""
    from tagger.collection import Writer

    commits: list[dict[str, float]] = []
    commit = Writer.commit

    @functools.wraps(commit)
    def noting(self: Writer, add: Any = (), **options: Any) -> int:
        began, cpu = time.perf_counter(), time.thread_time()
        version = commit(self, add, **options)
        commits.append(
            {
                "version": version,
                "parts": len(add),
                "wall_s": time.perf_counter() - began,
                "cpu_s": time.thread_time() - cpu,
            }
        )
        return version

    Writer.commit = noting  # type: ignore[method-assign]
    return commits


def timed_plan() -> dict[str, float]:
    """Note what the planner's thread spends on planning and on storing."""
    from tagger.engine import planner

    spent = {"store_s": 0.0}
    run, add = planner.Planner._run, planner.PlanWriter.add  # noqa: SLF001 - to time what it calls

    def noting_run(self: Any) -> None:
        began, cpu = time.perf_counter(), time.thread_time()
        run(self)
        spent["wall_s"] = time.perf_counter() - began
        spent["cpu_s"] = time.thread_time() - cpu

    def noting_add(self: Any, chunk: Any) -> int:
        cpu = time.thread_time()
        number = add(self, chunk)
        spent["store_s"] += time.thread_time() - cpu
        return number

    planner.Planner._run = noting_run  # type: ignore[method-assign]  # noqa: SLF001
    planner.PlanWriter.add = noting_add  # type: ignore[method-assign]
    return spent


def simulate(images: int, collection: Path, *, cpus: int, chunk_rows: int) -> dict[str, Any]:
    """Tag `images` images that do not exist, and say what it cost this process."""
    os.environ["RAY_AUTH_MODE"] = "token"  # as the engine does before it imports Ray
    from tagger.engine import run, stream
    from tagger.settings import load_settings

    settings = load_settings()
    run.open_source = lambda *_, **__: Keys(images)
    run.wishes = lambda *_: [wish(str(collection), collection.parent / "model")]
    stream.ChunkStream = functools.partial(  # type: ignore[assignment, misc]
        stream.ChunkStream, make_fetcher=FreeFetcher, make_tagger=FreeTagger
    )
    commits, plan = timed_commits(), timed_plan()
    threads = Threads(settings.cache_dir / "spill")
    began, cpu = time.perf_counter(), time.process_time()
    result = run.tag(
        _PREFIX,
        collection,
        backend="openvino",
        precision="f32",
        cpus=cpus,
        chunk_rows=chunk_rows,
        quiet=True,
    )
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {
        "result": result.to_record(),
        "wall_s": wall_s,
        "driver_cpu_s": cpu_s,
        "driver_cpu_by_thread_s": threads.stop(),
        "driver_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "driver_growth": threads.growth,
        "spill_bytes": threads.spill_bytes,
        "plan_wall_s": plan["wall_s"],
        "plan_cpu_s": plan["cpu_s"],
        "plan_store_cpu_s": plan["store_s"],
        "commits": commits,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int)
    parser.add_argument("collection", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--chunk-rows", type=int, default=CHUNK_ROWS)
    a = parser.parse_args()
    found = simulate(a.images, a.collection.absolute(), cpus=a.cpus, chunk_rows=a.chunk_rows)
    a.out.write_text(json.dumps(found))
    return 0
