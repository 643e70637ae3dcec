"""Our resampling against Pillow's, which it must equal within the rounding of single values."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tagger.vision import DecodeLimits, Framing
from tagger.vision.framing import frame
from tagger.vision.jpeg import decode_jpeg
from tagger.vision.picture import Box
from tagger.vision.resample import resample

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def ours(pixels: np.ndarray, box: Box, to: tuple[int, int], kernel: str) -> np.ndarray:
    result = np.full((to[1], to[0], 3), 77, np.uint8)
    resample(pixels, box, kernel, result)
    return result


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(FILTERS)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(*[st.integers(0, 64)] * 4),
    st.sampled_from(["noise", "black and white", "ramp"]),
    st.integers(0, 2**32 - 1),
)
@example("bilinear", (1, 1), (70, 70), (0, 0, 64, 64), "noise", 0)
@example("bicubic", (1, 90), (33, 5), (0, 0, 64, 64), "noise", 1)
@example("lanczos", (90, 1), (1, 1), (0, 0, 64, 64), "black and white", 2)
def test_equals_pillow(  # noqa: PLR0917  hypothesis passes them by position
    kernel: str,
    size: tuple[int, int],
    to: tuple[int, int],
    cut: tuple[int, int, int, int],
    content: str,
    seed: int,
):
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if content == "black and white":  # every edge overshoots, and both passes clip
        pixels = (pixels >> 7) * np.uint8(255)
    elif content == "ramp":
        pixels[:] = (np.arange(width) * 7 + np.arange(height)[:, None] * 3)[:, :, None].astype(np.uint8)
    (left, right), (top, bottom) = sorted(cut[::2]), sorted(cut[1::2])
    # Sixty-fourths of a side times a power of two: exact in Pillow's float32.
    box = (left * width / 64, top * height / 64, right * width / 64, bottom * height / 64)
    if left == right or top == bottom:
        box = (0.0, 0.0, float(width), float(height))
    theirs = Image.fromarray(pixels[:, :, :3].copy()).resize(to, FILTERS[kernel], box=box)
    difference = np.abs(ours(pixels, box, to, kernel).astype(int) - np.asarray(theirs))
    # The others are full of exact halves, which Pillow's fixed-point weights throw either way, in each pass.
    assert difference.max() <= (1 if content == "noise" else 2)


@pytest.mark.parametrize("kernel", sorted(FILTERS))
@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((400, 300), (224, 224)),
        ((9000, 3), (224, 224)),
        ((3, 9000), (32, 32)),
        ((300, 400), (224, 224)),
        ((1801, 1203), (299, 448)),
    ],
)
def test_equals_pillow_on_a_photo(
    photos: dict[str, Image.Image], kernel: str, size: tuple[int, int], to: tuple[int, int]
):
    image = photos["coffee"].resize(size)
    theirs = np.asarray(image.resize(to, FILTERS[kernel])).astype(int)
    mine = ours(np.asarray(image), (0, 0, *size), to, kernel)
    assert np.abs(mine - theirs).max() <= 1
    assert np.abs(mine - theirs).mean() < 0.002


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_framing_an_array_equals_framing_by_pillow(
    photos: dict[str, Image.Image], mode: str, interpolation: str, orientation: int
):
    framing = Framing(224, 256, mode, interpolation)  # type: ignore[arg-type]
    image = photos["rocket"].resize((401, 303))
    padded = np.dstack([np.asarray(image), np.full((303, 401), 255, np.uint8)])
    seen = (
        frame(stored, framing, full_px=(802, 605), reduction=2, orientation=orientation)
        for stored in (padded, image)
    )
    mine, theirs = (pixels.astype(int) for pixels in seen)
    # Pillow keeps the box as float32, which moves it by up to a 30,000th of a pixel.
    assert np.abs(mine - theirs).max() <= 1
    assert np.abs(mine - theirs).mean() < 0.005


def test_a_jpeg_is_decoded_as_pillow_decodes_it(photos: dict[str, Image.Image]):
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        for image in (photos["chelsea"], photos["chelsea"].convert("L")):
            out = io.BytesIO()
            image.resize((300, 200)).save(out, "JPEG", **options)
            stored = decode_jpeg(out.getvalue(), [Framing(224, 256)], DecodeLimits().max_pixels)
            assert stored is not None
            assert stored.reduction == 1
            assert isinstance(stored.image, np.ndarray)
            theirs = np.asarray(Image.open(out).convert("RGB")).astype(int)
            assert np.abs(stored.image[:, :, :3] - theirs).max() <= 2
