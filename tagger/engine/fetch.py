"""Stage 1: addresses of images to pixels and facts, or to a reason why not (CPU)."""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tagger.collection.schema import COLOR
from tagger.engine.blocks import chunk_number, pack, table_of
from tagger.errors import SETTLED_CODES, ImageError, StoreUnavailable
from tagger.storage import ImageReader, StorageOptions
from tagger.vision import Color, DecodeLimits, Decoder, Facts, Framing

FACTS_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("error", pa.string()),
        ("error_detail", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("format", pa.string()),
        ("colors", pa.list_(COLOR)),
        ("sharpness", pa.float32()),
        ("brightness", pa.float32()),
        ("phash", pa.string()),
    ]
)
"""Columns that this stage adds to those of the plan."""

_AHEAD_BYTES = 64 << 20
"""Bytes that may wait for the decoder: bounds memory when images are large."""

_LEAST_AHEAD, _MOST_AHEAD = 32, 512  # in images


@dataclass(frozen=True)
class FetchSettings:
    """What a fetch task needs to know; travels to the workers, so it holds no secret.

    Attributes:
        options: How to reach the storage.
        framings: Input geometry of each model; one array of pixels is made for each.
        limits: What a single image may cost.
        threads: Reads in flight per task. 16 keep a local S3 server busy; more help on slow links.
        give_up_after: Reads that may fail in a row, without one success, before the run stops.
        decode: Function the decoder process runs, as `module:function`.
    """

    options: StorageOptions
    framings: tuple[Framing, ...]
    limits: DecodeLimits
    threads: int = 16
    give_up_after: int = 200
    decode: str = "tagger.vision.decode:decode"


