"""`tagger tag` as its user starts it: a subprocess, from S3 into a collection on S3, then `tagger check`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.memory import Watch, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.photos import Photos

STEADY_FROM, STEADY_TO = 0.2, 0.9
_POLL_S = 0.25  # a listing costs some 4 ms of CPU: 1 % of two cores, until the first rows are there


def run_engine(photos: Photos, images: int, *, timeout_s: float = 3600) -> dict[str, Any]:
    """Tag `images` photos into a new collection and measure it from outside.

    Returns:
        `whole_s` and `whole_images_per_s` (from starting the process to its end), `images_per_s` (steady,
        see `steady_rate`; None for a run too short to tell), `start_up_s` (to the first image tagged),
        `tail_s` (from the last image tagged to the end), `first_rows_s` (until a commit with rows could be
        read), `exit_code`, `report` (the command's own JSON), `check` (that of `tagger check`),
        `server_cpu_s`, and memory as `Watch.summary`; or `error`.
    """
    collection = f"{photos.results.uri}/collection-{images}"
    began = time.time()
    server_cpu_s = cpu_seconds(photos.server.pid)
    process = subprocess.Popen(
        [_command(), "tag", photos.source(images), collection, "--json"],
        env=_environment(photos),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the family of this process is told by its session too
    )
    first = _FirstRows(photos, collection, began)
    with Watch(process.pid) as watch, first:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"images": images, "error": f"did not end within {timeout_s:.0f} s"}
        except BaseException:  # Ctrl-C: a session of its own hears nothing of it
            os.killpg(process.pid, signal.SIGINT)
            process.communicate()
            raise
        whole_s = time.time() - began
    result: dict[str, Any] = {
        "images": images,
        "collection": collection,
        "exit_code": process.returncode,
        "whole_s": whole_s,
        "whole_images_per_s": images / whole_s,
        "first_rows_s": first.after_s,
        "server_cpu_s": cpu_seconds(photos.server.pid) - server_cpu_s,
        **watch.summary(),
        "memory": [(round(s.at_s, 1), s.total >> 20) for s in watch.samples],
    }
    if process.returncode:
        return result | {"error": f"tagger tag ended with {process.returncode}: {err[-2000:]}"}
    report = json.loads(out.splitlines()[-1])
    if report["tagged"] != images:
        return result | {"report": report, "error": f"{report['tagged']} of {images} images were tagged"}
    times = tagged_at(photos, collection)
    return result | {
        "report": report,
        "images_per_s": steady_rate(times),
        "start_up_s": times[0] - began,
        "tail_s": began + whole_s - times[-1],
        "check": check(photos, collection),
    }


def run_retag(photos: Photos, run: dict[str, Any]) -> dict[str, Any]:
    """Change the threshold of a whole collection.

    Returns:
        `rows`, and `wall_s` (start-up included) or `error`.
    """
    began = time.time()
    done = subprocess.run(
        [_command(), "retag", run["collection"], "--threshold", "0.2", "--json"],
        env=_environment(photos),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"rows": run["images"], "error": f"tagger retag: {done.stderr[-2000:]}"}
    return {"rows": run["images"], "wall_s": time.time() - began}


def check(photos: Photos, collection: str) -> dict[str, Any]:
    """Return the answer and the exit code of `tagger check`."""
    done = subprocess.run(
        [_command(), "check", collection, "--json"],
        env=_environment(photos),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    answer = json.loads(lines[-1]) if lines else {"error": done.stderr[-2000:]}
    return {"exit_code": done.returncode, **answer}


def tagged_at(photos: Photos, collection: str) -> list[float]:
    """Return when each row was made, in seconds since the epoch, ascending."""
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    options = {**photos.server.env(), "AWS_ALLOW_HTTP": "true"}
    table = DeltaTable(f"{collection}/tags", storage_options=options).to_pyarrow_table(columns=["tagged_at"])
    microseconds = pc.sort_indices(table.column("tagged_at"))
    ordered = table.column("tagged_at").take(microseconds).cast("int64").to_pylist()
    return [value / 1e6 for value in ordered]


def steady_rate(
    times: Sequence[float], *, first: float = STEADY_FROM, last: float = STEADY_TO
) -> float | None:
    """Return the images per second in the middle of a run, from when each row was made.

    Rows of one chunk carry one time, when the chunk was done. So the rate counts the rows after the moment at
    which at least `first` of all rows were done, up to the last moment at which at most `last` of them were.

    Args:
        times: Seconds, ascending, one a row.
        first: Share of the rows that are start-up.
        last: Share of the rows after which the run tails off.

    Returns:
        None when there are not two such moments.

    >>> steady_rate([1.0] * 10 + [2.0] * 10 + [3.0] * 10 + [4.0] * 10 + [9.0] * 10)
    10.0
    """
    done: list[tuple[float, int]] = []
    for n, moment in enumerate(times, 1):
        if done and done[-1][0] == moment:
            done[-1] = (moment, n)
        else:
            done.append((moment, n))
    middle = [(moment, n) for moment, n in done if first * len(times) <= n <= last * len(times)]
    if len(middle) < 2:
        return None
    (from_s, from_n), (to_s, to_n) = middle[0], middle[-1]
    return (to_n - from_n) / (to_s - from_s)


class _FirstRows:
    """Polls the Delta log, in a thread, for the first commit that adds rows."""

    def __init__(self, photos: Photos, collection: str, began: float) -> None:
        self._client = photos.server.client
        self._bucket, _, self._prefix = f"{collection}/tags/_delta_log/".removeprefix("s3://").partition("/")
        self._began = began
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.after_s: float | None = None

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen: set[str] = set()
        while not self._stop.wait(_POLL_S):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix)
            for key in sorted(row["Key"] for row in page.get("Contents", []) if row["Key"].endswith(".json")):
                if key in seen:
                    continue
                seen.add(key)
                log = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
                if any(line.startswith(b'{"add"') for line in log.splitlines()):
                    self.after_s = time.time() - self._began
                    return


def _command() -> str:
    return str(Path(sys.executable).with_name("tagger"))


def _environment(photos: Photos) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    return {**kept, **photos.server.env()}
