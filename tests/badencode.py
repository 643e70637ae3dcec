"""Writes the image files that Pillow cannot write: odd PNGs, patched JPEGs, headers without a picture."""

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    samples: np.ndarray,
    *,
    depth: int,
    color: int,
    before: Iterable[tuple[bytes, bytes]] = (),
    interlace: bool = False,
    size: tuple[int, int] | None = None,
) -> bytes:
    """Encode samples (H, W) or (H, W, C) of `depth` bits as PNG colour type `color`.

    `before` are chunks that go between IHDR and IDAT (PLTE, tRNS, …); `size` lies about (width, height).
    """
    height, width = samples.shape[:2]
    head = struct.pack(">IIBBBBB", *(size or (width, height)), depth, color, 0, 0, int(interlace))
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in _ADAM7] if interlace else [samples]
    rows = b"".join(b"\x00" + _row(row, depth) for part in passes if part.size for row in part)
    chunks = [(b"IHDR", head), *before, (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def _row(row: np.ndarray, depth: int) -> bytes:
    flat = row.reshape(-1)
    if depth == 16:
        return flat.astype(">u2").tobytes()
    if depth == 8:
        return flat.astype(np.uint8).tobytes()
    bits = (flat[:, None].astype(np.uint8) >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
    return np.packbits(bits.reshape(-1)).tobytes()


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, stop) of every segment before the first scan, and of that scan's header."""
    at = 2
    while at < len(data):
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        yield marker, at, at + 2 + length
        if marker == 0xDA:
            return
        at += 2 + length


def jpeg_segment(data: bytes, *markers: int) -> tuple[int, int]:
    """Return (start, stop) of the first segment with one of `markers`."""
    return next((start, stop) for marker, start, stop in jpeg_segments(data) if marker in markers)


def jpeg_without(data: bytes, marker: int) -> bytes:
    for found, start, stop in reversed(list(jpeg_segments(data))):
        if found == marker:
            data = data[:start] + data[stop:]
    return data


def jpeg_with(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """Insert segments (marker, payload of at most 65,533 bytes) right after SOI."""
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + added + data[2:]


def jpeg_resized(data: bytes, width: int, height: int) -> bytes:
    """Claim another size in the frame header; the scan stays as it is."""
    start, _ = jpeg_segment(data, 0xC0, 0xC2)
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def exif(orientation: int) -> bytes:
    """Return a little-endian EXIF block that holds one tag, the orientation."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def tiff_header(width: int, height: int, *, bits: int = 8) -> bytes:
    """Return a TIFF that claims one grey strip of width by height and holds 16 bytes of it."""
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 200),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, 16),
    ]
    body = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(
        struct.pack("<HHII", *tag) for tag in tags
    )
    return (body + bytes(4)).ljust(200, b"\x00") + bytes(16)


def bmp_header(width: int, height: int) -> bytes:
    head = struct.pack("<2sIHHI", b"BM", 100, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0) + bytes(46)


def gif_header(width: int, height: int) -> bytes:
    screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    return screen + struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def webp_header(width: int, height: int) -> bytes:
    """Return an extended WebP whose canvas is width by height and whose picture is missing."""
    canvas = bytes([0, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = (
        b"WEBPVP8X"
        + struct.pack("<I", len(canvas))
        + canvas
        + b"VP8L"
        + struct.pack("<I", 8)
        + b"\x2f"
        + bytes(7)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def without_clock(data: bytes) -> bytes:
    """Return an AVIF sequence whose times of creation and change are 0, the same every time."""
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        place = data.index(box) + 4
        size = 16 if data[place] == 1 else 8  # version 1 has 64-bit times
        data = data[: place + 4] + bytes(size) + data[place + 4 + size :]
    return data
