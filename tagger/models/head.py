"""From pooled features to what is stored: one formula, so that a stored embedding gives its logits again."""

import contextlib
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tagger.errors import RunError

Floats = npt.NDArray[np.float32]

_BLOCK: Final = 64
"""Rows of one matrix product. BLAS picks its kernel, and so its rounding, by the shape."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last layer of the network.

    Attributes:
        weight: Shape (L, D).
        bias: Shape (L,).
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model says about N images.

    Attributes:
        logits: Shape (N, L); exactly `head_logits` of the two below.
        embedding: Shape (N, D), L2-normalised, then rounded to values that float16 can hold. A picture that
            excites no feature at all has zeros.
        norm: Shape (N,), the length that the normalisation took away.
    """

    logits: Floats
    embedding: Floats
    norm: Floats


def head_logits(weight: Floats, bias: Floats, embedding: Floats, norm: Floats) -> Floats:
    """Return the logits of stored embeddings: `(embedding * norm) @ weight.T + bias` in float32.

    A row's result does not depend on how many rows come with it, nor on its place among them.

    Args:
        weight: Shape (L, D).
        bias: Shape (L,).
        embedding: Shape (N, D).
        norm: Shape (N,).

    Returns:
        Shape (N, L).
    """
    weight = np.ascontiguousarray(weight, np.float32)
    rows, dim = embedding.shape
    logits = np.empty((rows, weight.shape[0]), np.float32)
    block = np.zeros((_BLOCK, dim), np.float32)
    with _one_blas_thread():
        for start in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - start)
            chosen = slice(start, start + count)
            np.multiply(embedding[chosen], norm[chosen, None], out=block[:count])
            block[count:] = 0
            logits[chosen] = (block @ weight.T)[:count]
    logits += bias
    return logits


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
    """Turn pooled features into `Outputs`.

    Args:
        head: The last layer.
        features: What goes into it, shape (N, D).
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
    return Outputs(head_logits(head.weight, head.bias, embedding, norm), embedding, norm)


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
