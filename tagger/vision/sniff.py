"""What a file is, by its first bytes; the name it goes by never matters."""

from typing import Final

from tagger.errors import ImageError

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

_BMP_HEADER_BYTES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

# Only to say what the file is instead; none of these is decoded.
_OTHERS: Final = (
    (b"%PDF", "a PDF document"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"PK\x03\x04", "a ZIP archive or office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"%!PS", "a PostScript document"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"RIFF", "a RIFF file that is not WebP"),
    (b"ID3", "an MP3 sound"),
    (b"OggS", "an Ogg file"),
    (b"PAR1", "a Parquet file"),
)

_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def sniff(data: bytes | memoryview) -> str:
    """Return the format of a file that tagger decodes.

    Args:
        data: The whole file.

    Returns:
        JPEG, PNG, GIF, BMP, WEBP, TIFF or AVIF.

    Raises:
        ImageError: `empty` for no bytes at all, else `unsupported_format` with what the file is instead.

    >>> sniff(b"GIF89a...")
    'GIF'
    >>> sniff(b"<!DOCTYPE html><title>404</title>")
    Traceback (most recent call last):
    tagger.errors.ImageError: unsupported_format: the file is an HTML page, not an image tagger reads
    """
    if not len(data):
        raise ImageError("empty", "the file has no bytes")
    head = bytes(data[:512])
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    what = _other(head)
    if head[4:8] == b"ftyp":
        brands = _brands(head)
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        what = "a HEIC image" if brands & _HEIF_BRANDS else "an MP4 or QuickTime file"
    raise ImageError("unsupported_format", f"the file is {what}, not an image tagger reads")


def _brands(head: bytes) -> set[bytes]:
    """Return the major and compatible brands of an ISO base media file."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def _other(head: bytes) -> str:
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return what
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in text:
        return "an SVG drawing"
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document"
    if not head.strip(b"\x00"):
        return "filled with zeros"
    if all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head):
        return "text"
    return "of no known format"
