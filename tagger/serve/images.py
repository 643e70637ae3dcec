"""Pictures of the collection for people: read from storage, decoded in a child process, encoded anew.

No byte of a file in storage reaches a caller: what is sent is always our own JPEG of the decoded pixels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.errors import ImageError
from tagger.storage.reader import ImageReader
from tagger.vision import DecodeLimits, Decoder, Facts, Framing
from tagger.vision.decoder import TO_SHOW
from tagger.vision.framing import place

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.serve.metrics import Metrics
    from tagger.storage import StorageOptions

SMALLEST_PX: Final = 32
THUMBNAIL_PX: Final = 256
LARGEST_THUMBNAIL_PX: Final = 1024
IMAGE_PX: Final = 1600

_STEPS_PX: Final = (256, LARGEST_THUMBNAIL_PX, IMAGE_PX)
_QUALITY: Final = 82
_LIMITS: Final = DecodeLimits()


@dataclass(frozen=True, slots=True)
class Rendered:
    """An image as it is sent.

    Attributes:
        data: The file.
        etag: Changes with it.
    """

    data: bytes
    etag: str

    @classmethod
    def of(cls, data: bytes) -> Rendered:
        """Return a file with its etag."""
        return cls(data, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


class Cache:
    """The most recently wanted files, up to so many bytes. Threads may share it."""

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self._most = most_bytes
        self._metrics = metrics
        self._held: OrderedDict[object, Rendered] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: object) -> Rendered | None:
        """Return a file, or None."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: object, file: Rendered) -> None:
        """Keep a file; those that nobody wanted for longest make room."""
        with self._lock:
            before = self._held.pop(key, None)
            self._bytes += len(file.data) - (len(before.data) if before else 0)
            self._held[key] = file
            while self._bytes > self._most and self._held:
                _, dropped = self._held.popitem(last=False)
                self._bytes -= len(dropped.data)
            self._metrics.cache_bytes.set(self._bytes)


class Renderer:
    """Shows images of a collection. Threads may share it.

    Args:
        storage: How to reach the images.
        metrics: Where it counts.
        cache_bytes: Memory for what was shown before.
    """

    def __init__(self, storage: StorageOptions, metrics: Metrics, *, cache_bytes: int) -> None:
        self._reader = ImageReader(storage)
        self._metrics = metrics
        self.cache = Cache(cache_bytes, metrics)
        self._decoders = {px: SharedDecoder(_whole(px)) for px in _STEPS_PX}

    def read(self, uri: str, etag: str | None) -> bytes:
        """Return an image file as it was tagged.

        Raises:
            ImageError: It is gone, was changed since, or cannot be read.
            StoreUnavailable: The store does not answer.
        """
        with self._metrics.stage("read_image"):
            return self._reader.read_image(uri, if_match=etag, max_bytes=_LIMITS.max_bytes)[0]

    def picture(self, uri: str, etag: str | None, size_px: int) -> Rendered:
        """Return an image whose longer side has at most `size_px`, as JPEG.

        Raises:
            ImageError, StoreUnavailable: As for `read`; or it cannot be decoded.
        """
        key = (uri, etag, size_px)
        found = self.cache.get(key)
        if found is None:
            data = self.read(uri, etag)
            with self._metrics.stage("render"):
                found = Rendered.of(self._render(data, size_px))
            self.cache.put(key, found)
        return found

    def _render(self, data: bytes, size_px: int) -> bytes:
        import simplejpeg
        from PIL import Image

        step = next(px for px in _STEPS_PX if px >= size_px)
        square, facts = self._decoders[step].decode(data)
        pixels = unboxed(square, facts)
        to = fitted(facts.width_px, facts.height_px, size_px)
        if pixels.shape[1::-1] != to:
            pixels = np.asarray(Image.fromarray(pixels).resize(to, Image.Resampling.LANCZOS, reducing_gap=3))
        encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_QUALITY)
        return encoded

    def close(self) -> None:
        """End the child processes."""
        for decoder in self._decoders.values():
            decoder.close()


class SharedDecoder:
    """A decoder process that threads take turns with; started by the first of them."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._decoder: Decoder | None = None
        self._lock = threading.Lock()

    def decode(self, data: bytes) -> tuple[npt.NDArray[np.uint8], Facts]:
        """Return the square of an image file, shape (S, S, 3), and its facts.

        Raises:
            ImageError: It is no picture, damaged, or too large.
        """
        with self._lock:
            if self._decoder is None:
                self._decoder = Decoder([self._framing], _LIMITS, decode=TO_SHOW)
            decoded = self._decoder.run(1, [(0, data)])
            facts = decoded.facts[0]
            if not isinstance(facts, Facts):
                raise facts or ImageError("crash", "the decoder gave no answer for it")
            return decoded.pixels[0][0].copy(), facts

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            if self._decoder is not None:
                self._decoder.close()
                self._decoder = None


def _whole(size_px: int) -> Framing:
    return Framing(size_px=size_px, resize_px=size_px, mode="letterbox")


def unboxed(square: npt.NDArray[np.uint8], facts: Facts) -> npt.NDArray[np.uint8]:
    """Return a letterboxed picture without the black around it."""
    _, (width, height), (left, top) = place(_whole(len(square)), facts.width_px, facts.height_px)
    return square[top : top + height, left : left + width]


def fitted(width_px: int, height_px: int, size_px: int) -> tuple[int, int]:
    """Return the width and height of a picture shrunk so that its longer side has at most `size_px`."""
    scale = min(1.0, size_px / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))
