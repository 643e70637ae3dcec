"""Antialiased resampling as Pillow does it, as small matrix products: in half of Pillow's time.

The filters, their supports and the rounding are those of Pillow's `src/libImaging/Resample.c`: one side
first, rounded and clipped to 8 bits, then the other, rounded and clipped again. Pillow sums in 22-bit fixed
point and this in float32, so that single values lie on the other side of a rounding: 1 grey level apart,
hardly ever 2, and 0.0003 on average (bicubic, 150 photos).
"""

import math
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tagger.vision.picture import Box, Pixels

Floats: TypeAlias = npt.NDArray[np.float32]
_Doubles: TypeAlias = npt.NDArray[np.float64]

_BAND: Final = 16
"""Outputs of one matrix product. Fewer mean more calls, more mean more zeros in the matrices."""

_CHUNK: Final = 2**18
"""Samples that are widened to float at once, so that they stay in the processor's cache."""

_KEPT: Final = 2**20
"""Largest array of floats that is kept for the next picture."""

_TIES_UP: Final = 1 + 1e-6
"""Makes exact halves round up, as in Pillow, where `np.rint` rounds them to even."""


def _linear(x: _Doubles) -> _Doubles:
    return np.maximum(1 - x, 0)


def _cubic(x: _Doubles) -> _Doubles:
    # Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2.
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: _Doubles) -> _Doubles:
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)


_KERNELS: Final[dict[str, tuple[float, Callable[[_Doubles], _Doubles]]]] = {
    "bilinear": (1.0, _linear),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
"""By Pillow's name: how far a filter reaches, and its value at a distance of 0 or more."""


class Weights(NamedTuple):
    """How the samples along one side become those of the result.

    Most of the matrix would be zero, so it comes in bands of outputs, each with only the inputs that it
    looks at.
    """

    size: int
    """Samples of the result."""
    inputs: slice
    """Samples of the source that count at all."""
    bands: list[tuple[slice, slice, Floats]]
    """(outputs, inputs counted from `inputs.start`, weights (inputs, outputs))."""


@lru_cache(maxsize=512)
def weights(length: int, start: float, stop: float, size: int, kernel: str) -> Weights:
    """Return the weights for one side; some 25 KB for 300 samples to 224.

    Args:
        length: Samples of the source.
        start: Where in the source the result begins; samples outside of it count too, as in Pillow.
        stop: Where it ends.
        size: Samples of the result.
        kernel: `bilinear`, `bicubic` or `lanczos`.
    """
    radius, value_at = _KERNELS[kernel]
    scale = (stop - start) / size
    stretch = max(scale, 1.0)
    centers = start + (np.arange(size) + 0.5) * scale
    first = np.maximum((centers - radius * stretch + 0.5).astype(np.intp), 0)
    last = np.minimum((centers + radius * stretch + 0.5).astype(np.intp), length)
    taps = first[:, None] + np.arange((last - first).max())
    values = value_at(np.abs(taps - centers[:, None] + 0.5) / stretch)
    values[taps >= last[:, None]] = 0
    values *= _TIES_UP / values.sum(axis=1, keepdims=True)
    firsts, lasts = first[::_BAND], last[np.minimum(np.arange(0, size, _BAND) + _BAND, size) - 1]
    # Wide enough for the zeros after the last tap.
    matrix = np.zeros((size, (lasts - firsts).max() + taps.shape[1]), np.float32)
    np.put_along_axis(matrix, taps - np.repeat(firsts, _BAND)[:size, None], values, axis=1)
    origin = int(first[0])
    bands = []
    for band, (begin, end) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True)):
        outs = slice(band * _BAND, min((band + 1) * _BAND, size))
        part = np.ascontiguousarray(matrix[outs, : end - begin].T)
        bands.append((outs, slice(begin - origin, end - origin), part))
    return Weights(size, slice(origin, int(last[-1])), bands)


def resample(pixels: Pixels, box: Box, kernel: str, into: Pixels) -> None:
    """Resample part of a picture, as `Image.resize(to, kernel, box)` does.

    Args:
        pixels: Array (H, W, C).
        box: (left, top, right, bottom) of the part; samples outside of it count too, as in Pillow.
        kernel: `bilinear`, `bicubic` or `lanczos`.
        into: Array (height, width, channels) that takes the result, in any memory layout; C may be larger
            than its channels.
    """
    across = weights(pixels.shape[1], box[0], box[2], into.shape[1], kernel)
    down = weights(pixels.shape[0], box[1], box[3], into.shape[0], kernel)
    # Pillow 13 begins with the side where much more is saved; before, it always began with the rows.
    saved_across, saved_down = pixels.shape[1] - into.shape[1], pixels.shape[0] - into.shape[0]
    if saved_down > max(0, 2 * saved_across):
        _resample(pixels.swapaxes(0, 1), down, across, into.swapaxes(0, 1))
    else:
        _resample(pixels, across, down, into)


def _resample(pixels: Pixels, across: Weights, down: Weights, into: Pixels) -> None:
    channels = into.shape[2]
    source = pixels[down.inputs, across.inputs]
    height, width = source.shape[:2]
    narrow = _scratch.take("narrow", height * channels, across.size)
    step = max(1, _CHUNK // (channels * width))
    for top in range(0, height, step):
        rows = source[top : top + step]
        planes = _scratch.take("planes", len(rows), channels, width)
        for channel in range(channels):  # a loop over pixels of 3 values would be ten times slower
            planes[:, channel] = rows[:, :, channel]
        flat = planes.reshape(-1, width)
        for outs, ins, part in across.bands:
            np.matmul(flat[:, ins], part, out=narrow[top * channels :][: len(flat), outs])
    _round(narrow)
    columns = narrow.reshape(height, -1)
    result = _scratch.take("result", down.size, channels * across.size)
    for outs, ins, part in down.bands:
        np.matmul(part.T, columns[ins], out=result[outs])
    _round(result)
    planar = result.astype(np.uint8).reshape(down.size, channels, across.size)
    for channel in range(channels):
        into[:, :, channel] = planar[:, channel]


def _round(values: Floats) -> None:
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)


class _Scratch(threading.local):
    """Arrays that every picture needs again.

    Memory fresh from the system costs a page fault every 4 KB, together more than the arithmetic.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Floats] = {}

    def take(self, name: str, *shape: int) -> Floats:
        """Return an array of a shape with anything in it; the next of this name may share its memory."""
        size = math.prod(shape)
        if size > _KEPT:
            return np.empty(shape, np.float32)
        kept = self._kept.get(name)
        if kept is None or kept.size < size:
            room = np.empty(size + 16, np.float32)
            # On a cache line, where vector instructions are fastest.
            kept = self._kept[name] = room[-room.ctypes.data % 64 // 4 :][:size]
        return kept[:size].reshape(shape)


_scratch: Final = _Scratch()
