"""Hundreds of image files as buckets really hold them: broken, odd, hostile, and good ones in between.

Everything is made from real photos (see `tagger.testing.photo_files`), the same bytes for the same seed and
library versions. Each case says what must become of it, and where the picture is well defined, its size and
an 8 by 8 thumbnail, so that a test sees a wrong rotation or colours that wrapped around.
"""

import io
import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import badencode as be
import numpy as np
import simplejpeg
import tifffile
from PIL import Image, ImageOps

from tagger.testing import photo_files

TAGGED = frozenset({"tagged"})
CORRUPT = frozenset({"corrupt"})
UNSUPPORTED = frozenset({"unsupported_format"})
BOMB = frozenset({"too_many_pixels"})
HURT = frozenset({"tagged", "corrupt"})  # damage that a decoder may or may not notice
ANYHOW = frozenset({"tagged", "corrupt", "unsupported_format", "too_many_pixels"})  # the header may be hit

Encoder = Callable[[Image.Image], bytes]


@dataclass(frozen=True, eq=False)
class Case:
    """One file.

    Attributes:
        name: File name; unique, and its ending may lie.
        data: The bytes.
        expected: `tagged` or error codes, any of which is right.
        size_px: (width, height) after orientation, where it is known.
        thumbnail: Expected picture as (8, 8, 3) uint8, where it is known.
        tolerance: Most that one value of the thumbnail may differ.
    """

    name: str
    data: bytes
    expected: frozenset[str]
    size_px: tuple[int, int] | None = None
    thumbnail: np.ndarray | None = None
    tolerance: int = 14


