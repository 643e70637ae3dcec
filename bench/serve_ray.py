"""The search API through Ray Serve against the plain server, in one run: `python -m bench.serve_ray`.

python -m bench.serve_ray               21,000 images, queries by image_id; about 3 minutes
python -m bench.serve_ray --write-docs  put the table into docs/benchmarks.md

One replica against one server, so that what differs is what stands before it: nothing, HAProxy, or Ray's own
proxy in Python. Each gets the same requests at the same rates. CPU is that of the server or replica and of
what stands before it; Ray's own housekeeping is left out.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench import http_load, lookalike, machine, report
from bench.memory import cpu_seconds
from bench.report import markdown_table, measured_on
from bench.serve import DOCS, ROOT, _cache, _collection, questions, served

sys.path[:0] = [str(ROOT / "tests" / "serve"), str(ROOT / "tests" / "e2e")]
from driving import processes_of  # noqa: E402
from ray_kit import Cluster  # noqa: E402

BEGIN: Final = "<!-- serve_ray: begin, written by `python -m bench.serve_ray --write-docs` -->"
END: Final = "<!-- serve_ray: end -->"

_RATES: Final = {"calm": 40.0, "overload": 600.0}
_SECONDS: Final = 6.0
_REAL: Final = 2_000  # embeddings of photos, from which the others are made
_COUNTED: Final = "ray::ServeReplica", "ray::ProxyActor", "haproxy -db"
_WAYS: Final = {"through HAProxy": {}, "through Ray's proxy": {"RAY_SERVE_ENABLE_HA_PROXY": "0"}}


def loads(port: int, requests: list[bytes], cpu_s: Any) -> dict[str, dict[str, Any]]:
    http_load.run(port, requests, per_s=_RATES["calm"], seconds=3.0, seed=9)
    found = {}
    for name, per_s in _RATES.items():
        before = cpu_s()
        load = http_load.run(port, requests, per_s=per_s, seconds=_SECONDS, seed=1)
        found[name] = load.to_json() | {"cpu_ms": 1000 * (cpu_s() - before) / max(1, load.sent)}
    return found


def cluster_cpu_s(cluster: Cluster) -> float:
    """Return the CPU time of replica and proxies so far, in seconds."""
    pids = [pid for pid, line in processes_of(cluster.folder).items() if any(one in line for one in _COUNTED)]
    return sum(cpu_seconds(pid) for pid in pids)


def measure(place: Path, requests: list[bytes]) -> dict[str, Any]:
    with served(place, None) as server:
        results = {"plain server": loads(server.port, requests, server.cpu_s)}
    for name, env in _WAYS.items():
        with Cluster(env) as cluster:
            cluster.deploy(place, "--replicas", "1", "--cpus", "2", "--rate", "1000000", "--quiet")
            results[name] = loads(cluster.port, requests, lambda c=cluster: cluster_cpu_s(c))
    return results


def render(results: dict[str, Any]) -> str:
    plain = results["ways"]["plain server"]
    rows = [
        [
            name,
            f"{of['calm']['p50_ms']:.1f}",
            f"{of['calm']['p99_ms']:.1f}",
            f"{of['calm']['cpu_ms']:.1f}",
            f"{of['overload']['answered_per_s']:.0f}",
            f"{of['overload']['answered_per_s'] / plain['overload']['answered_per_s']:.2f}",
            str(of["calm"]["failed"] + of["overload"]["failed"]),
        ]
        for name, of in results["ways"].items()
    ]
    calm, overload = _RATES.values()
    columns = ["Way", f"p50 ms at {calm:.0f}/s", "p99 ms", "CPU ms a request"]
    columns += [f"answered/s of {overload:.0f}/s", "÷ plain", "failed"]
    return "\n\n".join(
        [
            measured_on(results),
            f"{results['images']:,} images, queries by image_id; client and Ray share the cores:",
            markdown_table(columns, rows),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=21_000)
    parser.add_argument("--write-docs", action="store_true")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-serve-ray-", dir=_cache()) as folder:
        place = _collection(lookalike.real_embeddings(_REAL), a.images, Path(folder) / "load")
        ways = measure(place, questions(a.images)["by image_id"])
    results = {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "images": a.images,
        "quick": False,
        "ways": ways,
    }
    page = DOCS if a.write_docs else None
    report.publish("serve_ray", results, render(results), page=page, begin=BEGIN, end=END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
