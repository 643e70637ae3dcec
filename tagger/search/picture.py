"""Query pictures: the same decoder and the same model as the collection's own images."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tagger.errors import ImageError, ModelError, QueryError
from tagger.index.filters import shown
from tagger.settings import Settings, load_settings
from tagger.vision import DecodeLimits, Decoder, Facts
from tagger.vision.decoder import TO_SHOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from tagger.collection import Config
    from tagger.models import PreparedModel

MOST_BYTES: Final = 64 << 20  # as for the images of a run
_LIMITS = DecodeLimits(max_bytes=MOST_BYTES)
_NO_ANSWER: Final = ImageError("crash", "the decoder gave no answer for it")


def read_picture(image: str | Path | bytes) -> bytes:
    """Return the bytes of an image file; of a file that is too large no more than shows it.

    Args:
        image: Name of a file, or its bytes.

    Raises:
        QueryError: It is neither, is no regular file, cannot be read, is empty, or has more than 64 MB.
    """
    if isinstance(image, bytes):
        name, data = "the picture", image
    elif isinstance(image, str | Path):
        name = shown(str(image))
        try:
            data = _read(image)
        except (OSError, ValueError) as error:  # a ValueError: it holds a NUL
            reason = error.strerror if isinstance(error, OSError) else error
            raise QueryError(f"{name} cannot be read: {reason}") from None
    else:
        raise QueryError(f"image must be the name of an image file or its bytes, got {shown(image)}")
    if not data:
        raise QueryError(f"{name} is empty, and no image")
    if len(data) > MOST_BYTES:
        raise QueryError(f"{name} is too large: an image to search for has at most {MOST_BYTES >> 20} MB")
    return data


def _read(path: str | Path) -> bytes:
    # Not blocking: a pipe that nobody writes to would hold the search for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise QueryError(f"{shown(str(path))} cannot be read: it is a pipe or a device")
        return file.read(MOST_BYTES + 1)


def _why_not(facts: Facts | ImageError | None) -> QueryError:
    failure = facts if isinstance(facts, ImageError) else _NO_ANSWER
    return QueryError(f"the picture cannot be searched for ({failure.code}): {failure.detail}")


def prepared_for(config: Config, settings: Settings) -> PreparedModel:
    """Return the model of a collection, found by its name and loaded from this machine's cache.

    Raises:
        ModelError: The model is not to be had here, or has other weights or preprocessing by now.
    """
    from tagger.models import default_backend, find_model, prepare

    prepared = prepare(find_model(config.model), default_backend(), cache_dir=settings.cache_dir)
    if prepared.model_id != config.model_id:
        raise ModelError(
            f"the model {config.model} on this machine has other weights or preprocessing than the one "
            f"that made the collection ({prepared.model_id}, not {config.model_id}): their embeddings do "
            "not compare"
        )
    return prepared


class PictureReader:
    """Turns image files into embeddings; one at a time, a context manager. Threads may share it.

    Args:
        config: Of the collection.
        settings: What the environment says; read if not given.
        limits: What one picture may cost.

    Raises:
        ModelError: The model is not to be had here, or has other weights or preprocessing by now.
    """

    def __init__(
        self, config: Config, settings: Settings | None = None, *, limits: DecodeLimits = _LIMITS
    ) -> None:
        from tagger.models import load

        settings = settings or load_settings()
        prepared = prepared_for(config, settings)
        self.framing = prepared.framing
        self._decoder = Decoder([prepared.framing], limits, decode=TO_SHOW)
        self._model: Any = load(
            prepared, prepared.payload(), threads=settings.cpus, compiled=False, batch_size=1
        )
        self._lock = threading.Lock()

    def embedding(self, data: bytes) -> npt.NDArray[np.float32]:
        """Return the embedding of an image file, shape (D,).

        Raises:
            QueryError: It is no picture, a damaged one, or too large.
        """
        (found,) = self.embeddings([data])
        if isinstance(found, QueryError):
            raise found
        return found

    def embeddings(self, files: Sequence[bytes]) -> list[npt.NDArray[np.float32] | QueryError]:
        """Return of each file its embedding, or why it has none; one bad file costs the others nothing."""
        with self._lock:
            decoded = self._decoder.run(len(files), enumerate(files))
            good = [place for place, facts in enumerate(decoded.facts) if isinstance(facts, Facts)]
            embedding = self._model.embeddings(decoded.pixels[0][good])
        found: list[npt.NDArray[np.float32] | QueryError] = [_why_not(facts) for facts in decoded.facts]
        for place, vector in zip(good, embedding, strict=True):
            found[place] = vector
        return found

    def close(self) -> None:
        """End the decoder process."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