@cache
def bad_files(seed: int = 0) -> tuple[Case, ...]:
    """Return the corpus: over 300 cases with unique names, good ones spread among the bad."""
    photo = _photo("chelsea", (240, 160))
    bad = list(
        itertools.chain(
            _truncated(photo),
            _flipped(photo, random.Random(seed)),
            _bombs(photo),
            _not_images(photo),
            _orientations(),
            _odd_jpegs(photo),
            _odd_pngs(photo),
            _odd_tiffs(photo),
            _odd_others(photo),
            _odd_sizes(),
        )
    )
    good = list(_good())
    random.Random(seed).shuffle(bad)
    step = len(bad) // len(good)
    mixed = list(bad)
    for place, case in enumerate(good):
        mixed.insert(place * (step + 1), case)
    return tuple(mixed)


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return the picture as (8, 8, 3) uint8."""
    return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX))


@cache
def _photo(name: str, size: tuple[int, int]) -> Image.Image:
    with Image.open(photo_files()[name]) as image:
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _like(name: str, data: bytes, image: Image.Image, tolerance: int = 14) -> Case:
    return Case(name, data, TAGGED, image.size, thumbnail(image), tolerance)


_ENCODERS: dict[str, Encoder] = {
    "baseline.jpg": lambda image: _save(image, "JPEG", quality=88),
    "progressive.jpg": lambda image: _save(image, "JPEG", quality=88, progressive=True),
    "plain.png": lambda image: _save(image, "PNG"),
    "lossy.webp": lambda image: _save(image, "WEBP", quality=85),
    "lossless.webp": lambda image: _save(image, "WEBP", lossless=True),
    "plain.gif": lambda image: _save(image, "GIF"),
    "plain.bmp": lambda image: _save(image, "BMP"),
    "raw.tif": lambda image: _save(image, "TIFF"),
    "lzw.tif": lambda image: _save(image, "TIFF", compression="tiff_lzw"),
    "plain.avif": lambda image: _save(image, "AVIF", quality=80),
}


def _truncated(photo: Image.Image) -> Iterator[Case]:
    for kind, encode in _ENCODERS.items():
        data = encode(photo)
        yield _like(f"whole-{kind}", data, photo, 24 if kind.endswith("gif") else 14)
        for tenth in range(1, 10):
            yield Case(f"cut-{tenth}0-{kind}", data[: len(data) * tenth // 10], CORRUPT)
    jpeg, png = _ENCODERS["baseline.jpg"](photo), _ENCODERS["plain.png"](photo)
    yield Case("cut-no-eoi.jpg", jpeg[:-2], HURT)
    yield Case("cut-no-iend.png", png[:-12], HURT)
    yield Case("cut-magic-only.jpg", jpeg[:3], CORRUPT | UNSUPPORTED)
    yield Case("cut-magic-only.png", png[:8], CORRUPT | UNSUPPORTED)
    yield Case("cut-one-byte.jpg", jpeg[:1], UNSUPPORTED)
    yield Case("cut-header-only.jpg", jpeg[: be.jpeg_segment(jpeg, 0xDA)[1]], CORRUPT)
    # A hole in the middle: what a download with a lost range leaves.
    yield Case("hole.jpg", jpeg[: len(jpeg) // 2] + bytes(4096) + jpeg[len(jpeg) // 2 + 4096 :], HURT)


def _flipped(photo: Image.Image, rng: random.Random) -> Iterator[Case]:
    for kind, encode in _ENCODERS.items():
        data = encode(photo)
        for number in range(6):
            hurt = bytearray(data)
            header = number >= 4
            for _ in range((1, 8, 64, 512, 2, 8)[number]):
                place = rng.randrange(12, min(512, len(hurt))) if header else rng.randrange(512, len(hurt))
                hurt[place] ^= 1 << rng.randrange(8)
            # TIFF keeps its header anywhere, AVIF its boxes.
            loose = header or kind.endswith((".tif", ".avif"))
            yield Case(f"flip-{number}-{kind}", bytes(hurt), ANYHOW if loose else HURT)


def _bombs(photo: Image.Image) -> Iterator[Case]:
    side = 60_000
    jpeg = _ENCODERS["baseline.jpg"](photo)
    row = np.zeros((1, 1), np.uint8)
    yield Case("bomb.jpg", be.jpeg_resized(jpeg, side, side), BOMB)
    progressive = _ENCODERS["progressive.jpg"](photo)
    yield Case("bomb-progressive.jpg", be.jpeg_resized(progressive, side, side), BOMB)
    yield Case("bomb-largest.jpg", be.jpeg_resized(jpeg, 65_535, 65_535), BOMB | CORRUPT | UNSUPPORTED)
    for color, depth in ((2, 8), (6, 16), (3, 1), (0, 1)):
        palette = [(b"PLTE", bytes(6))] if color == 3 else []
        data = be.png(row, depth=depth, color=color, size=(side, side), before=palette)
        yield Case(f"bomb-{color}-{depth}.png", data, BOMB)
    yield Case("bomb-largest.png", be.png(row, depth=8, color=2, size=(2**31 - 1, 2**31 - 1)), BOMB | CORRUPT)
    yield Case("bomb.gif", be.gif_header(side, side), BOMB)
    yield Case("bomb.bmp", be.bmp_header(side, side), BOMB)
    yield Case("bomb-top-down.bmp", be.bmp_header(side, -side), BOMB)
    yield Case("bomb.tif", be.tiff_header(side, side), BOMB)
    yield Case("bomb-1-bit.tif", be.tiff_header(side, side, bits=1), BOMB)
    yield Case("bomb.webp", be.webp_header(side, side), BOMB | CORRUPT)
    avif = _ENCODERS["plain.avif"](photo)
    place = avif.index(b"ispe") + 8
    yield Case("bomb.avif", avif[:place] + struct.pack(">II", side, side) + avif[place + 8 :], BOMB | CORRUPT)
    # A real one: 900 million white pixels in some 100 kB.
    line = b"\x00" + b"\xff" * (30_000 // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(line) for _ in range(30_000)) + packer.flush()
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    yield Case(
        "bomb-real.png", b"\x89PNG\r\n\x1a\n" + b"".join(be.png_chunk(*chunk) for chunk in chunks), BOMB
    )
    # Metadata that unpacks to 128 MB.
    text = b"k\x00\x00" + zlib.compress(bytes(128 << 20), 9)
    pixels = np.asarray(photo)
    yield Case("bomb-text.png", be.png(pixels, depth=8, color=2, before=[(b"zTXt", text)]), HURT)
    yield Case("bomb-icc.png", be.png(pixels, depth=8, color=2, before=[(b"iCCP", text)]), HURT)


def _not_images(photo: Image.Image) -> Iterator[Case]:
    yield Case("zero-bytes.jpg", b"", frozenset({"empty"}))
    yield Case("zero-bytes.png", b"", frozenset({"empty"}))
    others = {
        "page.jpg": b"<!DOCTYPE html><html><head><title>403</title></head><body>Forbidden</body></html>" * 9,
        "upper.jpg": b"\n\n<HTML><BODY>moved</BODY></HTML>",
        "api.jpg": json.dumps({"error": "not found", "code": 404}).encode(),
        "paper.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Type/Catalog>>\nendobj\n" + bytes(500),
        "notes.jpg": "just a text file, naïve and short\n".encode(),
        "utf16.jpg": "text with a byte order mark".encode("utf-16"),
        "s3-error.jpg": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "drawing.jpg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "drawing.svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "zeros.jpg": bytes(5000),
        "ones.jpg": b"\xff" * 5000,
        "noise.jpg": b"\x00" + random.Random(1).randbytes(5000),
        "archive.png": b"PK\x03\x04" + bytes(100),
        "program.gif": b"\x7fELF\x02\x01\x01" + bytes(100),
        "film.jpg": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(200),
        "phone.heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200),
        "layers.psd": b"8BPS\x00\x01" + bytes(60),
        "sound.webp": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40),
        "bm-is-no-bitmap.bmp": b"BM is how this text begins, and it goes on like that for a while.",
        "vector.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "link.url": b"[InternetShortcut]\nURL=http://127.0.0.1/\n",
        ".jpg.part": b"x",
    }
    for name, data in others.items():
        yield Case(f"not-{name}", data, UNSUPPORTED)
    # Pictures, but of formats outside the allow-list: their decoders must never see a byte.
    for kind in ("JPEG2000", "ICO", "PCX", "PPM", "TGA", "QOI", "DDS", "SGI", "ICNS"):
        yield Case(f"not-listed-{kind.lower()}.jpg", _save(photo.resize((128, 128)), kind), UNSUPPORTED)
    endings = ("jpg", "png", "webp", "gif", "bmp", "tif", "avif", "txt")
    for (kind, encode), ending in zip(_ENCODERS.items(), itertools.cycle(endings[1:] + endings[:1])):
        tolerance = 24 if kind.endswith("gif") else 14
        yield _like(f"misnamed-{kind.replace('.', '-')}.{ending}", encode(photo), photo, tolerance)
    yield _like("no-ending", _ENCODERS["plain.png"](photo), photo)


_UNDO = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the upright picture must be stored so that each EXIF orientation brings it back."""


