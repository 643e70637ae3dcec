"""From pooled features to what is stored: one formula, so that a stored embedding gives its logits again."""

import contextlib
import functools
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tagger.errors import RunError

Floats = npt.NDArray[np.float32]

_BLOCK: Final = 256
"""Rows of one matrix product: what it needs beside its result stays in cache."""

_WEIGHT_BITS: Final = 27
"""Bits below the longest row of weights at which a weight is rounded: see `Head.logits`."""


@dataclass(frozen=True)
class Head:
    """The last layer of the network.

    Attributes:
        weight: Shape (L, D).
        bias: Shape (L,).
    """

    weight: Floats
    bias: Floats

    def logits(self, embedding: Floats, norm: Floats) -> Floats:
        """Return the logits of stored embeddings: `norm * (embedding @ weight.T) + bias`.

        The same to the last bit for a row wherever it stands among whatever others, on any CPU. BLAS adds in
        an order that depends on the CPU, the shape and the place of a row in it, so the sums are made exact:
        an embedding holds multiples of 2^-24 (float16's smallest step), and the weights are rounded to
        multiples of 2^-27 of their longest row (less than float32 loses in such a sum). A product is then an
        integer in units of 2^-51 of that length, and no partial sum passes the length itself
        (Cauchy-Schwarz: an embedding has length 1), which float64 with its 53 bits holds without rounding.

        Args:
            embedding: Shape (N, D), as in `Outputs`.
            norm: Shape (N,).

        Returns:
            Shape (N, L).
        """
        logits = np.empty((len(embedding), len(self.weight)), np.float32)
        with _one_blas_thread():
            for start in range(0, len(embedding), _BLOCK):
                rows = slice(start, start + _BLOCK)
                exact = embedding[rows].astype(np.float64) @ self._weight.T
                exact *= norm[rows, None]
                exact += self.bias
                logits[rows] = exact
        return logits

    @functools.cached_property
    def _weight(self) -> npt.NDArray[np.float64]:
        weight = self.weight.astype(np.float64)
        longest = float(np.sqrt(np.square(weight).sum(axis=1).max(initial=0)))
        unit = 2.0 ** (math.ceil(math.log2(longest or 1)) - _WEIGHT_BITS)
        rounded: npt.NDArray[np.float64] = np.rint(weight / unit) * unit
        return rounded


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model says about N images.

    Attributes:
        logits: Shape (N, L); exactly `Head.logits` of the two below.
        embedding: Shape (N, D), L2-normalised, then rounded to values that float16 can hold. A picture that
            excites no feature at all has zeros.
        norm: Shape (N,), the length that the normalisation took away.
    """

    logits: Floats
    embedding: Floats
    norm: Floats


def _one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    """Keep BLAS from waking its threads.

    They wait for each other in busy loops: beside the decoders that keep all cores busy, two threads took
    0.5 ms an image where one takes 0.04 ms. The result is the same.
    """
    controller = _blas()
    return contextlib.nullcontext() if controller is None else controller.limit(limits=1, user_api="blas")


@functools.cache
def _blas() -> Any:
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None


def finish(head: Head, features: Floats, *, model: str, precision: str) -> Outputs:
    """Turn pooled features into `Outputs`; arguments and errors are those of `normalise`.

    Args:
        head: The last layer.
        features: What goes into it, shape (N, D).
        model: Name, for the error.
        precision: Name, for the error.
    """
    embedding, norm = normalise(features, model=model, precision=precision)
    return Outputs(head.logits(embedding, norm), embedding, norm)


def normalise(features: Floats, *, model: str, precision: str) -> tuple[Floats, Floats]:
    """Turn pooled features into embeddings, shape (N, D), and the lengths they had, shape (N,).

    Args:
        features: What goes into the last layer, shape (N, D).
        model: Name, for the error.
        precision: Name, for the error.

    Raises:
        RunError: A feature is NaN or infinite.
    """
    broken = int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
    if broken:
        raise RunError(
            f"{model} at precision {precision} gave values that are not finite numbers for {broken} of "
            f"{len(features)} images; start the run again with precision f32"
        )
    norm = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1)).astype(np.float32)
    length = np.where(norm > 0, norm, np.float32(1))
    embedding = (features / length[:, None]).astype(np.float16).astype(np.float32)
    return embedding, norm


def concatenate(parts: list[Outputs], head: Head) -> Outputs:
    """Join the outputs of consecutive batches; no part makes no rows."""
    if len(parts) == 1:
        return parts[0]
    classes, dim = head.weight.shape
    empty = Outputs(
        np.empty((0, classes), np.float32), np.empty((0, dim), np.float32), np.empty(0, np.float32)
    )
    parts = parts or [empty]
    return Outputs(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.embedding for part in parts]),
        np.concatenate([part.norm for part in parts]),
    )


def head_from_bytes(payload: Mapping[str, bytes]) -> Head:
    """Read the head out of a payload."""
    from safetensors.numpy import load

    tensors = load(payload["head.safetensors"])
    return Head(tensors["weight"], tensors["bias"])


def head_to_bytes(head: Head) -> bytes:
    """Write the head as it travels in a payload."""
    from safetensors.numpy import save

    return bytes(save({"weight": head.weight, "bias": head.bias}))
