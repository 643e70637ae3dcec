import io
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tagger.errors import ImageError
from tagger.vision import DecodeLimits, Framing, Picture
from tagger.vision.decode import decode
from tagger.vision.jpeg import exif_orientation
from tagger.vision.sniff import sniff

FRAMING = Framing(64, 64, "squash")
LIMITS = DecodeLimits()
VERDICTS = {"empty", "too_large", "too_many_pixels", "unsupported_format", "corrupt"}


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def verdict(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    try:
        picture = decode(data, [FRAMING], limits)
    except ImageError as error:
        return error.code
    assert isinstance(picture, Picture)
    return "tagged"


def mean_color(data: bytes) -> np.ndarray:
    return decode(data, [FRAMING], LIMITS).pixels[0].reshape(-1, 3).mean(axis=0)


@pytest.fixture(scope="module")
def small(photos: dict[str, Image.Image]) -> Image.Image:
    return photos["coffee"].resize((150, 100))


ENCODINGS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"subsampling": 0}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("AVIF", {}),
]


@pytest.mark.parametrize(("kind", "options"), ENCODINGS, ids=str)
def test_every_format_whole_and_at_every_tenth(small: Image.Image, kind: str, options: dict[str, object]):
    data = encode(small, kind, **options)
    picture = decode(data, [FRAMING], LIMITS)
    assert (picture.facts.format, picture.facts.width_px, picture.facts.height_px) == (kind, 150, 100)
    wanted = np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(picture.pixels[0] - wanted).mean() < 12
    for tenth in range(1, 10):
        assert verdict(data[: len(data) * tenth // 10]) == "corrupt", tenth
    assert verdict(data + b"garbage after the end" * 99) == "tagged"


def test_a_jpeg_without_its_last_byte_is_corrupt(small: Image.Image):
    assert verdict(encode(small, "JPEG")[:-1]) == "corrupt"


def test_a_tiff_whose_list_of_strips_is_cut_off_is_corrupt(small: Image.Image):
    data = encode(small.resize((320, 214)).convert("1"), "TIFF", compression="group4")
    for cut in range(50, 1500, 50):
        assert verdict(data[:-cut]) in {"corrupt", "tagged"}
    assert verdict(data[:-1400]) == "corrupt"


def test_limits(small: Image.Image):
    data = encode(small, "PNG")
    assert verdict(b"") == "empty"
    assert verdict(data, DecodeLimits(max_bytes=len(data) - 1)) == "too_large"
    for kind, options in ENCODINGS:
        data = encode(small, kind, **options)
        assert verdict(data, DecodeLimits(max_pixels=150 * 100 - 1)) == "too_many_pixels", kind
        assert verdict(data, DecodeLimits(max_pixels=150 * 100)) == "tagged", kind


def test_what_is_not_an_image_is_named():
    for data, what in [
        (b"<!DOCTYPE html><html><body>404", "an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC image"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41", "an MP4 or QuickTime file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"BM is a car maker, almost", "text"),
        (b"\x00" * 100, "filled with zeros"),
        (bytes(range(1, 200)), "of no known format"),
    ]:
        with pytest.raises(ImageError) as caught:
            sniff(data)
        assert caught.value.code == "unsupported_format"
        assert what in caught.value.detail


def test_avif_by_a_compatible_brand():
    assert sniff(b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf") == "AVIF"


def test_modes_keep_their_brightness():
    """A ramp of any mode is a ramp: nothing wraps around, nothing is clipped to white."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, axis=0)
    grey = Image.fromarray(ramp)
    deep = Image.fromarray((ramp.astype(np.uint16) << 8) | ramp)
    cases = {
        "8-bit": encode(grey, "PNG"),
        "16-bit png": encode(deep, "PNG"),
        "16-bit tiff": encode(deep, "TIFF"),
        "32-bit tiff": encode(Image.fromarray(ramp.astype(np.int32) * 257), "TIFF"),
        "32-bit tiff, huge": encode(Image.fromarray(ramp.astype(np.int32) * 8_000_000), "TIFF"),
        "signed tiff": encode(Image.fromarray(ramp.astype(np.int32) * 100 - 12_750), "TIFF"),
        "float 0 to 1": encode(Image.fromarray(ramp.astype(np.float32) / 255), "TIFF"),
        "float 0 to 255": encode(Image.fromarray(ramp.astype(np.float32)), "TIFF"),
        "float beyond": encode(Image.fromarray(ramp.astype(np.float32) * 1e6 - 3e7), "TIFF"),
        "LA": encode(grey.convert("LA"), "PNG"),
        "palette": encode(grey.convert("P"), "PNG"),
        "cmyk": encode(grey.convert("RGB").convert("CMYK"), "JPEG", quality=95),
        "grey jpeg": encode(grey, "JPEG", quality=95),
        "RGBA": encode(grey.convert("RGBA"), "WEBP", lossless=True),
        "YCbCr": encode(grey.convert("YCbCr"), "TIFF"),
        "LAB": encode(
            Image.merge("LAB", [grey, Image.new("L", (64, 64), 128), Image.new("L", (64, 64), 128)]), "TIFF"
        ),
    }
    for name, data in cases.items():
        columns = decode(data, [FRAMING], LIMITS).pixels[0].astype(int).mean(axis=(0, 2))
        assert np.diff(columns).min() >= -3, name
        assert columns[0] < 12, name
        assert columns[-1] > 243, name


def test_not_a_number_is_black():
    values = np.full((20, 20), 0.5, np.float32)
    values[:10] = np.nan
    pixels = decode(encode(Image.fromarray(values), "TIFF"), [FRAMING], LIMITS).pixels[0]
    assert pixels[:20].max() == 0
    assert abs(int(pixels[50:].mean()) - 127) <= 1


def test_adobe_cmyk_is_inverted():
    orange = Image.new("RGB", (64, 64), (250, 120, 10)).convert("CMYK")
    plain = encode(
        orange, "JPEG", quality=95
    )  # Pillow writes the Adobe marker and inverts, as Photoshop does
    assert b"Adobe" in plain
    assert np.abs(mean_color(plain) - (250, 120, 10)).max() < 8


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    half = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    palette = Image.new("P", (64, 64), 3)
    palette.putpalette([9] * 768)
    for data, wanted in [
        (encode(clear, "PNG"), 255),
        (encode(clear, "WEBP", lossless=True, exact=True), 255),
        (encode(clear, "TIFF"), 255),
        (encode(half, "PNG"), 127),
        (encode(half.convert("LA"), "PNG"), 127),
        (encode(palette, "PNG", transparency=3), 255),
        (encode(palette, "GIF", transparency=3), 255),
        (encode(Image.new("RGB", (64, 64), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), 255),
        (encode(Image.new("L", (64, 64), 7), "PNG", transparency=7), 255),
        (encode(palette, "PNG"), 9),
    ]:
        assert np.abs(mean_color(data) - wanted).max() <= 1.5


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_of_animations(kind: str):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(mean_color(data) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_of_other_formats(kind: str):
    left_red = Image.new("RGB", (80, 40), "blue")
    left_red.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: what was left is on top
    picture = decode(encode(left_red, kind, exif=exif), [FRAMING], LIMITS)
    assert (picture.facts.width_px, picture.facts.height_px) == (40, 80)
    assert np.abs(picture.pixels[0][5].mean(axis=0) - (255, 0, 0)).max() < 12
    assert np.abs(picture.pixels[0][-5].mean(axis=0) - (0, 0, 255)).max() < 12


def with_exif(tiff: bytes) -> bytes:
    segment = b"Exif\x00\x00" + tiff
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xd9"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(10))
def test_exif_parser(order: str, value: int):
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    entries = struct.pack(order + "HHIHH", 0x0100, 3, 1, 99, 0) + struct.pack(
        order + "HHIHH", 0x0112, 3, 1, value, 0
    )
    tiff = mark + struct.pack(order + "I", 8) + struct.pack(order + "H", 2) + entries
    assert exif_orientation(with_exif(tiff)) == (value if 1 <= value <= 8 else 1)
    assert exif_orientation(memoryview(with_exif(tiff))) == (value if 1 <= value <= 8 else 1)


@given(st.binary(max_size=80))
def test_exif_parser_survives_anything(data: bytes):
    for file in (
        data,
        b"\xff\xd8" + data,
        with_exif(data),
        with_exif(b"MM\x00*" + data),
        with_exif(b"II*\x00" + data),
    ):
        assert 1 <= exif_orientation(file) <= 8


MAGICS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"RIFF\x20\0\0\0WEBPVP8 ",
    b"\0\0\0\x1cftypavif",
]


@given(st.sampled_from(MAGICS), st.binary(max_size=400))
@settings(deadline=None)
def test_random_bytes_get_a_verdict(magic: bytes, data: bytes):
    assert verdict(magic + data) in VERDICTS | {"tagged"}


@given(data=st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bit_flips_get_a_verdict(small: Image.Image, data: st.DataObject):
    kind, options = data.draw(st.sampled_from(ENCODINGS))
    file = bytearray(encode(small.resize((48, 32)), kind, **options))
    for at in data.draw(st.lists(st.integers(0, len(file) * 8 - 1), min_size=1, max_size=4)):
        file[at // 8] ^= 1 << at % 8
    assert verdict(bytes(file)) in VERDICTS | {"tagged"}


@given(st.floats(0, 1, exclude_max=True), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_jpeg_cut_anywhere_is_never_a_picture(small: Image.Image, where: float, progressive: bool):  # noqa: FBT001
    data = encode(small, "JPEG", progressive=progressive)
    assert verdict(data[: int(where * len(data))]) in {"empty", "corrupt", "unsupported_format"}