def _orientations() -> Iterator[Case]:
    upright = _photo("coffee", (250, 150))
    for orientation, undo in _UNDO.items():
        stored = upright if undo is None else upright.transpose(undo)
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            meta = Image.Exif()
            meta[0x0112] = orientation
            options = {"quality": 92} if kind != "PNG" else {}
            data = _save(stored, kind, exif=meta, **options)
            with Image.open(io.BytesIO(data)) as image:  # the case must not rest on a table of ours alone
                assert ImageOps.exif_transpose(image).size == upright.size
            yield _like(f"orientation-{orientation}.{kind.lower()}", data, upright)
        plain = _save(stored, "JPEG", quality=92)
        block = (0xE1, b"Exif\x00\x00" + be.exif(orientation))
        yield _like(f"orientation-{orientation}-bare.jpg", be.jpeg_with(plain, block), upright)
    jpeg = _save(upright, "JPEG", quality=92)
    for orientation in (0, 9, 65_535):
        block = (0xE1, b"Exif\x00\x00" + be.exif(orientation))
        yield _like(f"orientation-{orientation}-unknown.jpg", be.jpeg_with(jpeg, block), upright)
    torn = (0xE1, b"Exif\x00\x00" + be.exif(6)[:15])
    yield _like("orientation-torn-exif.jpg", be.jpeg_with(jpeg, torn), upright)
    noise = (0xE1, b"Exif\x00\x00" + random.Random(2).randbytes(500))
    yield _like("orientation-noise-exif.jpg", be.jpeg_with(jpeg, noise), upright)


