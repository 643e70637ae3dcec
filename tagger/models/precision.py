"""What a CPU computes a CNN fastest in: of those that have bfloat16 some are faster in it, some slower.

The flags do not tell. With EfficientNet-Lite0 in OpenVINO 2026.4 a machine with avx512_bf16 did 553 images/s
in bf16 and 301 in f32; an Intel Xeon with the same flag, whose AMX the virtual machine hides, takes 11.6 ms
of CPU an image in bf16 and 7.0 in f32. So a machine tries it, once.
"""

import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any, Final, Literal

from tagger.models.cache import key_of, read_record, write_record
from tagger.models.openvino_convert import import_openvino

_ROUNDS: Final = 5
_BLOCKS: Final = 3  # of the middle of a mobile CNN: 1.3 million weights, some 2 ms a pass
_CHANNELS, _WIDE, _SIDE_PX = 192, 1152, 14


def cpu_precision(cache_dir: Path) -> Literal["f32", "bf16"]:
    """Return what this CPU computes a CNN fastest in; it is tried once, in half a second, and remembered.

    Args:
        cache_dir: Where the answer is kept between runs.

    Raises:
        ModelError: The cache cannot be written.
    """
    cpu = _cpu()
    if cpu is None:
        return "f32"
    key = key_of({"cpu": cpu, "openvino": importlib.metadata.version("openvino")})
    path = Path(cache_dir) / "models" / "known" / f"cpu-{key}.json"
    record = read_record(path)
    if record is None:
        seconds = try_precisions()
        record = {"fastest": min(seconds, key=lambda name: seconds[name]), "seconds": seconds}
        write_record(path, record)
    return "bf16" if record["fastest"] == "bf16" else "f32"


def try_precisions() -> dict[str, float]:
    """Return the seconds that one pass through some typical layers takes in bf16 and in f32."""
    openvino = import_openvino()
    core = openvino.Core()
    graph = _layers(openvino)
    requests = {
        precision: core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": "1",
                "ENABLE_CPU_PINNING": False,
            },
        ).create_infer_request()
        for precision in ("bf16", "f32")
    }
    for request in requests.values():
        request.get_input_tensor().data[:] = 0.5  # what lies in fresh memory may be slow to compute with
    # In turns, and the best of each: another program may be at work in any one of them.
    best = dict.fromkeys(requests, float("inf"))
    for _ in range(_ROUNDS):
        for precision, request in requests.items():
            request.infer()
            started = time.perf_counter()
            for _ in range(4):
                request.infer()
            best[precision] = min(best[precision], (time.perf_counter() - started) / 4)
    return best


def _cpu() -> str | None:
    """Return what names this kind of CPU, or None where it has no bf16 at all."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").partition("\n\n")[0]
    except OSError:
        return None
    lines = (line.partition(":") for line in text.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = sorted(facts.get("flags", "").split())
    if platform.machine() != "x86_64" or not {"avx512_bf16", "amx_bf16"} & set(flags):
        return None
    # Of one model, a virtual machine may see more or less.
    named = [facts.get(key, "") for key in ("vendor_id", "cpu family", "model", "model name")]
    return "/".join([*named, *(flag for flag in flags if flag.startswith(("avx", "amx")))])


def _layers(openvino: Any) -> Any:
    """Return inverted residual blocks with random weights, as most of a mobile CNN is made of."""
    import numpy as np
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return ops.constant((rng.standard_normal(shape) * 0.05).astype(np.float32))

    entry = ops.parameter([1, _CHANNELS, _SIDE_PX, _SIDE_PX], np.float32)
    layer = entry
    one, none = [1, 1], [0, 0]
    for _ in range(_BLOCKS):
        wide = ops.convolution(layer, weights(_WIDE, _CHANNELS, 1, 1), one, none, none, one)
        deep = ops.group_convolution(
            ops.clamp(wide, 0.0, 6.0), weights(_WIDE, 1, 1, 3, 3), one, one, one, one
        )
        back = ops.convolution(
            ops.clamp(deep, 0.0, 6.0), weights(_CHANNELS, _WIDE, 1, 1), one, none, none, one
        )
        layer = ops.add(layer, back)
    return openvino.Model([layer], [entry], "trial")
