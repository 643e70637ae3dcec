"""One line of JSON a request, written by a thread of its own: a reader that stalls holds nobody up."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import IO, TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_WAITING: Final = 10_000


class AccessLog:
    """Writes lines to a stream; drops them, and tells how many, when the stream does not keep up.

    Args:
        stream: Opened for bytes; not closed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._dropped = 0
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="tagger-access-log", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a line, soon."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for a second at most."""
        with contextlib.suppress(queue.Full):  # nobody reads: then nobody misses the last lines
            self._waiting.put_nowait(None)
        self._thread.join(1.0)

    def _work(self) -> None:
        while (record := self._waiting.get()) is not None:
            lines = [orjson.dumps(record)]
            ended = False
            while not self._waiting.empty():
                more = self._waiting.get()
                if more is None:
                    ended = True
                    break
                lines.append(orjson.dumps(more))
            if self._dropped:
                lines.append(orjson.dumps({"dropped_lines": self._dropped}))
                self._dropped = 0
            with contextlib.suppress(OSError, ValueError):  # the reader is gone: go on, so that nothing waits
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
            if ended:
                return