def _odd_jpegs(photo: Image.Image) -> Iterator[Case]:
    jpeg = _ENCODERS["baseline.jpg"](photo)
    pixels = np.ascontiguousarray(photo)
    yield _like("grey.jpg", _save(photo.convert("L"), "JPEG"), photo.convert("L"))
    yield _like("restart.jpg", _save(photo, "JPEG", quality=88, restart_marker_blocks=4), photo)
    yield _like("restart-rows.jpg", _save(photo, "JPEG", quality=88, restart_marker_rows=1), photo)
    yield _like("optimised.jpg", _save(photo, "JPEG", quality=100, optimize=True), photo)
    yield _like("quality-1.jpg", _save(photo, "JPEG", quality=1), photo, 60)
    yield _like("rgb-kept.jpg", _save(photo, "JPEG", quality=90, keep_rgb=True), photo)
    for layout in ("444", "422", "420", "440", "411"):
        data = simplejpeg.encode_jpeg(pixels, quality=90, colorspace="RGB", colorsubsampling=layout)
        yield _like(f"sampling-{layout}.jpg", data, photo)
    cmyk = _save(photo.convert("CMYK"), "JPEG", quality=92)
    yield _like("cmyk.jpg", cmyk, photo)
    yield _like(
        "cmyk-progressive.jpg", _save(photo.convert("CMYK"), "JPEG", quality=92, progressive=True), photo
    )
    start, stop = be.jpeg_segment(cmyk, 0xEE)
    yield Case("ycck.jpg", cmyk[: stop - 1] + b"\x02" + cmyk[stop:], TAGGED, photo.size)
    yield Case("cmyk-no-adobe.jpg", cmyk[:start] + cmyk[stop:], TAGGED, photo.size)
    yield _like("garbage-after.jpg", jpeg + random.Random(3).randbytes(3000), photo)
    yield _like("zeros-after.jpg", jpeg + bytes(100_000), photo)
    yield _like("two-in-one.jpg", jpeg + _ENCODERS["baseline.jpg"](photo.rotate(180)), photo)
    yield _like("web-page-after.jpg", jpeg + b"<script>alert(1)</script>", photo)
    yield Case("garbage-before.jpg", b"\r\n\r\n" + jpeg, UNSUPPORTED | CORRUPT)
    yield _like("fill-bytes.jpg", jpeg[:2] + b"\xff" * 9 + jpeg[2:], photo)
    yield _like(
        "huge-exif.jpg", be.jpeg_with(jpeg, (0xE1, b"Exif\x00\x00" + be.exif(1) + bytes(65_400))), photo
    )
    many = [(0xE0 + n % 16, b"X" * 65_000) for n in range(1, 40) if n % 16 not in (0, 1, 14)]
    yield _like("two-megabytes-of-segments.jpg", be.jpeg_with(jpeg, *many), photo)
    yield _like("huge-comment.jpg", be.jpeg_with(jpeg, (0xFE, b"c" * 65_000)), photo)
    yield _like("broken-icc.jpg", be.jpeg_with(jpeg, (0xE2, b"ICC_PROFILE\x00\x01\x01" + bytes(300))), photo)
    mpo = _save(photo, "MPO", save_all=True, append_images=[photo.rotate(180)], quality=90)
    yield _like("two-pictures.mpo", mpo, photo)
    yield Case("no-size.jpg", be.jpeg_resized(jpeg, 0, 0), CORRUPT | UNSUPPORTED)
    yield Case("no-height.jpg", be.jpeg_resized(jpeg, 240, 0), CORRUPT | UNSUPPORTED)
    yield Case("taller-than-its-data.jpg", be.jpeg_resized(jpeg, 240, 1600), CORRUPT)
    yield Case("no-quantisation.jpg", be.jpeg_without(jpeg, 0xDB), CORRUPT)
    yield Case(
        "no-huffman.jpg", be.jpeg_without(jpeg, 0xC4), HURT
    )  # motion JPEG: standard tables are implied
    start, _ = be.jpeg_segment(jpeg, 0xC0)
    for marker, name in (
        (0xC3, "lossless"),
        (0xC5, "hierarchical"),
        (0xC9, "arithmetic"),
        (0xCB, "lossless-2"),
    ):
        data = jpeg[: start + 1] + bytes([marker]) + jpeg[start + 2 :]
        # libjpeg-turbo reads arithmetic coding, and then finds a scan that is not.
        allowed = CORRUPT | UNSUPPORTED | (TAGGED if marker == 0xC9 else frozenset())
        yield Case(f"claims-{name}.jpg", data, allowed)
    yield Case("claims-12-bit.jpg", jpeg[: start + 4] + b"\x0c" + jpeg[start + 5 :], CORRUPT | UNSUPPORTED)
    yield Case(
        "claims-7-components.jpg", jpeg[: start + 9] + b"\x07" + jpeg[start + 10 :], CORRUPT | UNSUPPORTED
    )
    yield from _one_hundred_megapixels(photo)


