"""Reading parts: only the columns asked for, only a few row groups in memory, several requests at a time."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.collection.schema import SCHEMA
from tagger.errors import ImageError, RunError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tagger.storage import Store

PART_COLUMN: Final = "part"
"""Name of the column that `scan_parts` can add: the path of the part that holds the row."""

_TAIL_BYTES: Final = 64 * 1024  # one request brings the footer of nearly every part
_THREADS: Final = 8  # hides the latency of a store; decoding itself is bound by the cores
_AHEAD_BYTES: Final = 256 * 1024 * 1024  # decoded row groups held ahead of the reader


class _Ranges(io.RawIOBase):
    """A part as a file that asks the store for byte ranges; remembers its tail, where the footer is."""

    def __init__(self, store: Store, name: str, size_bytes: int | None, *, footer: bool) -> None:
        super().__init__()
        self._store, self._name = store, name
        self._position = 0
        if size_bytes is None:
            info = store.head(name)
            if info is None:
                raise RunError(f"{store.uri}/{name} is missing, although the table names it")
            size_bytes = int(info.size_bytes)
        self._size = size_bytes
        self._tail_start = max(0, size_bytes - _TAIL_BYTES) if footer else size_bytes
        self._tail = self._fetch(self._tail_start, size_bytes - self._tail_start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, length: int = -1) -> bytes:
        end = self._size if length < 0 else min(self._size, self._position + length)
        start, self._position = self._position, max(end, self._position)
        if end <= start:
            return b""
        if start >= self._tail_start:
            return self._tail[start - self._tail_start : end - self._tail_start]
        return self._fetch(start, end - start)

    def _fetch(self, start: int, length: int) -> bytes:
        try:
            data = bytes(self._store.read_range(self._name, start, length)) if length else b""
        except ImageError as error:
            raise RunError(
                f"{self._store.uri}/{self._name} is named by the table but cannot be read ({error.code}); "
                "`tagger check` lists all such parts"
            ) from None
        if len(data) != length:
            raise RunError(f"{self._store.uri}/{self._name} is shorter than the table says")
        return data


def open_parquet(
    store: Store, name: str, size_bytes: int | None = None, metadata: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """Open a Parquet file in the store; reads its footer only.

    Raises:
        RunError: The file is missing, short, or not Parquet.
        StoreUnavailable: The store does not answer.
    """
    try:
        ranges = _Ranges(store, name, size_bytes, footer=metadata is None)
        return pq.ParquetFile(
            pa.PythonFile(ranges, mode="r"),
            metadata=metadata,
            pre_buffer=True,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{store.uri}/{name} is not a readable Parquet file: {error}") from error


def read_row_groups(
    store: Store, name: str, *, columns: Sequence[str] | None = None, size_bytes: int | None = None
) -> Iterator[pa.Table]:
    """Yield one part row group by row group, with the types of `SCHEMA`.

    Raises:
        RunError: The file is missing or unreadable.
    """
    file = open_parquet(store, name, size_bytes)
    for group in range(file.metadata.num_row_groups):
        yield _read(file, group, columns, f"{store.uri}/{name}")


def scan_parts(
    store: Store,
    parts: Sequence[tuple[str, str, int]],
    *,
    columns: Sequence[str] | None = None,
    batch_rows: int = 4096,
    part_column: bool = False,
) -> pa.RecordBatchReader:
    """Stream the rows of many parts, in the order of `parts` and of the rows in them.

    Args:
        store: The collection's root.
        parts: (path for the part column, name in the store, size in bytes) of each.
        columns: Columns to read, in this order; all by default. Others are not fetched from the store.
        batch_rows: Most rows in a batch.
        part_column: Add the column `part`.

    Returns:
        A reader to be consumed once; memory stays bounded by some row groups.
    """
    names = list(SCHEMA.names if columns is None else columns)
    schema = pa.schema([SCHEMA.field(name) for name in names])
    if part_column:
        schema = schema.append(pa.field(PART_COLUMN, pa.string(), nullable=False))
    batches = _batches(store, parts, names, schema, batch_rows)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _batches(
    store: Store, parts: Sequence[tuple[str, str, int]], names: list[str], schema: pa.Schema, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tagger-scan")
    try:
        for path, table in _tables(pool, store, parts, names):
            rows = table
            if len(schema) > len(names):
                rows = rows.append_column(schema.field(PART_COLUMN), _repeat(path, rows.num_rows))
            yield from rows.cast(schema).combine_chunks().to_batches(max_chunksize=batch_rows)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _repeat(value: str, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), n)


def _tables(
    pool: ThreadPoolExecutor, store: Store, parts: Sequence[tuple[str, str, int]], names: list[str]
) -> Iterator[tuple[str, pa.Table]]:
    """Read row groups in order while later footers and groups are already on their way."""

    def footer(name: str, size_bytes: int) -> pq.FileMetaData:
        return open_parquet(store, name, size_bytes).metadata

    def group(name: str, size_bytes: int, metadata: pq.FileMetaData, number: int) -> pa.Table:
        # Each its own handle: one ParquetFile is not made for several readers at a time.
        file = open_parquet(store, name, size_bytes, metadata)
        return _read(file, number, names, f"{store.uri}/{name}")

    footers: deque[tuple[str, str, int, Future[pq.FileMetaData]]] = deque()
    groups: deque[tuple[str, int, Future[pa.Table]]] = deque()
    waiting = iter(parts)
    todo: deque[tuple[str, str, int, pq.FileMetaData, int]] = deque()
    held = 0
    more = True
    while True:
        while more and len(footers) < 2 * _THREADS:
            part = next(waiting, None)
            if part is None:
                more = False
            else:
                footers.append((*part, pool.submit(footer, part[1], part[2])))
        while not todo and footers and (not groups or footers[0][3].done()):
            path, name, size_bytes, opened = footers.popleft()
            metadata = opened.result()
            todo.extend((path, name, size_bytes, metadata, i) for i in range(metadata.num_row_groups))
        while todo and (not groups or (held < _AHEAD_BYTES and len(groups) < 2 * _THREADS)):
            path, name, size_bytes, metadata, number = todo.popleft()
            cost = _bytes(metadata.row_group(number), names)
            held += cost
            groups.append((path, cost, pool.submit(group, name, size_bytes, metadata, number)))
        if groups:
            path, cost, read = groups.popleft()
            yield path, read.result()
            held -= cost
        elif not more and not footers and not todo:
            return


def _bytes(group: pq.RowGroupMetaData, names: list[str]) -> int:
    wanted = set(names)
    columns = (group.column(i) for i in range(group.num_columns))
    # A float in Parquet takes as much in memory, so the uncompressed size is a fair measure.
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] in wanted)


def _read(file: pq.ParquetFile, group: int, columns: Sequence[str] | None, where: str) -> pa.Table:
    names = list(SCHEMA.names if columns is None else columns)
    try:
        table = file.read_row_group(group, columns=names, use_threads=False)
        return table.select(names).cast(pa.schema([SCHEMA.field(name) for name in names]))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if isinstance(error.__cause__, StoreUnavailable):
            raise error.__cause__ from None
        raise RunError(f"{where} cannot be read: {error}") from error
