"""What decoding one image gives, and the limits it runs under."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""

Raster = Pixels | Image.Image
"""A whole picture in the memory of its decoder: RGB and a byte of padding (H, W, 4), or Pillow's RGB."""

_T = TypeVar("_T", int, float)

_HEX_COLOR: Final = re.compile(r"#[0-9a-f]{6}")
_PHASH: Final = re.compile(r"[0-9a-f]{16}")
_WORD: Final = re.compile(r"[A-Za-z0-9 ]{1,24}")


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What one image may cost before it is given up.

    Attributes:
        max_bytes: Largest file. The default is far above any camera's JPEG; raise it for raw scans in TIFF.
        max_pixels: Most pixels of the full picture, read from the header before a pixel is decoded. The
            default of 200 megapixels is above every current camera and below what fills a worker's memory.
        timeout_s: Wall time for one image. A slow decode of 200 megapixels takes some 5 s.
        memory_bytes: Address space the decoder may take above what it needs to start.
    """

    max_bytes: int = 256 * 1024**2
    max_pixels: int = 200_000_000
    timeout_s: float = 20.0
    memory_bytes: int = 4 * 1024**3


class Color(NamedTuple):
    """One dominant colour of a picture."""

    hex: str
    """Mean of the pixels of this name, as `#rrggbb`."""
    name: str
    """Plain name, one of `tagger.vision.colors.COLOR_NAMES`."""
    fraction: float
    """Share of the picture's area, in (0, 1]."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Measurements of the whole picture, independent of any model.

    Attributes:
        width_px: Full width, after EXIF orientation.
        height_px: Full height, after EXIF orientation.
        format: Container by content, never by file name: JPEG, PNG, GIF, BMP, WEBP, TIFF or AVIF.
        colors: At most 5 dominant colours, largest first.
        sharpness: See `tagger.vision.measure.sharpness`; 0 is flat, below about 100 looks blurred.
        brightness: Mean luma in [0, 1].
        phash: 64-bit perceptual hash, 16 hex digits, as `str(imagehash.phash(image))`.
    """

    width_px: int
    height_px: int
    format: str
    colors: list[Color]
    sharpness: float
    brightness: float
    phash: str

    def to_json(self) -> list[Any]:
        """Return the fields in order, as values that JSON knows."""
        return [
            self.width_px,
            self.height_px,
            self.format,
            self.colors,
            self.sharpness,
            self.brightness,
            self.phash,
        ]

    @classmethod
    def from_json(cls, fields: Any) -> "Facts":
        """Rebuild facts that came from a process that is not trusted.

        Raises:
            ValueError: A field has the wrong type, form or range.
        """
        try:
            width, height, kind, colors, sharpness, brightness, phash = fields
            facts = cls(
                width_px=_number(width, int, 1, 2**31 - 1),
                height_px=_number(height, int, 1, 2**31 - 1),
                format=_text(kind, _WORD),
                colors=[
                    Color(_text(h, _HEX_COLOR), _text(n, _WORD), _number(f, float, 0, 1))
                    for h, n, f in colors
                ],
                sharpness=_number(sharpness, float, 0, 1e9),
                brightness=_number(brightness, float, 0, 1),
                phash=_text(phash, _PHASH),
            )
        except TypeError as error:
            raise ValueError(f"not the facts of a picture: {error}") from None
        if len(facts.colors) > 5:
            raise ValueError(f"colors must be at most 5, got {len(facts.colors)}")
        return facts


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One decoded image.

    Attributes:
        pixels: One array (S, S, 3) uint8 RGB per framing, in the order asked for.
        facts: Measurements of the whole picture.
    """

    pixels: Sequence[Pixels]
    facts: Facts


def _number(value: Any, kind: type[_T], low: float, high: float) -> _T:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not low <= value <= high:
        raise ValueError(f"must be a number from {low} to {high}, got {value!r:.40}")
    return kind(value)


def _text(value: Any, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"must match {form.pattern}, got {value!r:.40}")
    return value
