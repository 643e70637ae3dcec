"""Plain names for colours."""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tagger.vision.picture import Color

_ANCHORS: Final[dict[str, str]] = {
    "black": "000000 0d0d0d 1a1a1a 14100c 0a0f14",
    "grey": "333333 4d4d4d 666666 808080 999999 b3b3b3 cccccc 5a6068 8c8680 a0a8b0",
    "white": "ffffff f5f5f5 ebebeb f8f4ee eef4fa",
    "red": "ff0000 e01020 c01818 e03030 dc143c f04038",
    "maroon": "800000 5a0a14 8b1a2b 6e1423 400808",
    "orange": "ff8000 ff9d2e f07010 e8690b ffa550 d2691e",
    "brown": "5c3317 7b4a21 8b5a2b 6b4423 3b2314 a0703c 96694c 4a3728 a9825a",
    "beige": "f5f0dc e8dcc0 d8c8a8 f0dcb8 e6d0b0 d2b48c e0c8b4",
    "yellow": "ffff00 ffe000 f0d020 ffee66 e8c820 fff59a",
    "olive": "808000 6b6b1e 5a5a28 8a8a3c 9a9a40 44481c",
    "green": "008000 00ff00 20a030 0a5a14 3c8c3c 60c050 80d870 103c14 4a7a3a 98fb98 2e8b57 6a9a50",
    "teal": "008080 0a6464 1e8c8c 2f6f70 004d4d 3a9a96",
    "turquoise": "40e0d0 00ffff 20c8d0 7ff0e8 00ced1 a0f0f0",
    "blue": "0000ff 1e64ff 2060c0 4080e0 87ceeb 60a0e0 a8d0f0 4682b4 3a4fd0 1e90ff",
    "navy": "000080 0a1450 14285a 1c2c4c 00003c 202a60 191970",
    "purple": "800080 6a0dad 8040c0 5a2878 9966cc b080e0 4b0082 301040 c0a0e0",
    "pink": "ff69b4 ffc0cb ff1493 f08cb0 e75480 ffa0c8 ff00ff f4b8c8 d070a0 f8a0a0",
}
"""Each name's examples, as hex; a colour gets the name of its nearest example in CIELAB."""

COLOR_NAMES: Final = tuple(_ANCHORS)


def color_spelling(text: str) -> str:
    """Return a colour's name as it is written here: lower case, and grey for gray."""
    name = text.strip().casefold()
    return "grey" if name == "gray" else name


_BITS: Final = 5
_MIN_FRACTION: Final = 0.01


def to_lab(rgb: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Convert sRGB values (N, 3) of 0 to 255 to CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    linear = np.asarray(rgb, np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness = 116 * root[:, 1] - 16
    return np.stack([lightness, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)


@lru_cache(maxsize=1)
def _name_of_every_color() -> npt.NDArray[np.uint8]:
    """Return the index into COLOR_NAMES of each of the 32 x 32 x 32 colours, flat, red slowest.

    As bytes, so that the table stays in the processor's cache from picture to picture.
    """
    steps = np.arange(2**_BITS) * 255 / (2**_BITS - 1)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    examples = [(index, hex_) for index, text in enumerate(_ANCHORS.values()) for hex_ in text.split()]
    anchors = to_lab(np.array([list(bytes.fromhex(hex_)) for _, hex_ in examples]))
    owners = np.array([index for index, _ in examples], np.uint8)
    lab = to_lab(cube)
    # |a - b|^2 without |a|^2, which does not change which b is nearest
    nearest = ((anchors**2).sum(axis=1) - 2 * lab @ anchors.T).argmin(axis=1)
    names: npt.NDArray[np.uint8] = owners[nearest]
    return names


def _names(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the index into COLOR_NAMES of each colour (N, 3)."""
    # As float, because only float products go through BLAS; the values are small whole numbers.
    cells = (colors >> (8 - _BITS)).astype(np.float32) @ _PLACES
    return _name_of_every_color().take(cells.astype(np.intp))


_PLACES: Final = np.array([2 ** (2 * _BITS), 2**_BITS, 1], np.float32)


def color_name(red: int, green: int, blue: int) -> str:
    """Return the plain name of one sRGB colour.

    >>> color_name(0, 0, 128)
    'navy'
    """
    return COLOR_NAMES[int(_names(np.array([[red, green, blue]], np.uint8))[0])]


def dominant_colors(sample: npt.NDArray[np.uint8]) -> list[Color]:
    """Name the colours of a sample of pixels and say how much each covers.

    Args:
        sample: Pixels (N, 3), RGB; points of the picture, not averages, which would invent colours. At most
            65,000, so that float32 sums stay exact.

    Returns:
        At most 5, largest first; names that cover less than 1 % are left out.
    """
    names = _names(sample)
    counts = np.bincount(names, minlength=len(COLOR_NAMES))
    largest = np.argsort(-counts, kind="stable")[:5]
    largest = largest[counts[largest] >= _MIN_FRACTION * len(sample)]
    members = names == largest[:, None].astype(np.uint8)
    sums = members.astype(np.float32) @ sample.astype(np.float32)
    means = np.rint(sums / counts[largest, None]).astype(np.uint8)
    # The colours of one name need not be convex: where the mean has another name, show its nearest member.
    for row in np.flatnonzero(_names(means) != largest):
        own = sample[members[row]]
        distances = ((own.astype(np.int32) - means[row]) ** 2).sum(axis=1)
        means[row] = own[distances.argmin()]
    return [
        Color("#" + mean.tobytes().hex(), COLOR_NAMES[index], float(counts[index] / len(sample)))
        for mean, index in zip(means, largest, strict=True)
    ]
