"""Uploaded pictures to embeddings, off the event loop: as many together as there are cores."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from tagger.errors import QueryError
from tagger.scheduling import give_way
from tagger.search.picture import PictureReader
from tagger.vision import DecodeLimits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tagger.collection import Config
    from tagger.serve.metrics import Metrics
    from tagger.serve.options import ServeOptions
    from tagger.settings import Settings

_TIMEOUT_S: Final = 10.0  # for one picture, whose sender waits


class PictureQueue:
    """A thread that takes the pictures that wait, up to one a core, and answers them together.

    Nobody waits for a batch to fill: under load there is one whenever the model is free. The model takes one
    picture a core; more of them together take no less time each, and the first would wait for the last.

    Args:
        config: Of the collection.
        settings: What the environment says.
        options: Limits of a picture.
        metrics: Where it counts.

    Attributes:
        framing: What the model sees of a picture.

    Raises:
        ModelError: The collection's model is not to be had here.
    """

    def __init__(self, config: Config, settings: Settings, options: ServeOptions, metrics: Metrics) -> None:
        limits = DecodeLimits(
            max_bytes=options.max_picture_bytes, max_pixels=options.max_pixels, timeout_s=_TIMEOUT_S
        )
        self._reader = PictureReader(config, settings, limits=limits)
        self.framing = self._reader.framing.mode
        self._most = settings.cpus
        self._metrics = metrics
        self._waiting: queue.SimpleQueue[tuple[bytes, Future[npt.NDArray[np.float32]]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name="tagger-pictures", daemon=True)
        self._thread.start()

    def submit(self, data: bytes) -> Future[npt.NDArray[np.float32]]:
        """Return the embedding of an image file, shape (D,), when it is made; its error is a QueryError."""
        future: Future[npt.NDArray[np.float32]] = Future()
        self._waiting.put((data, future))
        return future

    def close(self) -> None:
        """End the thread and the decoder, once what waits is done."""
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()

    def _work(self) -> None:
        give_way()
        while (first := self._waiting.get()) is not None:
            taken = [first]
            ended = False
            while len(taken) < self._most and not self._waiting.empty():
                more = self._waiting.get()
                if more is None:
                    ended = True
                    break
                taken.append(more)
            self._answer([one for one in taken if one[1].set_running_or_notify_cancel()])
            if ended:
                return

    def _answer(self, taken: list[tuple[bytes, Future[npt.NDArray[np.float32]]]]) -> None:
        if not taken:
            return
        self._metrics.batch.observe(len(taken))
        try:
            with self._metrics.stage("decode_and_model"):
                found = self._reader.embeddings([data for data, _ in taken])
        except Exception as error:  # ours; whoever waits is told, and the thread goes on
            for _, future in taken:
                future.set_exception(error)
            return
        for (_, future), one in zip(taken, found, strict=True):
            if isinstance(one, QueryError):
                future.set_exception(one)
            else:
                future.set_result(one)
