"""The plan as numbered chunks in the run's folder, written while the listing runs, read by the workers.

    plan/chunk-000000000.arrow     the chunks from number 0 on, as many as were there after 0.3 s, at most 32
    plan/chunk-000000032.arrow     …
    plan/END.json                  {"chunks": …, "images": …}, or {"error": …} when the planning failed

A segment is an Arrow file with the columns of the plan and `chunk`, the number of the chunk. Its name is the
number of its first chunk, so that a reader knows every next name, and finds any one chunk by a listing. A
replay from the start gives the same chunks under the same numbers: retries rely on that.
"""

import json
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tagger.collection.schema import PLAN_SCHEMA
from tagger.errors import ImageError, RunError
from tagger.storage import AlreadyExists, Store

SEGMENT_SCHEMA: Final = PLAN_SCHEMA.append(pa.field("chunk", pa.int32(), nullable=False))
"""Columns of a segment: those of the plan, and the number of the chunk."""

SEGMENT_CHUNKS: Final = 32
"""Most chunks a segment holds: 16,384 images, about 1 MB."""
FLUSH_S: Final = 0.3
"""A chunk waits at most this long for others to share its segment."""

_IPC: Final = pa.ipc.IpcWriteOptions(compression="zstd")


class PlanWriter:
    """Stores chunks as they come; used by one thread, with a timer of its own for late chunks.

    Args:
        store: Folder of the run, or of the collection.
        folder: Where in `store` the plan goes.
        flush_s: Longest wait of a chunk for others.
    """

    def __init__(self, store: Store, folder: str = "plan", *, flush_s: float = FLUSH_S) -> None:
        self._store = store
        self._folder = folder
        self._flush_s = flush_s
        self._lock = threading.Lock()
        self._waiting: list[pa.Table] = []
        self._timer: threading.Timer | None = None
        self._flushed_at = float("-inf")
        self._error: Exception | None = None
        self._chunks = 0
        self._images = 0

    def add(self, chunk: pa.Table) -> int:
        """Take one chunk and return its number; it is stored at once or within `flush_s`.

        Raises:
            TaggerError: This segment or an earlier one could not be stored.
        """
        if not chunk.num_rows:
            raise ValueError("a chunk must hold at least 1 row, got 0")
        with self._lock:
            self._raise_error()
            number = self._chunks
            self._chunks += 1
            self._images += chunk.num_rows
            numbers = pa.array(np.full(chunk.num_rows, number, np.int32))
            self._waiting.append(
                chunk.cast(PLAN_SCHEMA).append_column(SEGMENT_SCHEMA.field("chunk"), numbers)
            )
            due = self._flushed_at + self._flush_s - time.monotonic()
            if due <= 0 or len(self._waiting) >= SEGMENT_CHUNKS:
                self._flush()
            elif self._timer is None:
                # A listing that stalls must not keep the last chunks from the workers.
                self._timer = threading.Timer(due, self._flush_late)
                self._timer.daemon = True
                self._timer.start()
            return number

    def close(self, **totals: Any) -> None:
        """Store what waits, then the marker that tells readers the plan is whole.

        Args:
            totals: Further numbers for the marker (JSON).
        """
        with self._lock:
            self._raise_error()
            self._flush()
            self._end({"chunks": self._chunks, "images": self._images, **totals})

    def fail(self, reason: str) -> None:
        """Tell readers that no more chunks will come, and why; what was stored stays readable."""
        with self._lock:
            self._stop_timer()
            self._end({"chunks": self._chunks - len(self._waiting), "error": reason})

    def _end(self, marker: dict[str, Any]) -> None:
        self._put(f"{self._folder}/END.json", json.dumps(marker).encode())

    def _flush_late(self) -> None:
        with self._lock:
            try:
                self._flush()
            except Exception as error:  # shown by the next add or close
                self._error = error

    def _flush(self) -> None:
        self._stop_timer()
        if not self._waiting:
            return
        first = self._chunks - len(self._waiting)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SEGMENT_SCHEMA, options=_IPC) as file:
            file.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._put(f"{self._folder}/{_name(first)}", sink.getvalue().to_pybytes())
        self._waiting = []
        self._flushed_at = time.monotonic()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._store.put(name, data, if_absent=True)
        except AlreadyExists:
            # Ours, if the store applied the request and then answered with an error that was retried.
            if self._store.read(name) != data:
                raise RunError(f"{name} exists already: another run writes under the same name") from None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class PlanReader:
    """Reads a plan back, also while it is being written.

    Args:
        store: As for `PlanWriter`.
        folder: As for `PlanWriter`.
    """

    def __init__(self, store: Store, folder: str = "plan") -> None:
        self._store = store
        self._folder = folder
        self._starts: list[int] = []  # first chunk of each segment known
        self._segment: tuple[int, dict[int, pa.Table]] | None = None  # the one read last

    def chunks(
        self,
        poll_s: float = 0.1,
        *,
        no_progress_s: float = 300.0,
        alive: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[int, pa.Table]]:
        """Give every chunk in order, waiting for those that are not written yet.

        Args:
            poll_s: Pause between two looks for the next segment.
            no_progress_s: Stop when nothing appeared for this long.
            alive: Asked when nothing appeared for that long; True waits as long again.

        Yields:
            Number of the chunk, and its rows in `PLAN_SCHEMA`.

        Raises:
            RunError: The planning failed or its process is gone; the text says which.
        """
        expected = 0
        moved = time.monotonic()
        while True:
            end = None
            segment = self._read_segment(expected)
            if segment is None:
                # What the marker counts was stored before it: one look after seeing it is enough.
                end = self.end()
                segment = self._read_segment(expected) if end is not None else None
            if segment is not None:
                yield from segment.items()
                expected += len(segment)
                moved = time.monotonic()
            elif end is not None and expected >= end["chunks"]:
                if "error" in end:
                    raise RunError(end["error"])
                return
            elif end is not None:
                raise RunError(f"chunk {expected} of {end['chunks']} of the plan is missing")
            elif time.monotonic() - moved < no_progress_s:
                time.sleep(poll_s)
            elif alive is not None and alive():
                moved = time.monotonic()
            else:
                raise RunError(
                    f"no chunk of the plan appeared for {no_progress_s:.0f} s: the run that lists the source"
                    " is gone or stuck; start it again"
                )

    def read_chunk(self, number: int) -> pa.Table:
        """Return one chunk that was stored.

        Raises:
            RunError: There is no such chunk.
        """
        if self._segment is not None and number in self._segment[1]:
            return self._segment[1][number]
        start = self._start_of(number)
        if start is None or start == self._starts[-1]:  # segments may have come since
            self._starts = sorted(
                int(info.name.removeprefix(f"{self._folder}/chunk-").removesuffix(".arrow"))
                for page in self._store.list(f"{self._folder}/")
                for info in page
                if info.name.endswith(".arrow")
            )
            start = self._start_of(number)
        segment = None if start is None else self._read_segment(start)
        if segment is None or number not in segment:
            raise RunError(f"the plan has no chunk {number}")
        return segment[number]

    def end(self) -> dict[str, Any] | None:
        """Return the marker's totals, or None while the plan is being written."""
        data = self._read("END.json")
        return None if data is None else json.loads(data)

    def _start_of(self, number: int) -> int | None:
        place = bisect_right(self._starts, number)
        return self._starts[place - 1] if place and number >= 0 else None

    def _read_segment(self, first: int) -> dict[int, pa.Table] | None:
        if self._segment is not None and self._segment[0] == first:
            return self._segment[1]
        data = self._read(_name(first))
        if data is None:
            return None
        with pa.ipc.open_file(pa.BufferReader(data)) as file:
            table = file.read_all()
        numbers = table["chunk"].to_numpy()
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        rows = table.drop_columns("chunk")
        chunks = {int(numbers[start]): rows.slice(start, stop - start) for start, stop in pairwise(bounds)}
        self._segment = (first, chunks)
        return chunks

    def _read(self, name: str) -> bytes | None:
        try:
            return self._store.read(f"{self._folder}/{name}")
        except ImageError as error:
            if error.code == "not_found":
                return None
            raise RunError(f"the plan cannot be read: {error}") from error


def _name(first: int) -> str:
    return f"chunk-{first:09d}.arrow"
