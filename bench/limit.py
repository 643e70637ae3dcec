"""The limit of the machine: what each part costs alone, in CPU seconds per image.

`python -m bench.limit` prints one JSON object; `bench.run` starts it as a process of its own. The parts run
one after the other, never together, each on all images, several times over; the median counts. CPU time is
user plus system time of all threads, so waiting costs nothing and other programs disturb little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the decoder's child; before NumPy is imported

import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import cores
from bench.memory import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import pyarrow as pa

    from tagger.models import PreparedModel

FETCH_THREADS = 16
PART_ROWS = 4096


@dataclass(frozen=True)
class Cost:
    """What one part costs.

    Attributes:
        name: Of the part.
        cpu_ms: CPU milliseconds per image, the median of `repeats`.
        wall_ms: Wall milliseconds per image, likewise; with several threads it is less than the CPU time.
        repeats: CPU milliseconds per image of every repeat.
    """

    name: str
    cpu_ms: float
    wall_ms: float
    repeats: tuple[float, ...]

    @classmethod
    def of(cls, name: str, cpu_ms: Sequence[float], wall_ms: Sequence[float]) -> Cost:
        return cls(name, statistics.median(cpu_ms), statistics.median(wall_ms), tuple(cpu_ms))


def limit_of(parts: Sequence[Cost], available: int) -> float:
    """Return the images per second that `available` cores allow: cores / sum of CPU seconds per image."""
    return available / (sum(part.cpu_ms for part in parts) / 1000)


def merge(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the results of several runs of this program: medians over all their repeats."""
    names = [part["name"] for part in runs[0]["parts"]]
    parts = []
    for n, name in enumerate(names):
        repeats = [ms for run in runs for ms in run["parts"][n]["repeats"]]
        wall_ms = statistics.median(run["parts"][n]["wall_ms"] for run in runs)
        parts.append(Cost(name, statistics.median(repeats), wall_ms, tuple(repeats)))
    return summary(parts, cores=runs[0]["cores"], images=runs[0]["images"])


def summary(parts: Sequence[Cost], *, cores: int, images: int) -> dict[str, Any]:
    """Return the parts with their sum and the limit, ready for JSON."""
    return {
        "cores": cores,
        "images": images,
        "parts": [asdict(part) for part in parts],
        "sum_ms": sum(part.cpu_ms for part in parts),
        "images_per_s": limit_of(parts, cores),
    }


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _measure(name: str, work: Callable[[], object], images: int, repeats: int) -> Cost:
    work()  # caches, lazy imports, first connections
    cpu_ms, wall_ms = [], []
    for _ in range(repeats):
        cpu, wall = _own_cpu_s(), time.perf_counter()
        work()
        wall_ms.append((time.perf_counter() - wall) * 1000 / images)
        cpu_ms.append((_own_cpu_s() - cpu) * 1000 / images)
    return Cost.of(name, cpu_ms, wall_ms)


def measure_fetch(uris: Sequence[str], server_pid: int, repeats: int) -> tuple[Cost, Cost, list[bytes]]:
    """Read every image over S3; returns the client's cost, the server's cost, and the bytes.

    The server's share is the CPU time of its process meanwhile, read from /proc.
    """
    from tagger.storage import ImageReader

    reader = ImageReader()
    server_ms: list[float] = []
    client_ms: list[float] = []
    wall_ms: list[float] = []
    files: list[bytes] = []
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        for repeat in range(repeats + 1):
            server, cpu, wall = cpu_seconds(server_pid), _own_cpu_s(), time.perf_counter()
            files = list(pool.map(lambda uri: reader.read_image(uri)[0], uris, chunksize=8))
            if repeat == 0:
                continue
            wall_ms.append((time.perf_counter() - wall) * 1000 / len(uris))
            client_ms.append((_own_cpu_s() - cpu) * 1000 / len(uris))
            server_ms.append((cpu_seconds(server_pid) - server) * 1000 / len(uris))
    client = Cost.of(f"S3 GET, client ({FETCH_THREADS} threads)", client_ms, wall_ms)
    return client, Cost.of("S3 GET, server (SeaweedFS)", server_ms, wall_ms), files


