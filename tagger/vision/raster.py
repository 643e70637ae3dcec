"""Every format but plain JPEG, through Pillow, as 8-bit RGB that never wraps around."""

import io
import warnings
from typing import Any, Final

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tagger.errors import ImageError
from tagger.vision.jpeg import Stored, check_pixels

# The allow-list. Pillow's own lookup would first import some 50 plugins, and try them all.
_PLUGINS: Final[dict[str, Any]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_MISSING: Final = (
    "unsupported",
    "not supported",
    "not available",
    "unknown pixel mode",
    "unrecognized image mode",
)
"""Words by which Pillow says that the file may be fine but is of a kind it does not read."""


def decode_raster(data: bytes | memoryview, kind: str, max_pixels: int) -> Stored:
    """Decode the first frame of a file, upright, alpha laid on white.

    Args:
        data: The whole file.
        kind: What `sniff` found.
        max_pixels: Most pixels of the full picture.

    Raises:
        ImageError: too_many_pixels, unsupported_format or corrupt.
        MemoryError: Pillow could not get memory.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata, which is nobody's business here, but also about a TIFF whose
            # list of strips is cut off; libtiff then guesses, and draws part of the picture.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "Truncated File Read", UserWarning)
            image = _PLUGINS[kind](io.BytesIO(data))
            check_pixels(image.width, image.height, max_pixels)
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            rgb = to_rgb(image)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        text = f"{error}" or type(error).__name__
        if (
            text == "not identified by this driver"
        ):  # Pillow's words for a first bytes' match that led nowhere
            text = "its header makes no sense"
        if "out of memory" in text.lower():
            raise MemoryError(text) from None
        if any(word in text.lower() for word in _MISSING):
            raise ImageError("unsupported_format", f"this kind of {kind} is not supported: {text}") from None
        raise ImageError("corrupt", f"the {kind} is damaged or cut short: {text}") from None
    if turn is not None:
        rgb = rgb.transpose(turn)
    return Stored(rgb, rgb.size, 1, 1)


def _orientation(image: Image.Image) -> int:
    # Asked after load(): Pillow turns a TIFF while loading it and then drops the tag.
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF must not cost the picture
        return 1
    return value if isinstance(value, int) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture of any mode as 8-bit RGB.

    16-bit samples keep their high byte; 32-bit and float samples are scaled by the range they use. Alpha and
    transparent colours are laid on white. ICC profiles are ignored; CMYK is converted without one.
    """
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if mode in {"La", "RGBa"}:
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB") if mode != "RGB" else image


def _eight_bits(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # BitsPerSample: 12 in some microscopes
        return (samples >> (bits - 8 if 8 <= bits < 16 else 8)).astype(np.uint8)
    # In place throughout: at 200 megapixels every copy is 800 MB.
    values = samples.astype(np.float32)
    del samples
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        values -= low
        values *= 255 / (high - low)
    elif image.mode == "F" and high <= 1:
        values *= 255
    elif high > 255:
        values /= 257
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