def _one_hundred_megapixels(photo: Image.Image) -> Iterator[Case]:
    tile = np.asarray(photo.resize((100, 100)))
    # Repeating each pixel makes blocks that are nearly flat: quick to encode, and a few MB.
    large = np.repeat(np.repeat(tile, 100, axis=0), 100, axis=1)
    data = simplejpeg.encode_jpeg(large, quality=60, colorspace="RGB", colorsubsampling="420")
    yield Case("100-megapixels.jpg", data, TAGGED, (10_000, 10_000), thumbnail(photo.resize((100, 100))))


def _odd_pngs(photo: Image.Image) -> Iterator[Case]:
    rgb = np.asarray(photo)
    grey = np.asarray(photo.convert("L"))
    shades = Image.fromarray(grey)
    opaque = np.full((*grey.shape, 1), 255, np.uint8)
    wide = {"rgb": rgb.astype(np.uint16) * 257, "grey": grey.astype(np.uint16) * 257}
    yield _like("16-bit-rgb.png", be.png(wide["rgb"], depth=16, color=2), photo)
    yield _like("16-bit-grey.png", be.png(wide["grey"], depth=16, color=0), shades)
    rgba = np.concatenate([rgb, opaque], axis=2)
    la = np.concatenate([grey[:, :, None], opaque], axis=2)
    yield _like("16-bit-rgba.png", be.png(rgba.astype(np.uint16) * 257, depth=16, color=6), photo)
    yield _like("16-bit-la.png", be.png(la.astype(np.uint16) * 257, depth=16, color=4), shades)
    yield _like("opaque-rgba.png", be.png(rgba, depth=8, color=6), photo)
    yield _like("opaque-la.png", be.png(la, depth=8, color=4), shades)
    fading = rgba.copy()
    fading[:, :, 3] = np.linspace(0, 255, fading.shape[1]).astype(np.uint8)
    yield Case("fading-rgba.png", be.png(fading, depth=8, color=6), TAGGED, photo.size)
    fading_la = np.stack([grey, fading[:, :, 3]], axis=2)
    yield Case("fading-la.png", be.png(fading_la, depth=8, color=4), TAGGED, photo.size)
    fading[:, :, 3] = 0
    yield Case("invisible-rgba.png", be.png(fading, depth=8, color=6), TAGGED, photo.size)
    yield Case(
        "keyed-rgb.png", be.png(rgb, depth=8, color=2, before=[(b"tRNS", bytes(6))]), TAGGED, photo.size
    )
    yield Case(
        "keyed-grey.png", be.png(grey, depth=8, color=0, before=[(b"tRNS", bytes(2))]), TAGGED, photo.size
    )
    key16 = [(b"tRNS", bytes(6))]
    yield Case(
        "keyed-16-bit-rgb.png", be.png(wide["rgb"], depth=16, color=2, before=key16), TAGGED, photo.size
    )
    for depth in (1, 2, 4):
        steps = (1 << depth) - 1
        coarse = np.round(grey / 255 * steps).astype(np.uint8)
        shown = Image.fromarray(np.round(coarse * (255 / steps)).astype(np.uint8))
        yield _like(f"{depth}-bit-grey.png", be.png(coarse, depth=depth, color=0), shown)
    for depth in (1, 2, 4, 8):
        few = photo.quantize(1 << depth, dither=Image.Dither.NONE)
        palette = bytes(few.getpalette() or ()).ljust(3 << depth, b"\x00")[: 3 << depth]
        index = np.asarray(few)
        data = be.png(index, depth=depth, color=3, before=[(b"PLTE", palette)])
        yield _like(f"palette-{depth}-bit.png", data, few.convert("RGB"))
        clear = [(b"PLTE", palette), (b"tRNS", b"\x00\x80")]
        yield Case(
            f"palette-{depth}-bit-clear.png",
            be.png(index, depth=depth, color=3, before=clear),
            TAGGED,
            photo.size,
        )
    yield _like("interlaced-rgb.png", be.png(rgb, depth=8, color=2, interlace=True), photo)
    yield _like("interlaced-16-bit.png", be.png(wide["rgb"], depth=16, color=2, interlace=True), photo)
    plain = _ENCODERS["plain.png"](photo)
    yield _like("garbage-after.png", plain + b"garbage" * 100, photo)
    head = plain[:8] + be.png_chunk(b"IHDR", plain[16:29])
    yield Case("bad-crc.png", plain[:29] + b"\x00\x00\x00\x00" + plain[33:], HURT | UNSUPPORTED)
    yield Case("no-picture.png", head + be.png_chunk(b"IEND", b""), CORRUPT | UNSUPPORTED)
    palette_gone = be.png(np.zeros((9, 9), np.uint8), depth=8, color=3)
    yield Case("no-palette.png", palette_gone, HURT | UNSUPPORTED)
    yield Case("no-such-depth.png", be.png(grey, depth=8, color=5), CORRUPT | UNSUPPORTED)
    index = np.full((9, 9), 200, np.uint8)
    beyond = be.png(index, depth=8, color=3, before=[(b"PLTE", bytes(12))])
    yield Case("beyond-its-palette.png", beyond, HURT)
    frames = [photo, photo.rotate(180), photo.rotate(90, expand=False)]
    animated = _save(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50)
    yield _like("animated.png", animated, photo)


