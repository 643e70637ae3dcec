"""Runs the programs of bench/peers, each as a process of its own in an environment of their own."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import cores
from bench.memory import Watch

if TYPE_CHECKING:
    from bench.photos import Photos

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".cache" / "bench-venv"
PEERS = {
    "ray_data_images": "Ray Data, its batch inference example",
    "daft_images": "Daft, its image pipeline and a model class",
    "torch_dataloader": "PyTorch DataLoader over boto3",
}
LIMIT_S = 1800
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "SCARF_NO_ANALYTICS": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def make_environment(folder: Path = ENVIRONMENT) -> Path:
    """Make the peers' environment if it is missing or outdated, and return its site-packages.

    It sees the packages of the environment that runs the bench below its own, so torch is not installed
    again, and what a peer needs in another version does not change what tagger runs on.

    Raises:
        RuntimeError: pip failed; the text holds its last lines.
    """
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    wanted = hashlib.sha256((HERE / "requirements.txt").read_bytes() + sys.prefix.encode()).hexdigest()
    stamp = folder / "stamp"
    if stamp.is_file() and stamp.read_text() == wanted:
        return packages
    print(f"installing what the peers need into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    own = sysconfig.get_path("purelib")
    (packages / "tagger_environment.pth").write_text(f"import site; site.addsitedir({own!r})\n")
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--quiet",
    ]
    done = subprocess.run(
        [*pip, "-r", HERE / "requirements.txt"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pip could not install bench/requirements.txt:\n{done.stderr[-2000:]}")
    stamp.write_text(wanted)
    return packages


def run_peer(name: str, photos: Photos, images: int) -> dict[str, Any]:
    """Run one peer over `images` photos.

    Returns:
        `images` (rows it wrote), `whole_s`, `start_up_s`, `work_s`, `whole_images_per_s`, `images_per_s`
        (after its start-up), and memory as `Watch.summary`; or `error` when it failed or lost images.
    """
    with tempfile.TemporaryDirectory(prefix="tagger-peer-") as out:
        started = time.time()
        command: list[str | Path] = [
            ENVIRONMENT / "bin" / "python",
            HERE / "peers" / f"{name}.py",
            photos.source(images),
            out,
        ]
        process = subprocess.Popen(
            [*command, "--cores", str(cores()), "--started", repr(started)],
            env=_environment(photos),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with Watch(process.pid) as watch:
            try:
                text, _ = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return {"error": f"did not end within {LIMIT_S} s"}
            except BaseException:  # Ctrl-C: a session of its own hears nothing of it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        whole_s = time.time() - started
        return (
            _result(name, text, process.returncode, whole_s=whole_s, images=images, out=Path(out))
            | watch.summary()
        )


def _environment(photos: Photos) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    return {
        **kept,
        **photos.server.env(),
        **_NO_TELEMETRY,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes a token file into the home folder
        "PYTHONPATH": str(HERE / "peers"),
    }


def _result(name: str, text: str, code: int, *, whole_s: float, images: int, out: Path) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith('{"start_up_s"')]
    if code or not lines:
        return {"error": f"{name} ended with {code}: {text[-2000:]}"}
    rows = count_rows(out)
    if rows != images:
        return {"error": f"{name} wrote {rows} rows for {images} images"}
    times = json.loads(lines[-1])
    return {
        "images": rows,
        "whole_s": whole_s,
        **times,
        "images_per_s": rows / times["work_s"],
        "whole_images_per_s": rows / whole_s,
    }


def count_rows(folder: Path) -> int:
    """Return the rows of all Parquet and CSV files below a folder."""
    import pyarrow.parquet as pq

    rows: int = sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))
    for path in folder.rglob("*.csv"):
        with path.open(newline="") as file:
            rows += sum(1 for _ in csv.reader(file))
    return rows
