"""Run a model with torch: on a GPU, or on CPU cores where OpenVINO is not installed.

On a GPU three things run at once: the host fills one pinned buffer and finishes the batch before last, a side
stream copies the last buffer in, and the compute stream works on the one before. Shapes never change.
"""

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tagger.errors import ModelError
from tagger.models.head import Outputs, concatenate, finish, head_from_bytes
from tagger.models.network import bare_body
from tagger.models.pixels import check_pixels
from tagger.models.spec import ModelSpec

if TYPE_CHECKING:
    from tagger.models.prepared import Precision, PreparedModel

_log = logging.getLogger(__name__)

_CUDA_BATCH: Final = 256
_CPU_BATCH: Final = 8
_SLOTS: Final = 3
"""One batch being filled, one being copied, one being computed."""

_DTYPES: Final = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Normalised(nn.Module):
    """uint8 pixels (B, S, S, 3) to features (B, D) in float32."""

    def __init__(self, body: nn.Module, prepared: "PreparedModel", dtype: torch.dtype) -> None:
        super().__init__()
        self.body = body.to(dtype)
        self.dtype = dtype
        mean = torch.tensor(prepared.mean).reshape(1, 3, 1, 1) * 255
        std = torch.tensor(prepared.std).reshape(1, 3, 1, 1) * 255
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", 1 / std, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise in float32, then run in the dtype of the body.

        Permuting uint8 NHWC gives channels_last without a copy.
        """
        planes = pixels.permute(0, 3, 1, 2).float()
        planes = (planes - cast("torch.Tensor", self.mean)) * cast("torch.Tensor", self.scale)
        return cast("torch.Tensor", self.body(planes.to(self.dtype)).float())


@dataclass(slots=True)
class _Slot:
    """Buffers of one batch in flight on a GPU."""

    pixels_host: torch.Tensor
    pixels: torch.Tensor
    features_host: torch.Tensor
    copied: Any
    done: Any
    count: int = 0


class TorchModel:
    """A `Model` (see prepared.py).

    Logits are made on the host by the same `Head.logits` that `retag` uses, while the GPU works on the next
    batch: so they are equal to the last bit.

    Attributes:
        compiled: Whether it was compiled.
        network: uint8 pixels (batch_size, S, S, 3) on the device to features (batch_size, D) on the device.
    """

    def __init__(
        self,
        prepared: "PreparedModel",
        payload: Mapping[str, bytes],
        *,
        threads: int,
        device: str | None = None,
        compiled: bool | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Build the network, load its weights and warm up.

        Args:
            prepared: From the driver.
            payload: Its weights.
            threads: For torch's CPU kernels, in the whole process.
            device: `cuda`, `cuda:N` or `cpu`; None for a GPU if there is one.
            compiled: None for yes on a GPU.
            batch_size: None for 256 on a GPU and 8 on a CPU.

        Raises:
            ModelError: There is no such device.
        """
        torch.set_num_threads(threads)
        try:
            self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(f"torch cannot use the device {device!r}: {reason}") from None
        self._on_gpu = self._device.type == "cuda"
        self.precision: Precision = prepared.precision
        self.batch_size = batch_size or (_CUDA_BATCH if self._on_gpu else _CPU_BATCH)
        self._name = prepared.name
        self._dim = prepared.dim
        self._size_px = prepared.framing.size_px
        self._head = head_from_bytes(payload)
        if self._on_gpu and self.precision == "f32":
            torch.backends.cudnn.allow_tf32 = False  # TF32 keeps 10 bits: less than what is stored
        self._eager = self._build(prepared, payload)
        self.network: Any = self._eager
        wanted = self._on_gpu if compiled is None else compiled
        self.compiled = wanted and self._compile()
        if self._on_gpu:
            cuda: Any = torch.cuda  # its streams and events carry no types
            self._copy_stream = cuda.Stream(self._device)
            self._compute_stream = cuda.Stream(self._device)
            self._slots = [self._slot() for _ in range(_SLOTS)]
            torch.cuda.synchronize(self._device)

    def _build(self, prepared: "PreparedModel", payload: Mapping[str, bytes]) -> nn.Module:
        import safetensors.torch

        spec = ModelSpec(prepared.name, prepared.library, prepared.architecture, "payload")
        body = bare_body(spec, prepared.head_name, len(prepared.labels))
        body.load_state_dict(safetensors.torch.load(payload["body.safetensors"]))
        network = (
            _Normalised(body, prepared, _DTYPES[self.precision]).eval().requires_grad_(requires_grad=False)
        )
        return network.to(self._device).to(memory_format=torch.channels_last)

    def _compile(self) -> bool:
        """Compile for the one shape, and keep the result only if it computes the same."""
        shape = (self.batch_size, self._size_px, self._size_px, 3)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(self._device)
        began = time.monotonic()
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # the compiler talks to its own developers
                compiled = torch.compile(self._eager, dynamic=False)
                same = nn.functional.cosine_similarity(compiled(pixels), self._eager(pixels)).min().item()
        except Exception as error:  # no compiler on the machine, an operator it lacks, …
            reason = str(error).strip().partition("\n")[0][:200]
            _log.warning("%s runs uncompiled: %s: %s", self._name, type(error).__name__, reason)
            return False
        if not same >= 0.99:
            _log.warning("%s runs uncompiled: compiled, its features differ (cosine %.4f)", self._name, same)
            return False
        _log.info("%s compiled in %.0f s", self._name, time.monotonic() - began)
        self.network = compiled
        return True

    def _slot(self) -> _Slot:
        shape = (self.batch_size, self._size_px, self._size_px, 3)
        cuda: Any = torch.cuda
        return _Slot(
            pixels_host=torch.zeros(shape, dtype=torch.uint8, pin_memory=True),
            pixels=torch.zeros(shape, dtype=torch.uint8, device=self._device),
            features_host=torch.zeros((self.batch_size, self._dim), pin_memory=True),
            copied=cuda.Event(),
            done=cuda.Event(),
        )

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """See `Model`."""
        check_pixels(pixels, self._size_px)
        with torch.inference_mode():
            parts = self._on_device(pixels) if self._on_gpu else self._on_host(pixels)
        return concatenate(parts, self._head)

    def embeddings(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Model`."""
        return self(pixels).embedding

    def _on_host(self, pixels: npt.NDArray[np.uint8]) -> list[Outputs]:
        full = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
        parts = []
        for start in range(0, len(pixels), self.batch_size):
            batch = pixels[start : start + self.batch_size]
            full[: len(batch)] = batch
            full[len(batch) :] = 0
            features = self.network(torch.from_numpy(full)).numpy()[: len(batch)]
            parts.append(self._finish(features))
        return parts

    def _on_device(self, pixels: npt.NDArray[np.uint8]) -> list[Outputs]:
        parts = []
        flying: list[_Slot] = []
        for turn, start in enumerate(range(0, len(pixels), self.batch_size)):
            if len(flying) == _SLOTS:
                parts.append(self._collect(flying.pop(0)))
            slot = self._slots[turn % _SLOTS]
            batch = pixels[start : start + self.batch_size]
            slot.count = len(batch)
            host = slot.pixels_host.numpy()
            host[: len(batch)] = batch
            host[len(batch) :] = 0
            with torch.cuda.stream(self._copy_stream):
                slot.pixels.copy_(slot.pixels_host, non_blocking=True)
                slot.copied.record()
            with torch.cuda.stream(self._compute_stream):
                self._compute_stream.wait_event(slot.copied)
                slot.features_host.copy_(self.network(slot.pixels), non_blocking=True)
                slot.done.record()
            flying.append(slot)
        return parts + [self._collect(slot) for slot in flying]

    def _collect(self, slot: _Slot) -> Outputs:
        slot.done.synchronize()
        return self._finish(slot.features_host.numpy()[: slot.count])

    def _finish(self, features: npt.NDArray[np.float32]) -> Outputs:
        return finish(self._head, features, model=self._name, precision=self.precision)
