"""The commit log alone, at as many parts as a billion images make; the parts are files of one byte."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.scale_driver import keys, wish
from tagger.collection import Collection, Part, new_run_id
from tagger.engine.ledger import GROUP_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tagger.collection import Writer

_FILLED: Final = 100  # parts of one commit, between the sizes that are looked at
_TIMED: Final = 9  # commits of one part each, as in a run


def measure_log(sizes: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Commit the parts of so many images, and at each size time what a run does.

    Args:
        sizes: Numbers of images, ascending.
        folder: For the table.

    Returns:
        For each size `parts`, `commit_s`, `commit_cpu_s` (medians of commits of one part), `open_s`,
        `checkpoint_s`, `checkpoint_bytes`, `handle_bytes` (what this process grew by since the empty table).
    """
    collection = folder / "collection"
    made = wish(str(collection), folder / "model")
    table = Collection.create_or_open(made.uri, made.config, taxonomy=made.taxonomy, head=made.prepared.head)
    empty = _resident()
    found = []
    parts = 0
    with table.writer(new_run_id(), "bench") as writer:
        for images in sizes:
            wanted = -(-images // GROUP_ROWS)
            while parts < wanted - _TIMED:
                count = min(_FILLED, wanted - _TIMED - parts)
                writer.commit([_part(collection, parts + n) for n in range(count)])
                parts += count
            found.append({"images": images, **_timed(writer, collection, parts), "grew": _resident() - empty})
            parts += _TIMED
            print(f"log of {images:,} images: {found[-1]}", flush=True)
    return found


def _timed(writer: Writer, collection: Path, parts: int) -> dict[str, Any]:
    walls, cpus = [], []
    for n in range(_TIMED):
        part = _part(collection, parts + n)
        began, cpu = time.perf_counter(), time.process_time()
        writer.commit([part])
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    opened = time.perf_counter()
    fresh = Collection.open(str(collection)).table
    rows = fresh.rows
    open_s = time.perf_counter() - opened
    assert rows == (parts + _TIMED) * GROUP_ROWS
    began = time.perf_counter()
    fresh.handle.create_checkpoint()
    checkpoint_s = time.perf_counter() - began
    log = collection / "tags" / "_delta_log"
    checkpoints = sorted(log.glob("*.checkpoint*.parquet"))
    return {
        "parts": parts + _TIMED,
        "commit_s": statistics.median(walls),
        "commit_cpu_s": statistics.median(cpus),
        "open_s": open_s,
        "checkpoint_s": checkpoint_s,
        "checkpoint_bytes": checkpoints[-1].stat().st_size,
        "json_bytes": len((log / f"{writer.version:020}.json").read_bytes()),
    }


def _part(collection: Path, number: int) -> Part:
    """Return a part as a run makes it, but for its content."""
    name = f"{new_run_id()}-{uuid.uuid4().hex}.parquet"
    (collection / "tags" / name).write_bytes(b"x")
    ends = [
        keys(n, n + 1)["image_id"][0].as_py() for n in (number * GROUP_ROWS, (number + 1) * GROUP_ROWS - 1)
    ]
    stats = {
        "numRecords": GROUP_ROWS,
        "minValues": {"image_id": ends[0]},
        "maxValues": {"image_id": ends[1]},
        "nullCount": {"image_id": 0},
    }
    return Part(name, 1, GROUP_ROWS, json.dumps(stats, separators=(",", ":")))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