class Fetcher:
    """Fetches and decodes chunks; lives as long as its worker process.

    Rows: one in, one out, in plan order.
    Columns in: those of the plan.
    Columns out: those of the plan and of `FACTS_SCHEMA`, and the pixels of every framing.
    """

    def __init__(self, settings: FetchSettings, *, on_image: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._reader = ImageReader(settings.options)
        self._decoder = Decoder(settings.framings, settings.limits, decode=settings.decode, on_image=on_image)
        self._failed_in_a_row = 0

    def __call__(self, block: pa.Table) -> pa.Table:
        """Fetch and decode one chunk.

        Raises:
            StoreUnavailable: The store refused the credentials, or nothing could be read for long.
        """
        plan = table_of(block, "rows")
        started = time.perf_counter()
        reads = _Reads(self._reader, plan, self._settings)
        try:
            decoded = self._decoder.run(plan.num_rows, reads.arrivals())
        finally:
            reads.stop()
        self._watch_store(reads.failures, plan.column("old_error").to_pylist())
        rows = _with_facts(plan, reads, decoded.facts)
        pixels = {f"pixels_{n}": array.reshape(-1) for n, array in enumerate(decoded.pixels)}
        seconds = {"fetch": reads.seconds, "fetch and decode": time.perf_counter() - started}
        return pack(chunk_number(block), rows=rows, seconds=json.dumps(seconds).encode(), **pixels)

    def _watch_store(self, failures: dict[int, ImageError], old_errors: list[str | None]) -> None:
        """Stop the run when storage, not the images, is what fails.

        An image that could not be read for the same reason last time says nothing about storage today.
        """
        passing = {n: error for n, error in failures.items() if error.code not in SETTLED_CODES}
        news = [error for n, error in passing.items() if error.code != old_errors[n]]
        if len(passing) < len(old_errors):
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += len(news)
        if news and self._failed_in_a_row >= self._settings.give_up_after:
            raise StoreUnavailable(
                f"{self._failed_in_a_row} reads in a row failed, the last with «{news[-1]}»; "
                "nothing was written for them: start the same command again when storage answers"
            )

    def close(self) -> None:
        """End the decoder process."""
        self._decoder.close()


@dataclass
class _Reads:
    """The reads of one chunk, done by threads that never hold more than a few images at once."""

    reader: ImageReader
    plan: pa.Table
    settings: FetchSettings
    sha256: dict[int, str] = field(default_factory=dict)
    etags: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._uris = self.plan.column("uri").to_pylist()
        self._listed_etags = self.plan.column("etag").to_pylist()
        self._todo = iter(range(len(self._uris)))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # Two queues in C, one of them for leave to read on: a queue.Queue with a bound takes far longer.
        self._arrived: queue.SimpleQueue[tuple[int, bytes] | BaseException | None] = queue.SimpleQueue()
        self._leave: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ahead = self._lookahead()
        self._give_leave(self._ahead)
        self._threads = [
            threading.Thread(target=self._read_on, name=f"read-{n}", daemon=True)
            for n in range(min(self.settings.threads, len(self._uris)))
        ]

    def arrivals(self) -> Iterator[tuple[int, bytes]]:
        """Yield (position in the chunk, bytes of the file) as they arrive."""
        for thread in self._threads:
            thread.start()
        running, taken = len(self._threads), 0
        while running:
            item = self._arrived.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
                # Reads come in bursts: one after the other, in step with the decoder, each costs twice the
                # CPU here and in the server, because both fall asleep in between.
                taken += 1
                if taken == self._ahead // 2:
                    self._give_leave(taken)
                    taken = 0

    def _lookahead(self) -> int:
        """Return how many images may wait for the decoder, by their listed size."""
        sizes = [size for size in self.plan.column("size_bytes").to_pylist() if size is not None]
        fitting = _AHEAD_BYTES // max(1, sum(sizes) // len(sizes)) if sizes else 0
        return min(max(fitting, _LEAST_AHEAD), _MOST_AHEAD)

    def _give_leave(self, images: int) -> None:
        for _ in range(images):
            self._leave.put(None)

    def stop(self) -> None:
        """End the threads, also when the consumer went away early."""
        self._stopped.set()
        for _ in self._threads:
            self._leave.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _read_on(self) -> None:
        try:
            while not self._stopped.is_set():
                with self._lock:
                    position = next(self._todo, None)
                if position is None:
                    break
                self._leave.get()
                if self._stopped.is_set():
                    break
                started = time.perf_counter()
                try:
                    self._read(position)
                except ImageError as error:
                    self.failures[position] = error
                    self._leave.put(None)
                with self._lock:
                    self.seconds += time.perf_counter() - started
        except BaseException as error:  # a dead thread would leave the consumer waiting for ever
            self._arrived.put(error)
        else:
            self._arrived.put(None)

    def _read(self, position: int) -> None:
        data, etag = self.reader.read_image(
            self._uris[position],
            if_match=self._listed_etags[position],
            max_bytes=self.settings.limits.max_bytes,
        )
        self.sizes[position] = len(data)
        self.sha256[position] = hashlib.sha256(data).hexdigest()
        if etag is not None:
            self.etags[position] = etag
        self._arrived.put((position, data))


def _with_facts(plan: pa.Table, reads: _Reads, decoded: list[Facts | ImageError | None]) -> pa.Table:
    """Return the plan's rows with what was found out about each image."""
    n_rows = plan.num_rows
    facts: list[Facts | None] = [None] * n_rows
    errors: list[ImageError | None] = [None] * n_rows
    for position, found in enumerate(decoded):
        failure = reads.failures.get(position)
        if isinstance(found, Facts):
            facts[position] = found
        else:
            errors[position] = failure or found or ImageError("crash", "the decoder gave no answer for it")
    listed_sizes = plan.column("size_bytes").to_pylist()
    listed_etags = plan.column("etag").to_pylist()
    columns = {
        "image_id": plan.column("image_id"),
        "uri": plan.column("uri"),
        "etag": pa.array(
            [listed or reads.etags.get(n) for n, listed in enumerate(listed_etags)], pa.string()
        ),
        "size_bytes": pa.array(
            [reads.sizes.get(n, listed) for n, listed in enumerate(listed_sizes)], pa.int64()
        ),
        "old_part": plan.column("old_part"),
        "old_error": plan.column("old_error"),
        "sha256": pa.array([reads.sha256.get(n) for n in range(n_rows)], pa.string()),
        "error": pa.array([error and error.code for error in errors], pa.string()),
        "error_detail": pa.array([error and error.detail for error in errors], pa.string()),
    }
    for column in FACTS_SCHEMA:
        if column.name in columns or column.name == "colors":
            continue
        values = [None if fact is None else getattr(fact, column.name) for fact in facts]
        columns[column.name] = pa.array(values, column.type)
    columns["colors"] = _colors([None if fact is None else fact.colors for fact in facts])
    return pa.table(columns)


def _colors(colors: Sequence[Sequence[Color] | None]) -> pa.Array:
    lengths = [0 if of_image is None else len(of_image) for of_image in colors]
    offsets = pa.array(
        np.concatenate([[0], np.cumsum(lengths)]),
        pa.int32(),
        mask=np.array([c is None for c in colors] + [False]),
    )
    flat = [color for of_image in colors if of_image for color in of_image]
    values = pa.StructArray.from_arrays(
        [pa.array([color[n] for color in flat], COLOR.field(n).type) for n in range(3)],
        fields=[COLOR.field(n) for n in range(3)],
    )
    return pa.ListArray.from_arrays(offsets, values)
