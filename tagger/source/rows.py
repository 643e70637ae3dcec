"""Rows of a manifest as Parquet, CSV or JSON Lines, read as a stream, with their lines for messages."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    Lined = tuple[Sequence[int], pa.Table]
    """The line of each row, and the rows."""

COLUMNS: Final = ("image_id", "uri", "bucket", "key", "etag", "size_bytes")
_BATCH: Final = 10_000


@dataclass(frozen=True)
class Rows:
    """Some rows of a manifest; the optional columns are None when the file does not have them.

    Attributes:
        lines: Line (or row, in a file without lines) of each, counted from 1.
        uris: Addresses as given.
        image_ids: Ids as given.
        etags: Versions as given.
        sizes: Sizes in bytes.
    """

    lines: Sequence[int]
    uris: Sequence[str | None]
    image_ids: Sequence[str | None] | None = None
    etags: Sequence[str | None] | None = None
    sizes: Sequence[int | None] | None = None


def read_rows(path: Path, name: str, uri: str) -> Iterator[Rows]:
    """Yield the rows of a manifest.

    Args:
        path: The file.
        name: Its real name, which tells the format.
        uri: Its address, for messages.

    Raises:
        SourceError: The file is not what its name says, or lacks the columns; the text names the line.
    """
    lower = name.lower()
    gzipped = lower.endswith(".gz")
    try:
        if lower.endswith(".parquet"):
            tables = parquet_tables(path, COLUMNS)
        elif lower.endswith((".csv", ".csv.gz")):
            tables = _csv_tables(path, uri, gzipped=gzipped)
        else:
            tables = _json_tables(path, uri, gzipped=gzipped)
        for lines, table in tables:
            yield _rows(table, lines, uri)
    except UNREADABLE as error:
        raise SourceError(f"{uri} cannot be read: {in_one_line(error)}") from None


UNREADABLE: Final = (
    *(pa.ArrowException, csv.Error, UnicodeError, EOFError, OSError),
    *(zlib.error, RecursionError, OverflowError),  # flipped bits, endless nesting, a size of infinity
)
"""What readers raise for files that are not what they claim to be."""


def in_one_line(error: BaseException) -> str:
    """Return the text of an error, short and without line breaks."""
    return " ".join(str(error).split())[:200]


def parquet_tables(path: Path, wanted: Sequence[str]) -> Iterator[Lined]:
    """Yield the wanted columns of a Parquet file; lines are row numbers."""
    with pq.ParquetFile(path) as file:
        here = [name for name in file.schema_arrow.names if name in wanted]
        if not here or file.metadata.num_rows == 0:
            yield range(0), file.schema_arrow.empty_table()
            return
        row = 1
        for batch in file.iter_batches(_BATCH, columns=here):
            yield range(row, row + batch.num_rows), pa.Table.from_batches([batch])
            row += batch.num_rows


def csv_rows(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file that are not empty, each with the line it begins at."""
    reader = csv.reader(file, strict=True)
    begins = 1
    for row in reader:
        if row:
            yield begins, row
        begins = reader.line_num + 1


def open_text(path: Path, *, gzipped: bool) -> TextIO:
    """Open a CSV file, compressed or not, without its byte order mark."""
    if not gzipped:
        return path.open(encoding="utf-8-sig", newline="")
    text: TextIO = gzip.open(path, "rt", encoding="utf-8-sig", newline="")  # noqa: SIM115 - the caller closes it
    return text


def _csv_tables(path: Path, uri: str, *, gzipped: bool) -> Iterator[Lined]:
    with open_text(path, gzipped=gzipped) as file:
        rows = csv_rows(file)
        _, header = next(rows, (1, []))
        yield range(0), pa.table({name: pa.array([], pa.string()) for name in header})
        places = {name: place for place, name in enumerate(header) if name in COLUMNS}
        lines: list[int] = []
        columns: dict[str, list[str]] = {name: [] for name in places}
        for line, row in rows:
            if len(row) != len(header):
                raise SourceError(f"{uri} line {line}: has {len(row)} fields, and the header {len(header)}")
            lines.append(line)
            for name, place in places.items():
                columns[name].append(row[place])
            if len(lines) == _BATCH:
                yield lines, pa.table(columns)
                lines, columns = [], {name: [] for name in places}
        if lines:
            yield lines, pa.table(columns)


def _json_tables(path: Path, uri: str, *, gzipped: bool) -> Iterator[Lined]:
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    with gzip.open(path, "rb") if gzipped else path.open("rb") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise SourceError(f"{uri} line {line}: not a JSON object") from None
            lines.append(line)
            rows.append(row)
            if len(rows) == _BATCH:
                yield lines, _json_table(rows, lines, uri)
                lines, rows = [], []
    if rows:
        yield lines, _json_table(rows, lines, uri)


def _json_table(rows: list[dict[str, Any]], lines: list[int], uri: str) -> pa.Table:
    columns = {}
    for name in dict.fromkeys([*rows[0], *COLUMNS]):
        if name in COLUMNS and any(name in row for row in rows):
            values = [row.get(name) for row in rows]
            for line, value in zip(lines, values, strict=True):
                if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
                    raise SourceError(f"{uri} line {line}: {name} must be text or a whole number")
            texts = [None if value is None else str(value) for value in values]
            columns[name] = pa.array(texts, pa.string())
        elif name in rows[0]:
            columns[name] = pa.nulls(len(rows))  # named in the message when the needed ones are missing
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))})


def _rows(table: pa.Table, lines: Sequence[int], uri: str) -> Rows:
    names = set(table.column_names)
    if "uri" not in names and not {"bucket", "key"} <= names:
        have = ", ".join(name for name in table.column_names if name) or "none"
        raise SourceError(f"{uri} has no column `uri`, nor `bucket` and `key`; its columns: {have}")
    if "uri" in names:
        uris = _texts(table, "uri", uri)
    else:
        pairs = zip(_texts(table, "bucket", uri), _texts(table, "key", uri), strict=True)
        uris = [f"s3://{bucket}/{key}" if bucket and key else None for bucket, key in pairs]
    return Rows(
        lines,
        uris,
        _texts(table, "image_id", uri) if "image_id" in names else None,
        _texts(table, "etag", uri) if "etag" in names else None,
        whole_numbers(table, "size_bytes", lines, uri) if "size_bytes" in names else None,
    )


def _texts(table: pa.Table, name: str, uri: str) -> list[str | None]:
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    textual = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (textual or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise SourceError(f"{uri}: the column {name} must be text, not {kind}")
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts


def whole_numbers(table: pa.Table, name: str, lines: Sequence[int], uri: str) -> list[int | None]:
    """Return a column as integers; empty text is null.

    Raises:
        SourceError: A value is no whole number; the text names its line.
    """
    column = table.column(name)
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    try:
        values: list[int | None] = column.cast(pa.int64()).to_pylist()
    except pa.ArrowException:
        values = []
        for line, value in zip(lines, column.to_pylist(), strict=True):
            try:
                number = None if value is None else int(value)
            except (TypeError, ValueError):
                number = -1
            if number == -1 or (not isinstance(value, str) and number != value):
                raise SourceError(f"{uri} line {line}: {name} is {value!r}, not a whole number") from None
            values.append(number)
    for line, number in zip(lines, values, strict=True):
        if number is not None and not 0 <= number < 1 << 63:
            raise SourceError(f"{uri} line {line}: {name} must be at least 0, got {number}")
    return values
