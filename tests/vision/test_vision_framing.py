import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tagger.vision import DecodeLimits, Framing
from tagger.vision.decode import decode
from tagger.vision.framing import place, upright

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def reference(image: Image.Image, framing: Framing) -> np.ndarray:
    """Frame as torchvision does: resize the whole picture, then cut or pad."""
    size, kind = framing.size_px, FILTERS[framing.interpolation]
    width, height = image.size
    if framing.mode == "squash":
        return np.asarray(image.resize((size, size), kind))
    if framing.mode == "letterbox":
        to = (max(1, round(width * size / max(image.size))), max(1, round(height * size / max(image.size))))
        square = Image.new("RGB", (size, size))
        square.paste(image.resize(to, kind), ((size - to[0]) // 2, (size - to[1]) // 2))
        return np.asarray(square)
    short = framing.resize_px
    to = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((to[0] - size) / 2), round((to[1] - size) / 2)
    return np.asarray(image.resize(to, kind).crop((left, top, left + size, top + size)))


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


FRAMINGS = [
    Framing(224, 256),
    Framing(224, 256, interpolation="bilinear"),
    Framing(224, 224, "squash"),
    Framing(224, 224, "letterbox"),
    Framing(96, 300),
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_without_reduction_equals_the_reference(photos: dict[str, Image.Image], framing: Framing):
    for name in ("chelsea", "rocket", "coffee"):
        (pixels,) = decode(png(photos[name]), [framing], DecodeLimits()).pixels
        wanted = reference(photos[name], framing).astype(int)
        # The box is a float32 in Pillow, so single values may round the other way.
        assert np.abs(pixels - wanted).max() <= 1
        assert (pixels != wanted).mean() < 0.01


@pytest.mark.parametrize("framing", FRAMINGS[:4], ids=str)
@pytest.mark.parametrize("shorter_px", [264, 512, 563, 600, 1030, 1127, 2260])
def test_reduced_jpegs_stay_near_the_reference(
    photos: dict[str, Image.Image], framing: Framing, shorter_px: int
):
    projection = np.random.default_rng(0).standard_normal((224 * 224 * 3, 64)).astype(np.float32)
    for name in ("chelsea", "rocket"):
        factor = shorter_px / min(photos[name].size)
        large = photos[name].resize([round(side * factor) for side in photos[name].size])
        data = jpeg(large)
        (pixels,) = decode(data, [framing], DecodeLimits()).pixels
        wanted = reference(Image.open(io.BytesIO(data)), framing)
        assert np.abs(pixels.astype(int) - wanted).mean() < 1.5
        here, there = (((p.ravel() - 127.5) / 127.5) @ projection for p in (pixels, wanted))
        assert here @ there / np.linalg.norm(here) / np.linalg.norm(there) > 0.9995


def test_several_framings_at_once_equal_each_alone(photos: dict[str, Image.Image]):
    data = png(photos["coffee"])
    together = decode(data, FRAMINGS, DecodeLimits()).pixels
    for framing, pixels in zip(FRAMINGS, together, strict=True):
        np.testing.assert_array_equal(pixels, decode(data, [framing], DecodeLimits()).pixels[0])


@pytest.mark.parametrize("framing", FRAMINGS[:4], ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(321, 213), (150, 257), (1201, 903)])
def test_orientation_equals_pillows(
    photos: dict[str, Image.Image], framing: Framing, orientation: int, size: tuple[int, int]
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photos["rocket"].resize(size), exif=exif, subsampling=0)
    stored = Image.open(io.BytesIO(data))
    wanted = ImageOps.exif_transpose(stored)
    picture = decode(data, [framing], DecodeLimits())
    assert (picture.facts.width_px, picture.facts.height_px) == wanted.size
    difference = np.abs(picture.pixels[0].astype(int) - reference(wanted, framing))
    # Without reduction only the order of the two passes differs; with it, see above.
    assert difference.mean() < (0.6 if min(size) < 400 else 1.5)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
def test_upright_equals_pillow(orientation: int, width: int, height: int):
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(upright(pixels, orientation), np.asarray(ImageOps.exif_transpose(image)))


@given(
    st.sampled_from(FRAMINGS),
    st.integers(1, 70_000),
    st.integers(1, 70_000),
)
def test_every_box_lies_in_its_picture(framing: Framing, width: int, height: int):
    (left, top, right, bottom), to, at = place(framing, width, height)
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    assert all(side >= 1 and place + side <= framing.size_px for side, place in zip(to, at, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (1000, 3), (1, 9000), (2, 2), (31, 33)])
@pytest.mark.parametrize("kind", [jpeg, png])
def test_tiny_and_thin_pictures(size: tuple[int, int], kind: object):
    data = kind(Image.new("RGB", size, (200, 30, 40)))  # type: ignore[operator]
    picture = decode(data, FRAMINGS, DecodeLimits())
    assert (picture.facts.width_px, picture.facts.height_px) == size
    for framing, pixels in zip(FRAMINGS, picture.pixels, strict=True):
        assert pixels.shape == (framing.size_px, framing.size_px, 3)
        # A letterbox may leave a line one pixel wide, and black around it.
        seen = pixels[pixels.any(axis=2)].astype(int)
        assert len(seen) >= framing.size_px
        assert np.abs(seen - (200, 30, 40)).max() <= 3


def test_nonsense_framings_are_refused():
    with pytest.raises(ValueError, match="resize_px must be at least size_px"):
        Framing(224, 200)
    with pytest.raises(ValueError, match="size_px must be at least 1"):
        Framing(0, 0)
