"""Bytes of one image file to a model's pixels and facts, or to the reason why not."""

from collections.abc import Sequence
from typing import Final

from tagger.errors import ImageError
from tagger.vision.framing import Framing, frame
from tagger.vision.jpeg import decode_jpeg
from tagger.vision.measure import measure
from tagger.vision.picture import Color, DecodeLimits, Facts, Picture
from tagger.vision.raster import decode_raster
from tagger.vision.sniff import sniff

_NOT_MEASURED: Final[tuple[list[Color], float, float, str]] = ([], 0.0, 0.0, "0" * 16)


def decode(data: bytes | memoryview, framings: Sequence[Framing], limits: DecodeLimits) -> Picture:
    """Decode one image file, whatever its name says.

    Runs inside the decoder's child process (see `tagger.vision.decoder`), which is what turns a crash or a
    hang of a decoding library into the failure of one image; `limits.timeout_s` and `limits.memory_bytes`
    are enforced there.

    Args:
        data: The whole file.
        framings: At least one; what the models want to see.
        limits: What one image may cost.

    Returns:
        The pixels of each framing and the facts of the whole picture.

    Raises:
        ImageError: empty, too_large, too_many_pixels, unsupported_format, corrupt, or crash where memory
            ran out.
    """
    return _decoded(data, framings, limits, measured=True)


def decode_to_show(data: bytes | memoryview, framings: Sequence[Framing], limits: DecodeLimits) -> Picture:
    """Do as `decode` does, but measure nothing: a third of the time, for who wants the pixels alone.

    Of the facts only width, height and format are true: there are no colours, and the rest is zeros.
    """
    return _decoded(data, framings, limits, measured=False)


def _decoded(
    data: bytes | memoryview, framings: Sequence[Framing], limits: DecodeLimits, *, measured: bool
) -> Picture:
    if len(data) > limits.max_bytes:
        raise ImageError("too_large", f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    try:
        kind = sniff(data)
        stored = decode_jpeg(data, framings, limits.max_pixels) if kind == "JPEG" else None
        if stored is None:
            stored = decode_raster(data, kind, limits.max_pixels)
        image, full_px, reduction, orientation = stored
        pixels = tuple(
            frame(image, framing, full_px=full_px, reduction=reduction, orientation=orientation)
            for framing in framings
        )
        width, height = full_px if orientation < 5 else full_px[::-1]
        measures = measure(image, orientation) if measured else _NOT_MEASURED
        return Picture(pixels, Facts(width, height, kind, *measures))
    except MemoryError:
        raise ImageError("crash", "decoding the image needs more memory than the decoder may take") from None
