"""torch to OpenVINO, on the driver; and OpenVINO itself, imported without its telemetry."""

import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tagger.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

BATCH: Final = 4
"""Images in one request; part of the converted graph.

EfficientNet-Lite0, bf16, 1 thread a stream, CPU milliseconds an image (median of 5): batch 1 5.8,
batch 4 5.3, batch 8 5.6, batch 16 6.3, batch 32 6.2. A small batch keeps the activations of a layer in cache.
"""


def import_openvino() -> Any:
    """Import openvino so that it reports nothing to anyone.

    Its converter reports to Google Analytics on import and on each conversion if `openvino_telemetry` can be
    imported, and falls back to a stub if not.
    """
    if "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules["openvino_telemetry"]
    import openvino

    return openvino


def convert(
    body: "nn.Module", size_px: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> dict[str, bytes]:
    """Convert the body of a network to a graph from uint8 pixels (BATCH, S, S, 3) to features (BATCH, D).

    Raises:
        ModelError: OpenVINO cannot express the network.
    """
    import torch

    try:
        openvino = import_openvino()
    except ImportError as error:
        raise ModelError(f"the backend openvino is not installed: {error}") from None
    from openvino.preprocess import PrePostProcessor

    shape = [BATCH, 3, size_px, size_px]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch.jit.trace is deprecated, and is what the converter uses
            example = torch.zeros(shape)
            jit: Any = torch.jit
            traced = jit.trace(body, example, check_trace=False)  # the check is half of the time
            graph = openvino.convert_model(traced, example_input=example, input=[shape])
            steps = PrePostProcessor(graph)
            pixels = steps.input()
            pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
            pixels.model().set_layout(openvino.Layout("NCHW"))
            scaled = pixels.preprocess().convert_element_type(openvino.Type.f32)
            scaled.mean([255 * value for value in mean]).scale([255 * value for value in std])
            graph = steps.build()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "body.xml"
                openvino.save_model(graph, path, compress_to_fp16=False)
                return {name: (path.parent / name).read_bytes() for name in ("body.xml", "body.bin")}
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"OpenVINO cannot convert this network ({reason}); use the backend torch") from None
