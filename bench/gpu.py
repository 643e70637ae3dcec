"""What a machine with a GPU can do, part by part: decode, copy, model, and storage to rows.

    python bench/gpu.py                 a table on stdout, and bench/results/gpu.json
    python bench/gpu.py --tiny          seconds instead of minutes, on any machine: to see that it works

The first three parts need torch, torchvision, timm, pillow, numpy and pyarrow only; what is missing for the
last (ray, deltalake, …) is named and the part left out. The model is the default one; where its weights are
not installed, its architecture with random weights, which is as fast.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # a machine that cannot install may still run this

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagger.models import PreparedModel

Row = dict[str, Any]


def photos(count: int) -> list[bytes]:
    """JPEGs of 1024 x 768 and about 110 KB: smooth shapes under fine grain, as photos are."""
    from PIL import Image

    made = []
    for seed in range(count):
        r = np.random.default_rng(seed)
        coarse = Image.fromarray(r.integers(0, 256, (12, 16, 3), np.uint8)).resize((1024, 768), 3)
        grain = r.normal(scale=4.5, size=(768, 1024, 1))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        made.append(file.getvalue())
    return made


# ── 1. decode ────────────────────────────────────────────────────────────────


def decode_for(seconds: float, files: list[bytes], start: Any) -> float:
    """Decode and measure over and over; images/s of this one thread or process."""
    from tagger.vision import DecodeLimits, Framing
    from tagger.vision.decode import decode

    framings, limits = (Framing(224, 256),), DecodeLimits()
    decode(files[0], framings, limits)
    start.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        decode(files[count % len(files)], framings, limits)
        count += 1
    return count / (time.perf_counter() - began)


def _decode_process(seconds: float, files: list[bytes], start: Any, results: Any) -> None:
    results.put(decode_for(seconds, files, start))


def bench_decode(args: argparse.Namespace) -> list[Row]:
    files = photos(args.photos)
    size = statistics.mean(len(file) for file in files)
    jpeg = "libjpeg-turbo (simplejpeg)" if importlib.util.find_spec("simplejpeg") else "Pillow"
    rows = []
    for workers in sorted({1, args.cores}):
        barrier = threading.Barrier(workers)
        with ThreadPoolExecutor(workers) as pool:
            waiting = [pool.submit(decode_for, args.seconds, files, barrier) for _ in range(workers)]
            rates = [task.result() for task in waiting]
        rows.append({"what": f"decode, {workers} threads, {jpeg}", "images_per_s": sum(rates)})
        spawn = multiprocessing.get_context("spawn")
        gate, results = spawn.Barrier(workers), spawn.Queue()
        made = [
            spawn.Process(target=_decode_process, args=(args.seconds, files, gate, results))
            for _ in range(workers)
        ]
        for process in made:
            process.start()
        rates = [results.get(timeout=300) for _ in made]
        for process in made:
            process.join()
        rows.append({"what": f"decode, {workers} processes, {jpeg}", "images_per_s": sum(rates)})
    for row in rows:
        row["bytes_per_image"] = round(size)
    return rows


# ── 2. copy ──────────────────────────────────────────────────────────────────


def timed(step: Callable[[], Any], images: int, seconds: float, sync: Callable[[], Any]) -> float:
    """Images/s: the median of five stretches, after a warm-up."""
    for _ in range(3):
        step()
    sync()
    began = time.perf_counter()
    step()
    sync()
    steps = max(1, int(seconds / 5 / max(time.perf_counter() - began, 1e-6)))
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        sync()
        rates.append(steps * images / (time.perf_counter() - began))
    return statistics.median(rates)


def bench_copy(args: argparse.Namespace) -> list[Row]:
    import torch

    if args.device == "cpu":
        return [{"what": "copy to the device", "left_out": "no CUDA device"}]
    batch = max(args.batches)
    shape = (batch, 224, 224, 3)
    target = torch.zeros(shape, dtype=torch.uint8, device=args.device)
    pageable = torch.zeros(shape, dtype=torch.uint8)
    pinned = pageable.pin_memory()
    array = np.zeros(shape, np.uint8)
    steps = {
        "copy to the device, pageable": lambda: target.copy_(pageable),
        "copy to the device, pinned": lambda: target.copy_(pinned, non_blocking=True),
        "copy into the pinned buffer": lambda: np.copyto(pinned.numpy(), array),
    }
    rows = []
    for what, step in steps.items():
        rate = timed(step, batch, args.seconds, torch.cuda.synchronize)
        rows.append(
            {"what": what, "batch": batch, "images_per_s": rate, "gb_per_s": rate * 224 * 224 * 3 / 1e9}
        )
    return rows


# ── 3. model ─────────────────────────────────────────────────────────────────


def prepared_model(folder: Path, precision: Any) -> PreparedModel:
    """The default model for torch; with random weights where its own are not installed."""
    from tagger.errors import ModelError
    from tagger.models import DEFAULT_MODEL, find_model, prepare

    try:
        return prepare(find_model(DEFAULT_MODEL), "torch", cache_dir=folder, precision=precision)
    except ModelError:
        import safetensors.torch
        import timm

        file = folder / "random.safetensors"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
            safetensors.torch.save_file(network.state_dict(), file)
            about = {"architecture": "timm:tf_efficientnet_lite0", "labels": "imagenet"}
            file.with_suffix(".json").write_text(json.dumps(about))
        return prepare(find_model(str(file)), "torch", cache_dir=folder, precision=precision)


def bench_model(args: argparse.Namespace) -> list[Row]:
    import torch

    from tagger.models.torch_backend import TorchModel

    sync = torch.cuda.synchronize if args.device != "cpu" else (lambda: None)
    rows: list[Row] = []
    for precision in args.precisions:
        ready = prepared_model(args.folder, precision)
        payload = ready.payload()
        for compiled in args.compiled:
            for batch in args.batches:
                began = time.perf_counter()
                model = TorchModel(
                    ready,
                    payload,
                    threads=args.cores,
                    device=args.device,
                    compiled=compiled,
                    batch_size=batch,
                )
                loaded = time.perf_counter() - began
                how = "compiled" if model.compiled else "eager"
                about = {"precision": precision, "compiled": model.compiled, "batch": batch, "load_s": loaded}
                pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8)
                there = torch.from_numpy(pixels).to(args.device)
                with torch.inference_mode():
                    alone = timed(lambda m=model, p=there: m.network(p), batch, args.seconds, sync)  # type: ignore[misc]
                rows.append({"what": f"model alone, {precision}, {how}", "images_per_s": alone, **about})
                many = np.concatenate([pixels] * args.repeats)
                whole = timed(lambda m=model, p=many: m(p), len(many), args.seconds, sync)  # type: ignore[misc]
                what = f"pixels to logits and embedding, {precision}, {how}"
                rows.append({"what": what, "images_per_s": whole, **about})
                print(
                    f"  {rows[-2]['what']}, batch {batch}: {alone:,.0f} and {whole:,.0f} images/s",
                    file=sys.stderr,
                )
    return rows


# ── 4. storage to rows ───────────────────────────────────────────────────────


def bench_storage_to_rows(args: argparse.Namespace) -> list[Row]:
    what = "storage to rows"
    needed = ("ray", "deltalake", "obstore", "duckdb", "boto3", "click")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return [{"what": what, "left_out": f"not installed: {', '.join(missing)}"}]
    source, collection = args.folder / "photos", args.folder / "collection"
    source.mkdir(exist_ok=True)
    for i, file in enumerate(photos(args.photos)):
        for copy in range(args.images // args.photos):
            (source / f"{copy:06d}_{i:03d}.jpg").write_bytes(file)
    command = [sys.executable, "-c", "from tagger.cli import main; main()"]
    command += ["tag", str(source), str(collection), "--json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return [{"what": what, "left_out": f"the command ended with exit code {done.returncode}"}]
    counts = json.loads(done.stdout.strip().splitlines()[-1])
    return [{"what": f"{what}, start-up included", **counts}]


# ── the table ────────────────────────────────────────────────────────────────


def machine(args: argparse.Namespace) -> Row:
    import torch

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = ("torch", "torchvision", "timm", "pillow", "numpy", "simplejpeg")
    device = torch.cuda.get_device_name(args.device) if args.device != "cpu" else platform.processor()
    return {"device": device or "CPU", "cores": args.cores, "python": platform.python_version()} | {
        name: version(name) for name in names
    }


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--device", help="cuda, cuda:N or cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--images", type=int, help="for storage to rows")
    args = parser.parse_args()
    import torch

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = args.device != "cpu"
    args.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    args.seconds = 0.3 if args.tiny else 5.0
    args.photos = 4 if args.tiny else 64
    args.images = args.images or (8 if args.tiny else 20_000)
    args.batches = (2, 4) if args.tiny or not on_gpu else (64, 128, 256, 512)
    args.repeats = 2 if args.tiny else 8
    args.precisions = ("bf16", "fp16") if on_gpu else ("f32",)
    args.compiled = (False, True) if on_gpu else (False,)
    return args


def show(rows: list[Row]) -> None:
    for row in rows:
        name = row["what"] + (f", batch {row['batch']}" if "batch" in row else "")
        told = (
            f"left out: {row['left_out']}" if "left_out" in row else f"{row['images_per_s']:12,.0f} images/s"
        )
        print(f"| {name:<62} | {told:<40} |")


def main() -> None:
    args = settings()
    parts = {
        "decode": bench_decode,
        "copy": bench_copy,
        "model": bench_model,
        "storage_to_rows": bench_storage_to_rows,
    }
    results: Row = {"machine": machine(args)}
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        for name, part in parts.items():
            print(f"{name} …", file=sys.stderr)
            try:
                results[name] = part(args)
            except Exception as error:  # one part that cannot run here leaves the others their numbers
                results[name] = [{"what": name, "left_out": f"{type(error).__name__}: {error}"[:300]}]
            show(results[name])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1))
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
