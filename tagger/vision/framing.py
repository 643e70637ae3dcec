"""How a picture of any shape becomes the square the CNN looks at."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tagger.vision.picture import Box, Pixels, Raster
from tagger.vision.resample import resample


@dataclass(frozen=True, slots=True)
class Framing:
    """Geometry of a model's input; part of the model's fingerprint.

    Attributes:
        size_px: Side of the square input.
        resize_px: `crop` only: the shorter side is resized to this before the centre is cut out.
        mode: `crop` cuts the centre square, `squash` ignores the aspect ratio, `letterbox` pads with black.
        interpolation: Antialiased resampling filter, as Pillow names it.
    """

    size_px: int
    resize_px: int
    mode: Literal["crop", "squash", "letterbox"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        if self.size_px < 1:
            raise ValueError(f"size_px must be at least 1, got {self.size_px}")
        if self.mode == "crop" and self.resize_px < self.size_px:
            raise ValueError(f"resize_px must be at least size_px ({self.size_px}), got {self.resize_px}")


_FILTERS: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def shorter_side_needed(framing: Framing, width_px: int, height_px: int) -> float:
    """Return how many pixels the shorter side must keep so that nothing the CNN sees is lost.

    Args:
        framing: Geometry of the model's input.
        width_px: Full width of the picture.
        height_px: Full height of the picture.
    """
    if framing.mode == "crop":
        return framing.resize_px
    if framing.mode == "squash":
        return framing.size_px
    return framing.size_px * min(width_px, height_px) / max(width_px, height_px)


def place(framing: Framing, width_px: int, height_px: int) -> tuple[Box, tuple[int, int], tuple[int, int]]:
    """Find what part of a picture becomes what part of the square.

    The rounding of `crop` is that of torchvision's `Resize` followed by `CenterCrop`, which is what the
    models were trained and published with.

    Args:
        framing: Geometry of the model's input.
        width_px: Width of the picture, upright.
        height_px: Height of the picture, upright.

    Returns:
        The box (left, top, right, bottom) of the picture, the (width, height) it is resized to, and the
        (left, top) of its place in the square.
    """
    size = framing.size_px
    whole = (0.0, 0.0, float(width_px), float(height_px))
    if framing.mode == "squash":
        return whole, (size, size), (0, 0)
    if framing.mode == "letterbox":
        longer = max(width_px, height_px)
        to = (max(1, round(width_px * size / longer)), max(1, round(height_px * size / longer)))
        return whole, to, ((size - to[0]) // 2, (size - to[1]) // 2)
    if width_px <= height_px:
        to = (framing.resize_px, int(framing.resize_px * height_px / width_px))
    else:
        to = (int(framing.resize_px * width_px / height_px), framing.resize_px)
    left, top = round((to[0] - size) / 2), round((to[1] - size) / 2)
    across, down = width_px / to[0], height_px / to[1]
    return (left * across, top * down, (left + size) * across, (top + size) * down), (size, size), (0, 0)


def upright(pixels: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """Turn stored pixels (H, W, ...) the way EXIF says they are looked at; a view, not a copy."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _FLIPS_ROWS:
        pixels = pixels[::-1]
    if orientation in _FLIPS_COLUMNS:
        pixels = pixels[:, ::-1]
    return pixels


# After the axes of 5 to 8 are swapped, each orientation is a pair of flips (Exif 2.32, tag 0x0112).
_FLIPS_ROWS: Final = frozenset({3, 4, 7, 8})
_FLIPS_COLUMNS: Final = frozenset({2, 3, 6, 7})


def frame(
    image: Raster, framing: Framing, *, full_px: tuple[int, int], reduction: int, orientation: int
) -> Pixels:
    """Cut a model's square out of a picture, in one resampling.

    The picture may be stored on its side and reduced by the JPEG decoder: the box is carried into its
    coordinates, and only the small result is turned.

    Args:
        image: Picture as stored.
        framing: Geometry of the model's input.
        full_px: (width, height) of the full picture as stored.
        reduction: How many full pixels one pixel of `image` stands for, along each side.
        orientation: EXIF orientation, 1 to 8.

    Returns:
        Array (S, S, 3) uint8.
    """
    width, height = full_px if orientation < 5 else full_px[::-1]
    (left, top, right, bottom), to, at = place(framing, width, height)
    square = np.zeros((framing.size_px, framing.size_px, 3), np.uint8)
    shown = square[at[1] : at[1] + to[1], at[0] : at[0] + to[0]]
    if orientation in _FLIPS_ROWS:
        top, bottom = height - bottom, height - top
        shown = shown[::-1]
    if orientation in _FLIPS_COLUMNS:
        left, right = width - right, width - left
        shown = shown[:, ::-1]
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
        to = to[::-1]
        shown = shown.swapaxes(0, 1)
    columns, rows = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    # The clamps only undo float rounding: no box reaches past the picture.
    left, right = max(left / reduction, 0.0), min(right / reduction, float(columns))
    top, bottom = max(top / reduction, 0.0), min(bottom / reduction, float(rows))
    box = (left, top, right, bottom)
    # Samples outside the box count too, so this equals cutting the resized whole.
    if isinstance(image, Image.Image):
        shown[:] = np.asarray(image.resize(to, _FILTERS[framing.interpolation], box=box))
    else:
        resample(image, box, framing.interpolation, shown)
    return square