def measure_sha256(files: Sequence[bytes], repeats: int) -> Cost:
    """Hash the bytes, as a row's sha256."""
    return _measure(
        "sha256", lambda: [hashlib.sha256(data).hexdigest() for data in files], len(files), repeats
    )


def measure_vision(files: Sequence[bytes], repeats: int) -> tuple[Cost, Cost, np.ndarray]:
    """Decode and measure; returns the cost of decoding, of all measurements, and the pixels (N, S, S, 3).

    tagger decodes and measures in one call, so decoding is that call less the measurements by themselves.
    """
    import numpy as np

    from tagger.models import DEFAULT_MODEL, find_model
    from tagger.vision import DecodeLimits
    from tagger.vision.decode import decode
    from tagger.vision.jpeg import decode_jpeg
    from tagger.vision.measure import measure

    framing = find_model(DEFAULT_MODEL).framing
    assert framing is not None
    limits = DecodeLimits()
    both = _measure(
        "decode", lambda: [decode(data, [framing], limits) for data in files], len(files), repeats
    )
    stored = [decode_jpeg(data, [framing], limits.max_pixels) for data in files]
    images = [s.image for s in stored if s is not None]
    measuring = _measure(
        "all measurements", lambda: [measure(image) for image in images], len(images), repeats
    )
    decoding = Cost.of(
        "decode",
        [b - measuring.cpu_ms for b in both.repeats],
        [both.wall_ms - measuring.wall_ms],
    )
    return decoding, measuring, np.stack([decode(data, [framing], limits).pixels[0] for data in files])


def convert_model() -> PreparedModel:
    """Return the default model as the engine's workers get it, from the cache if it is there."""
    from tagger.models import DEFAULT_MODEL, find_model, prepare
    from tagger.settings import load_settings

    return prepare(find_model(DEFAULT_MODEL), "openvino", cache_dir=load_settings().cache_dir)


def measure_model(pixels: np.ndarray, threads: int, repeats: int) -> Cost:
    """Run the default model, as a model actor would, on all cores."""
    from tagger.models import load

    prepared = convert_model()
    model = load(prepared, prepared.payload(), threads=threads)
    name = f"model ({prepared.name}, OpenVINO {prepared.precision}, {threads} threads)"
    return _measure(name, lambda: model(pixels), len(pixels), repeats)


def measure_parquet(rows: pa.Table, repeats: int) -> Cost:
    """Encode real rows of the tags table as parts, into memory."""
    import pyarrow as pa

    from tagger.collection import part_name, write_part
    from tagger.storage import open_store

    copies = max(1, PART_ROWS // rows.num_rows)
    table = pa.concat_tables([rows] * copies)
    store = open_store("memory://bench-limit")
    name = part_name("bench")
    return _measure("Parquet encoding", lambda: write_part(store, table, name), table.num_rows, repeats)


def read_rows(collection: str) -> pa.Table:
    """Return the rows of a collection that an earlier run of `tagger tag` made."""
    from deltalake import DeltaTable

    allow = {"AWS_ALLOW_HTTP": "true"} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:") else {}
    return DeltaTable(f"{collection}/tags", storage_options=allow).to_pyarrow_table()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("uris", type=Path, help="file with the images' addresses, one a line")
    parser.add_argument("collection", help="collection whose rows the Parquet encoding is measured with")
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    uris = a.uris.read_text(encoding="utf-8").splitlines()
    client, server, files = measure_fetch(uris, a.server_pid, a.repeats)
    sha256 = measure_sha256(files, a.repeats)
    decoding, measuring, pixels = measure_vision(files, a.repeats)
    model = measure_model(pixels, cores(), a.repeats)
    parquet = measure_parquet(read_rows(a.collection), a.repeats)
    parts = [client, server, sha256, decoding, measuring, model, parquet]
    print(json.dumps(summary(parts, cores=cores(), images=len(uris))), flush=True)
    os._exit(0)  # obstore's and OpenVINO's threads may end badly at interpreter exit


if __name__ == "__main__":
    main()
