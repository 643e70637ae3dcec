"""Contact sheets: small pictures of each tag's best images, read again from the source."""

import base64
import io
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import numpy as np

from tagger.errors import ImageError, TaggerError
from tagger.report.samples import Picture
from tagger.vision import DecodeLimits, Decoder, Facts, Framing

THUMBNAIL_PX: Final = 192
"""Side of a thumbnail: sharp at up to 96 CSS pixels on a phone with two device pixels each, good at 130."""

MAX_THUMBNAIL_BYTES: Final = 12_000
"""A thumbnail that is larger at the first quality is made coarser; 144 of them stay under 2.4 MB of HTML."""

_QUALITIES: Final = (76, 60, 40, 20, 5)
_THREADS: Final = 8
_AHEAD: Final = 16  # images in memory that wait for the decoder

Read = Callable[[Picture], bytes]


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Small pictures for the sheets.

    Attributes:
        by_uri: The picture of each image as a `data:` URI.
        missing: Why the others have none, by URI of the image.
    """

    by_uri: Mapping[str, str]
    missing: Mapping[str, str]


def make_thumbnails(
    pictures: Sequence[Picture],
    read: Read,
    *,
    size_px: int = THUMBNAIL_PX,
    limits: DecodeLimits | None = None,
) -> Thumbnails:
    """Read and shrink images; those that cannot be read or decoded any more are named, never raised.

    Decoding runs in the decoder's child process, as in a tagging run: pictures are not trusted.

    Args:
        pictures: Which images; repeated ones are read once.
        read: Returns the bytes of an image, or raises a `TaggerError`; called from several threads.
        size_px: Side of the square thumbnails.
        limits: What one image may cost.
    """
    once = {picture.uri: picture for picture in pictures}
    todo = list(once.values())
    if not todo:
        return Thumbnails({}, {})
    made: dict[str, str] = {}
    missing: dict[str, str] = {}
    framing = Framing(size_px=size_px, resize_px=size_px)
    decoder = Decoder((framing,), limits or DecodeLimits())
    try:
        decoded = decoder.run(len(todo), _arrivals(todo, read, missing))
        for picture, found, pixels in zip(todo, decoded.facts, decoded.pixels[0], strict=True):
            if isinstance(found, Facts):
                made[picture.uri] = _data_uri(pixels)
            elif isinstance(found, ImageError):
                missing[picture.uri] = found.detail
            else:
                missing.setdefault(picture.uri, "it was not decoded")
    finally:
        decoder.close()
    return Thumbnails(made, missing)


def _arrivals(todo: list[Picture], read: Read, missing: dict[str, str]) -> Iterator[tuple[int, bytes]]:
    """Yield (position, bytes) as reads end; a read that fails goes into `missing`.

    After an error that is not about the image, such as refused credentials, nothing more is read: a
    hundred further attempts would take minutes to tell the same.
    """
    stopped = threading.Event()

    def attempt(picture: Picture) -> bytes:
        if stopped.is_set():
            raise ImageError("read_error", "storage did not answer for another image")
        return read(picture)

    waiting = iter(enumerate(todo))
    running: dict[Future[bytes], tuple[int, Picture]] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tagger-thumbnail") as pool:
        try:
            while True:
                for position, picture in itertools.islice(waiting, _AHEAD - len(running)):
                    running[pool.submit(attempt, picture)] = (position, picture)
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    position, picture = running.pop(future)
                    try:
                        yield position, future.result()
                    except ImageError as error:
                        missing[picture.uri] = error.detail
                    except TaggerError as error:
                        missing[picture.uri] = str(error)
                        stopped.set()
        finally:
            stopped.set()


def _data_uri(pixels: np.ndarray) -> str:
    """Encode pixels, shape (S, S, 3) uint8, as WebP of at most about `MAX_THUMBNAIL_BYTES`."""
    from PIL import Image

    image = Image.fromarray(pixels)
    data = b""
    for quality in _QUALITIES:
        out = io.BytesIO()
        image.save(out, "WEBP", quality=quality, method=4)
        data = out.getvalue()
        if len(data) <= MAX_THUMBNAIL_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
