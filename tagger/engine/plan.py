"""The plan: which listed images a run tags, in chunks that flow while the listing still runs.

An image is left out when its (image_id, etag, model_id) has a settled row: it was tagged, or it failed in a
way that would only repeat. That one rule is resume, incremental update and retry.

A new collection needs no comparison: the first chunk appears with the first page of the listing. Otherwise
the listing is compared with the table window by window (see `plan_join`), a small window first.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.schema import PLAN_SCHEMA
from tagger.engine.plan_join import SettledRows
from tagger.engine.plan_repeats import RecentIds, without_repeats

CHUNK_ROWS: Final = (32, 64, 128, 256, 512)
"""Rows of the first chunks; the last number holds from there on. Small ones start the CNN early."""
MAX_CHUNK_ROWS: Final = 512

_FIRST_WINDOW: Final = 20_000
_LAST_WINDOW: Final = 1_000_000
_GROWTH: Final = 4
_PATIENCE_S: Final = 1.0
"""A window that fills slowly is compared after this long, or after four times the last comparison."""
_STAGE_ROWS: Final = 50_000
_SOURCE_SCHEMA: Final = pa.schema(
    [("image_id", pa.string()), ("uri", pa.string()), ("etag", pa.string()), ("size_bytes", pa.int64())]
)


@dataclass(slots=True)
class PlanCounts:
    """What became of the listing; `listed = skipped + planned + deferred` once it has ended.

    Attributes:
        listed: Images under the source, each counted once.
        skipped: Of these, images with a settled row.
        planned: Images that went into chunks.
        deferred: Images beyond the limit.
        repeats: Ids that the listing named again; not part of `listed`.
        planned_bytes: Sum of the known sizes of the planned images.
        existing: Rows the table had when the plan began.
    """

    listed: int = 0
    skipped: int = 0
    planned: int = 0
    deferred: int = 0
    repeats: int = 0
    planned_bytes: int = 0
    existing: int = 0


class Plan:
    """An iterator over the chunks of one run; iterate once, then read `counts` and ask `vanished`.

    Use it as a context manager, or call `close`: the comparison keeps a temporary database until then.
    `counts` may be read from another thread while the plan runs, for progress.

    Attributes:
        counts: Grows while the plan runs.
        complete: True once the listing has ended and every chunk was given.
    """

    def __init__(
        self,
        source_batches: Iterable[pa.Table],
        settled: pa.RecordBatchReader | None,
        *,
        spill_dir: Path,
        model_id: str | None = None,
        retry_failed: bool = False,
        limit: int | None = None,
        memory_limit_bytes: int = 512 << 20,
        chunk_rows: Sequence[int] = CHUNK_ROWS,
        first_window: int = _FIRST_WINDOW,
    ) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be at least 0, got {limit}")
        if not chunk_rows or not all(1 <= rows <= MAX_CHUNK_ROWS for rows in chunk_rows):
            raise ValueError(f"chunk_rows must be numbers from 1 to {MAX_CHUNK_ROWS}, got {chunk_rows}")
        self.counts = PlanCounts()
        self.complete = False
        self._closed = False
        self._source = source_batches
        self._settled = settled
        self._options = {
            "model_id": model_id,
            "retry_failed": retry_failed,
            "spill_dir": Path(spill_dir),
            "memory_limit_bytes": memory_limit_bytes,
        }
        self._limit = limit
        self._recent = RecentIds(max(1 << 20, memory_limit_bytes // 128))  # an eighth of the memory
        self._chunker = _Chunker(chunk_rows)
        self._first_window = first_window
        self._rows: SettledRows | None = None
        self._chunks = self._run()

    def __iter__(self) -> Iterator[pa.Table]:
        return self._chunks

    def __next__(self) -> pa.Table:
        return next(self._chunks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the plan and remove what the comparison keeps on disk; may be called twice.

        While another thread is inside the plan, that thread does so at the next page of the listing.
        """
        self._closed = True
        try:
            self._chunks.close()
        except ValueError:  # the generator is running; it sees _closed
            return
        self._let_go()

    def _let_go(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def vanished(self, covers: Callable[[str], bool]) -> Iterator[pa.Table]:
        """Give the rows of the table that a complete listing did not name, for `--prune`.

        Args:
            covers: Whether a uri lies under the source.

        Returns:
            Tables with columns image_id, uri, part; memory stays bounded.

        Raises:
            RuntimeError: The listing has not ended, or the plan was closed or limited.
        """
        if not self.complete or self._limit is not None or (self.counts.existing and self._rows is None):
            raise RuntimeError("only an open plan whose whole listing was taken, without a limit, can prune")
        return self._rows.vanished(covers) if self._rows is not None else iter(())

    def _run(self) -> Generator[pa.Table, None, None]:
        existing = _not_empty(self._settled)
        fresh: Iterator[pa.Table]
        if existing is None:
            fresh = (_as_new(table) for table in self._listed())
        else:
            self._rows = SettledRows(existing, **self._options)  # type: ignore[arg-type]
            self.counts.existing = self._rows.rows
            fresh = self._compared(self._rows)
        for table in fresh:
            if self._closed:
                self._let_go()
                return
            within = self._within_limit(table)
            if within.num_rows:
                yield from self._chunker.add(within)
        yield from self._chunker.rest()
        self.complete = not self._closed
        if self._closed:
            self._let_go()

    def _listed(self) -> Iterator[pa.Table]:
        for batch in self._source:
            if self._closed:
                return
            table = without_repeats(batch.select(_SOURCE_SCHEMA.names).cast(_SOURCE_SCHEMA), self._recent)
            self.counts.repeats += batch.num_rows - table.num_rows
            self.counts.listed += table.num_rows
            if table.num_rows:
                yield table

    def _compared(self, rows: SettledRows) -> Iterator[pa.Table]:
        """Compare window after window; each is worth its pass over the table, and no longer than needed."""
        target, patience_s = self._first_window, _PATIENCE_S
        largest = max(_LAST_WINDOW, rows.rows // 16)  # keeps a billion rows at a few dozen passes
        held: list[pa.Table] = []
        staged = 0
        opened = time.monotonic()
        for table in chain(self._listed(), [None]):
            if table is not None:
                held.append(table)
                staged += table.num_rows
            full = staged >= target or time.monotonic() - opened >= patience_s
            if table is None or full or sum(t.num_rows for t in held) >= _STAGE_ROWS:
                rows.stage(held)
                held = []
            if staged and (table is None or full):
                began = time.monotonic()
                skipped, unsettled = rows.join()
                patience_s = max(_PATIENCE_S, _GROWTH * (time.monotonic() - began))
                self.counts.skipped += skipped
                yield from unsettled
                target, staged = min(target * _GROWTH, largest), 0
                opened = time.monotonic()

    def _within_limit(self, table: pa.Table) -> pa.Table:
        counts = self.counts
        room = table.num_rows if self._limit is None else self._limit - counts.planned
        within = table.slice(0, min(room, table.num_rows))
        counts.planned += within.num_rows
        counts.deferred += table.num_rows - within.num_rows
        counts.planned_bytes += pc.sum(within["size_bytes"]).as_py() or 0
        return within


def plan_chunks(
    source_batches: Iterable[pa.Table],
    settled: pa.RecordBatchReader | None,
    *,
    spill_dir: Path,
    model_id: str | None = None,
    retry_failed: bool = False,
    limit: int | None = None,
    memory_limit_bytes: int = 512 << 20,
    chunk_rows: Sequence[int] = CHUNK_ROWS,
) -> Plan:
    """Plan a run: the listed images that have no settled row, as chunks in `PLAN_SCHEMA`.

    Args:
        source_batches: Tables of image_id, uri, etag, size_bytes as they are listed; etag and size may be
            null. Without an etag the image_id alone is compared.
        settled: The table's rows as image_id, uri, etag, status, error, model_id, part; None, or a reader
            without rows, for a new collection.
        spill_dir: Folder for a temporary database (about 60 bytes per row of the table).
        model_id: Count only rows of this model as settled; None where the collection has but one.
        retry_failed: Plan every failed image again, settled or not.
        limit: Plan at most this many images and count the others as deferred.
        memory_limit_bytes: DuckDB spills above this; an eighth of it more remembers listed ids.
        chunk_rows: Rows of the first chunks, the last number for all that follow; at most 512 each.

    Returns:
        An iterator of chunks with `counts`, `complete`, `vanished` and `close`.

    Raises:
        RunError: While iterating: no space left in `spill_dir`.

    >>> table = pa.table({"image_id": ["a"], "uri": ["a"], "etag": ["1"], "size_bytes": [9]})
    >>> with plan_chunks([table], None, spill_dir=Path()) as plan:
    ...     [chunk.num_rows for chunk in plan], plan.counts.planned_bytes
    ([1], 9)
    """
    return Plan(
        source_batches,
        settled,
        spill_dir=spill_dir,
        model_id=model_id,
        retry_failed=retry_failed,
        limit=limit,
        memory_limit_bytes=memory_limit_bytes,
        chunk_rows=chunk_rows,
    )


class _Chunker:
    """Cuts tables into chunks of the wanted sizes, and keeps what does not fill one."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._held: pa.Table | None = None

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        table = table.cast(PLAN_SCHEMA)
        if self._held is not None:
            table = pa.concat_tables([self._held, table])
        start = 0
        while table.num_rows - start >= self._sizes[0]:
            size = self._sizes[0] if len(self._sizes) == 1 else self._sizes.pop(0)
            yield table.slice(start, size).combine_chunks()
            start += size
        self._held = table.slice(start).combine_chunks() if start < table.num_rows else None

    def rest(self) -> Iterator[pa.Table]:
        if self._held is not None:
            yield self._held
        self._held = None


def _not_empty(reader: pa.RecordBatchReader | None) -> Iterator[pa.RecordBatch] | None:
    """Return the reader's batches, or None if it holds no row."""
    if reader is None:
        return None
    for batch in reader:
        if batch.num_rows:
            return chain([batch], reader)
    return None


def _as_new(table: pa.Table) -> pa.Table:
    """Add the columns that tell of the row an image has had."""
    nothing = pa.nulls(table.num_rows, pa.string())
    return table.append_column("old_part", nothing).append_column("old_error", nothing)