def _odd_tiffs(photo: Image.Image) -> Iterator[Case]:
    rgb = np.asarray(photo)
    grey = photo.convert("L")
    for packing in ("tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate"):
        yield _like(f"{packing}.tif", _save(photo, "TIFF", compression=packing), photo)
    ink = photo.convert("1")
    yield _like("fax.tif", _save(ink, "TIFF", compression="group4"), ink)
    yield _like("cmyk.tif", _save(photo.convert("CMYK"), "TIFF"), photo)
    yield _like("palette.tif", _save(photo.quantize(64), "TIFF"), photo.quantize(64).convert("RGB"))
    rgba = photo.convert("RGBA")
    yield _like("rgba.tif", _save(rgba, "TIFF"), photo)
    pages = _save(photo, "TIFF", save_all=True, append_images=[photo.rotate(180)] * 2)
    yield _like("pages.tif", pages, photo)

    def written(samples: np.ndarray, **options: object) -> bytes:
        out = io.BytesIO()
        tifffile.imwrite(out, samples, **options)
        return out.getvalue()

    deep = rgb.astype(np.uint16) * 257
    deep_grey = np.asarray(grey).astype(np.uint16) * 257
    yield _like("16-bit-rgb.tif", written(deep, photometric="rgb"), photo)
    yield _like("16-bit-rgb-big-endian.tif", written(deep, photometric="rgb", byteorder=">"), photo)
    yield _like("16-bit-grey.tif", written(deep_grey, photometric="minisblack"), grey)
    yield _like(
        "16-bit-grey-big-endian.tif", written(deep_grey, photometric="minisblack", byteorder=">"), grey
    )
    yield _like("big.tif", written(rgb, photometric="rgb", bigtiff=True), photo)
    yield _like("tiled.tif", written(rgb, photometric="rgb", tile=(64, 64)), photo)
    inverted = written(255 - np.asarray(grey), photometric="miniswhite")
    yield _like("white-is-zero.tif", inverted, grey)
    planes = written(np.ascontiguousarray(rgb.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate")
    yield Case("planes.tif", planes, HURT | UNSUPPORTED)
    real = np.asarray(grey).astype(np.float32) / 255
    yield Case("float.tif", written(real, photometric="minisblack"), HURT | UNSUPPORTED)
    yield Case(
        "32-bit-grey.tif", written(deep_grey.astype(np.uint32) << 16, photometric="minisblack"), ANYHOW
    )
    raw = _ENCODERS["raw.tif"](photo)
    loop = raw[:4] + struct.pack("<I", 4) + raw[8:]
    yield Case("directory-inside-header.tif", loop, CORRUPT | UNSUPPORTED)
    yield Case(
        "directory-far-away.tif", raw[:4] + struct.pack("<I", 2**32 - 8) + raw[8:], CORRUPT | UNSUPPORTED
    )
    yield Case("no-directory.tif", raw[:4] + bytes(4) + raw[8:], CORRUPT | UNSUPPORTED)


def _odd_others(photo: Image.Image) -> Iterator[Case]:
    turned = [photo.rotate(180), photo.rotate(90, expand=False)]
    rgba = photo.convert("RGBA")
    rgba.putalpha(photo.convert("L"))
    few = photo.quantize(64)
    yield _like(
        "animated.gif", _save(photo, "GIF", save_all=True, append_images=turned, duration=40), photo, 24
    )
    yield _like("palette.gif", _save(few, "GIF"), few.convert("RGB"))
    yield Case("clear.gif", _save(few, "GIF", transparency=3), TAGGED, photo.size)
    yield _like("grey.gif", _save(photo.convert("L"), "GIF"), photo.convert("L"))
    ink = photo.convert("1")
    yield _like("1-bit.gif", _save(ink, "GIF"), ink)
    gif = _ENCODERS["plain.gif"](photo)
    yield _like("garbage-after.gif", gif + b"garbage" * 50, photo, 24)
    yield Case("no-frame.gif", gif[:13] + b";", CORRUPT | UNSUPPORTED)
    yield _like(
        "animated.webp", _save(photo, "WEBP", save_all=True, append_images=turned, duration=40), photo
    )
    yield Case("alpha.webp", _save(rgba, "WEBP", lossless=True), TAGGED, photo.size)
    yield _like("garbage-after.webp", _ENCODERS["lossy.webp"](photo) + b"garbage" * 50, photo)
    yield Case("alpha.avif", _save(rgba, "AVIF"), TAGGED, photo.size)
    sequence = _save(photo, "AVIF", save_all=True, append_images=turned, duration=40)
    yield _like("animated.avif", be.without_clock(sequence), photo)
    yield _like("grey.avif", _save(photo.convert("L"), "AVIF"), photo.convert("L"))
    for mode in ("1", "L", "P", "RGBA"):
        image = few if mode == "P" else photo.convert(mode)
        case = _like(f"mode-{mode.lower()}.bmp", _save(image, "BMP"), image.convert("RGB"))
        yield case
    bmp = _ENCODERS["plain.bmp"](photo)
    upside = bmp[:22] + struct.pack("<i", -photo.height) + bmp[26:]
    yield _like("top-down.bmp", upside, photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    yield Case("no-colours.bmp", bmp[:28] + struct.pack("<H", 7) + bmp[30:], CORRUPT | UNSUPPORTED)


def _odd_sizes() -> Iterator[Case]:
    for size in ((1, 1), (2, 2), (7, 3), (1, 5000), (5000, 1)):
        image = _photo("coffee", size)
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
            data = _save(image, kind)
            yield Case(f"{size[0]}x{size[1]}.{kind.lower()}", data, TAGGED, size)
    yield Case("17x9.avif", _save(_photo("coffee", (17, 9)), "AVIF"), TAGGED, (17, 9))
    yield Case("65000x1.jpg", _save(_photo("coffee", (65_000, 1)), "JPEG"), TAGGED, (65_000, 1))
    yield Case("1x60000.png", _save(_photo("coffee", (1, 60_000)), "PNG"), TAGGED, (1, 60_000))


def _good() -> Iterator[Case]:
    for name, path in photo_files().items():
        with Image.open(path) as image:
            yield Case(f"good-{path.name}", path.read_bytes(), TAGGED, image.size, thumbnail(image))
            small = image.convert("RGB").resize((320, 240))
        yield _like(f"good-{name}-small.jpg", _save(small, "JPEG", quality=90), small)


def odd_names() -> list[str]:
    """Return file names and keys that stores allow and programs trip over, each a different object.

    Keys relative to a bucket or prefix. A local folder cannot hold all of them (`//`, `..`, a leading `/`,
    names over 255 bytes); see `local_names`.
    """
    return [
        "a//b.jpg",
        "/leading.jpg",
        "//two-leading.jpg",
        "x/../up.jpg",
        "../above.jpg",
        "x/./here.jpg",
        "tab\there.jpg",
        "new\nline.jpg",
        "carriage\rreturn.jpg",
        "escape\x1b[31mred.jpg",
        "bell\x07.jpg",
        "percent%2Fslash.jpg",
        "percent/slash.jpg",
        "percent%25.jpg",
        "100%.jpg",
        "hash#fragment.jpg",
        "question?query=1&x=2.jpg",
        "semicolon;v=1.jpg",
        "emoji-\N{CAT FACE}\N{ZERO WIDTH JOINER}\N{BLACK LARGE SQUARE}.jpg",
        "composed-\u00e9.jpg",
        "composed-e\u0301.jpg",
        "right-to-left-\u202egpj.exe.jpg",
        "wide-\uff21.jpg",
        "中文/图片.jpg",
        "Case.jpg",
        "case.jpg",
        '"><img src=x onerror=alert(1)>.jpg',
        "</script><script>alert(1)</script>.jpg",
        "=1+1.jpg",
        "+1.jpg",
        "-rf.jpg",
        "@SUM(A1).jpg",
        "plus+sign.jpg",
        "plus sign.jpg",
        "plus%20sign.jpg",
        " leading space.jpg",
        "trailing space .jpg ",
        "quote'one.jpg",
        'quote"two.jpg',
        "comma,semi;.jpg",
        "back\\slash.jpg",
        "pipe|star*.jpg",
        "{braces}[brackets].jpg",
        "$HOME`id`.jpg",
        "~tilde.jpg",
        "null.jpg",
        "NaN",
        "no ending",
        "{{ 7*7 }}.jpg",
        "%s%n%d.jpg",
        "long-" + "n" * 891 + ".jpg",
        "deep/" * 100 + "deep.jpg",
    ]


def local_names() -> list[bytes]:
    """Return the names that a Linux folder can hold: those of `odd_names`, and some that are not UTF-8."""
    named = [
        name.encode()
        for name in odd_names()
        if not name.startswith("/")
        and not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/"))
    ]
    return [
        *named,
        b"latin-\xe9.jpg",
        b"\xff\xfe.jpg",
        b"cut-utf8-\xe2\x82.jpg",
        b"surrogate-\xed\xa0\x80.jpg",
    ]
