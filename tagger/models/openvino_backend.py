"""Run a converted model on CPU cores with OpenVINO."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tagger.models.head import Outputs, finish, head_from_bytes, normalise
from tagger.models.openvino_convert import BATCH, import_openvino
from tagger.models.pixels import check_pixels

if TYPE_CHECKING:
    from tagger.models.prepared import Precision, PreparedModel

_log = logging.getLogger(__name__)


class OpenvinoModel:
    """A `Model` (see prepared.py) with as many one-thread streams as it has threads.

    One thread a stream is the fastest way through many images, and makes the result of an image the same
    whatever the number of threads. The last batch is filled up with black pictures to the fixed shape.
    """

    def __init__(
        self,
        prepared: "PreparedModel",
        payload: Mapping[str, bytes],
        *,
        threads: int,
        batch_size: int | None = None,
    ) -> None:
        """Compile the graph for this CPU, in about 0.2 s; `batch_size` is that of the graph by default."""
        openvino = import_openvino()
        core = openvino.Core()
        self.precision: Precision = prepared.precision
        if self.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            _log.warning("this CPU has no bf16: %s runs in f32", prepared.name)
            self.precision = "f32"
        self.batch_size = batch_size or BATCH
        self._name = prepared.name
        self._size_px = prepared.framing.size_px
        self._dim = prepared.dim
        self._head = head_from_bytes(payload)
        graph = core.read_model(model=payload["body.xml"], weights=payload["body.bin"])
        if self.batch_size != BATCH:
            graph.reshape([self.batch_size, self._size_px, self._size_px, 3])
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.precision,
                "NUM_STREAMS": str(threads),
                "INFERENCE_NUM_THREADS": str(threads),
                "ENABLE_CPU_PINNING": False,  # several workers on one machine would pin to the same cores
            },
        )
        # One request more than streams: the next one is filled while all streams are busy.
        self._requests = [compiled.create_infer_request() for _ in range(threads + 1)]

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """See `Model`."""
        return finish(self._head, self._features(pixels), model=self._name, precision=self.precision)

    def embeddings(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Model`."""
        return normalise(self._features(pixels), model=self._name, precision=self.precision)[0]

    def _features(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        check_pixels(pixels, self._size_px)
        features = np.empty((len(pixels), self._dim), np.float32)
        starts = range(0, len(pixels), self.batch_size)
        running: list[tuple[Any, int]] = []
        for turn, start in enumerate(starts):
            if len(running) == len(self._requests):
                self._collect(*running.pop(0), features)
            request = self._requests[turn % len(self._requests)]
            batch = pixels[start : start + self.batch_size]
            input_pixels = request.get_input_tensor().data
            input_pixels[: len(batch)] = batch
            input_pixels[len(batch) :] = 0
            request.start_async()
            running.append((request, start))
        for request, start in running:
            self._collect(request, start, features)
        return features

    def _collect(self, request: Any, start: int, features: npt.NDArray[np.float32]) -> None:
        request.wait()
        rows = features[start : start + self.batch_size]
        rows[:] = request.get_output_tensor().data[: len(rows)]
