"""Tables that people bring, as CSV or Parquet: a stream of text columns, with their lines for messages."""

from __future__ import annotations

import codecs
import csv
import gzip
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BLOCK_BYTES: Final = 4 << 20
_BATCH_ROWS: Final = 65_536
_BUFFER_BYTES: Final = 1 << 20  # of a column: reading ahead took 0.15 GB more, and was no faster
_MOST_CELL: Final = 16 << 20  # characters; more than a block never gets this far
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table in a local file. What it is, is told by its first bytes, not by its name.

    A CSV file is UTF-8, with or without a byte order mark, plain or gzipped, its fields separated by comma,
    semicolon or tab: by whichever the header has more of. All of its columns are text, so that an id keeps
    its leading zeros.

    Attributes:
        path: Where it is.
        what: What it is called in messages, as in `the events file`.
    """

    path: Path
    what: str

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield those of the wanted columns that there are, and `row`, counted from 1 without the header.

        Text, and timestamps where a Parquet file has them. A file without rows yields one empty batch.

        Raises:
            UsageError: There is no such file, or it is not a table; the text says what to do.
        """
        row = 1
        for batch in self._batches(wanted):
            rows = pa.array(np.arange(row, row + len(batch)))
            row += len(batch)
            yield pa.RecordBatch.from_arrays([*batch.columns, rows], names=[*batch.schema.names, "row"])

    def place(self, row: int) -> str:
        """Return where a row is: `line 7 of the events file x.csv`; a Parquet file has rows."""
        if self._begins() == _PARQUET:
            return f"row {row} of {self}"
        try:
            with self._text(errors="replace") as file:
                lines = (line for line, _ in _records(file, self._delimiter()))
                next(lines, 0)  # the header
                line = next((line for number, line in enumerate(lines, 1) if number == row), 0)
        except csv.Error:
            return f"row {row} of {self}"
        return f"line {line} of {self}"

    def __str__(self) -> str:
        return f"{self.what} {self.path}"

    def _batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            batches = self._parquet(wanted) if self._begins() == _PARQUET else self._csv(wanted)
            yield from batches
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise UsageError(
                f"{self} cannot be opened ({error.strerror}): give the path of a CSV or Parquet file"
            ) from None
        except (pa.ArrowException, OSError, EOFError, UnicodeError, csv.Error) as error:
            text = " ".join(str(error).split())[:200]
            if not isinstance(error, OSError | EOFError) and (line := self._undecodable()):
                raise UsageError(f"line {line} of {self} is not UTF-8: save the file as UTF-8") from None
            raise UsageError(f"{self} is neither CSV in UTF-8 nor Parquet, or is damaged: {text}") from None

    def _begins(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                return file.read(4)
        except ValueError as error:
            raise UsageError(f"{self.what} {str(self.path)!r} has a name that no file has: {error}") from None
        except OSError as error:
            raise UsageError(
                f"{self} cannot be opened ({error.strerror}): give the path of a CSV or Parquet file"
            ) from None

    def _parquet(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            schema = file.schema_arrow
            names = self._names(schema.names, wanted)
            columns = [schema.names[place] for place in names.values()]
            empty = pa.RecordBatch.from_pylist([], schema=schema).select(columns)
            batches = file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
            for batch in chain([empty], batches):
                arrays = [
                    self._plain(name, batch.column(column))
                    for name, column in zip(names, columns, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=list(names))

    def _plain(self, name: str, column: pa.Array) -> pa.Array:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.dictionary_decode()
            kind = column.type
        if pa.types.is_timestamp(kind):
            return column.cast(pa.timestamp("us", tz="UTC"), safe=False)
        if pa.types.is_date(kind):
            return column.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
        if name.endswith("_id") and (pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise UsageError(f"{self} has numbers of type {kind} as {name}: write the ids as text")
        if pa.types.is_nested(kind):
            raise UsageError(f"{self} has a {kind} as {name}: write it as text")
        return column.cast(pa.string())

    def _csv(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        delimiter = self._delimiter()
        with self._text() as file:
            begins = [record for _, record in islice(_records(file, delimiter), 2)]
        if not begins:
            raise UsageError(f"{self} is empty: its first line must name its columns")
        header = begins[0]
        names = self._names(header, wanted)
        columns = [header[place] for place in names.values()]
        yield pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in names})
        if not columns or len(begins) == 1:  # pyarrow takes a header without a line end for no file
            return
        ragged: list[pv.InvalidRow] = []

        def refuse(row: pv.InvalidRow) -> str:
            ragged.append(row)  # pyarrow swallows what is raised here
            return "error"

        compression = "gzip" if self._begins()[:2] == _GZIP else None
        try:
            with pa.input_stream(str(self.path), compression=compression) as stream:
                reader = pv.open_csv(
                    stream,
                    read_options=pv.ReadOptions(block_size=_BLOCK_BYTES),
                    parse_options=pv.ParseOptions(
                        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse
                    ),
                    convert_options=pv.ConvertOptions(
                        column_types=dict.fromkeys(header, pa.string()),
                        include_columns=columns,
                        strings_can_be_null=False,
                    ),
                )
                for batch in reader:
                    yield pa.RecordBatch.from_arrays(batch.columns, names=list(names))
        except pa.ArrowInvalid:
            if ragged:
                raise self._ragged(ragged[0]) from None
            raise

    def _ragged(self, row: pv.InvalidRow) -> UsageError:
        with self._text(errors="replace") as file:
            records = _records(file, self._delimiter())
            line = next((line for line, fields in records if len(fields) != row.expected_columns), 0)
        return UsageError(
            f"line {line} of {self} has {row.actual_columns} fields, and the header {row.expected_columns}: "
            "quote fields that hold the separator"
        )

    def _names(self, header: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
        """Return the wanted columns that there are, and their places; upper case and blanks do not matter."""
        places: dict[str, int] = {}
        for place, name in enumerate(header):
            plain = name.strip().lower()
            if plain in wanted:
                if plain in places:
                    raise UsageError(f"{self} has two columns named {plain}: rename one of them")
                places[plain] = place
        return places

    def _undecodable(self) -> int:
        """Return the first line that is not UTF-8; 0 if there is none, or it cannot be found."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        line, packed = 1, self._begins()[:2] == _GZIP
        if self._begins() == _PARQUET:
            return 0
        with cast("BinaryIO", gzip.open(self.path)) if packed else self.path.open("rb") as file:
            try:
                while chunk := file.read(_BUFFER_BYTES):
                    decoder.decode(chunk)
                    line += chunk.count(b"\n")
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].count(b"\n")
            except (OSError, EOFError):
                return 0
        return 0

    def _text(self, errors: str = "strict") -> TextIO:
        if self._begins()[:2] == _GZIP:
            packed = gzip.open(self.path, "rt", encoding="utf-8-sig", errors=errors, newline="")  # noqa: SIM115
            return cast("TextIO", packed)
        return self.path.open(encoding="utf-8-sig", errors=errors, newline="")

    def _delimiter(self) -> str:
        with self._text(errors="replace") as file:
            first = next((line for line in file if line.strip()), "")
        return max(",;\t", key=first.count)


def _records(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV file that are not empty, each with the line it begins at."""
    before = csv.field_size_limit(_MOST_CELL)  # descriptions of products can be long
    try:
        reader = csv.reader(file, delimiter=delimiter)
        begins = 1
        for record in reader:
            if record:
                yield begins, record
            begins = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def column_or_null(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of text; nulls where there is none, or a cell is empty."""
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    column = batch.column(name)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
