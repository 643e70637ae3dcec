"""Catalogs as Parquet, JSON Lines and XLSX."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.catalog.table import BATCH_ROWS, CatalogTable, cannot_open
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

_MOST_INT: Final = 2**63
_EXACT: Final = 2**53  # whole numbers up to here are exact as floats


class ParquetTable(CatalogTable):
    """A Parquet file.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be opened, or is damaged.
    """

    format = "parquet"

    def __init__(self, path: Path) -> None:
        try:
            schema = pq.read_schema(path)
        except OSError as error:
            raise cannot_open(path, error) from None
        except pa.ArrowException as error:
            raise UsageError(f"the catalog {path} is damaged: {error}") from None
        super().__init__(path, schema.names, schema.types)

    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """See `CatalogTable`."""
        wanted = range(len(self.header)) if columns is None else columns
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                    yield self._batch([batch.column(n) for n in wanted], columns)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"the catalog {self.path} is damaged: {error}") from None


class JsonLinesTable(CatalogTable):
    """A file of JSON objects, one a line; may be gzipped.

    Text, truth values, whole numbers and numbers are columns of such a type; whatever else, or is mixed, is a
    column of JSON texts.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be opened, or a line is no JSON object.
    """

    format = "jsonl"

    def __init__(self, path: Path) -> None:
        self.path = path
        kinds: dict[str, set[str]] = {}
        try:
            for _, record in self.lines():
                for name, value in record.items():
                    kinds.setdefault(name, set()).add(_kind(value))
        except OSError as error:
            raise cannot_open(path, error) from None
        if not kinds:
            raise UsageError(f"the catalog {path} has no line with a field")
        super().__init__(path, list(kinds), [_type_of(found - {"null"}) for found in kinds.values()])
        self.as_json = tuple(
            name
            for name, found in kinds.items()
            if _type_of(found - {"null"}) == pa.string() and found - {"null", "text"}
        )

    def lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yield each line as it is, and the object in it; empty lines are left out.

        Raises:
            UsageError: One is no JSON object; says which.
        """
        with self.path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with cast("BinaryIO", gzip.open(self.path, "rb")) if is_gzip else self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.strip().removeprefix(b"\xef\xbb\xbf")
                if not text:
                    continue
                try:
                    record = json.loads(text)  # which, unlike faster ones, keeps every digit of a long number
                except ValueError as error:
                    raise UsageError(
                        f"line {number} of the catalog {self.path} is no JSON: {error}"
                    ) from None
                if not isinstance(record, dict):
                    raise UsageError(f"line {number} of the catalog {self.path} is no JSON object")
                yield text, record

    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """See `CatalogTable`."""
        wanted = range(len(self.header)) if columns is None else columns
        rows: list[dict[str, Any]] = []

        def batch() -> pa.RecordBatch:
            arrays = [self._array(n, [row.get(self.header[n]) for row in rows]) for n in wanted]
            return self._batch(arrays, columns)

        for _, record in self.lines():
            rows.append(record)
            if len(rows) == BATCH_ROWS:
                yield batch()
                rows = []
        if rows:
            yield batch()

    def _array(self, n: int, values: list[Any]) -> pa.Array:
        if self.header[n] in self.as_json:
            values = [None if one is None else json.dumps(one, ensure_ascii=False) for one in values]
        return pa.array(values, self.types[n])


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return (
            "whole" if -_EXACT <= value <= _EXACT else "long" if -_MOST_INT <= value < _MOST_INT else "huge"
        )
    return "number" if isinstance(value, float) else "nested"


def _type_of(kinds: set[str]) -> pa.DataType:
    if kinds == {"truth"}:
        return pa.bool_()
    if kinds and kinds <= {"whole", "long"}:
        return pa.int64()
    if kinds and kinds <= {"whole", "number"}:
        return pa.float64()
    return pa.string()


class SheetTable(CatalogTable):
    """The first sheet of an XLSX file, or another one; it is in memory while it is used.

    A column keeps its type where all of its cells have one; whole numbers are whole. Else it is text, as the
    cells' values are written.

    Args:
        path: The file.
        sheet: Name of the sheet.

    Raises:
        UsageError: It cannot be opened, is damaged, or has no such sheet or no header.
    """

    format = "xlsx"

    def __init__(self, path: Path, *, sheet: str | None = None) -> None:
        from python_calamine import CalamineError, CalamineWorkbook

        try:
            with path.open("rb"):
                pass
            book = CalamineWorkbook.from_path(str(path))
        except OSError as error:
            raise cannot_open(path, error) from None
        except CalamineError as error:
            raise UsageError(f"the catalog {path} is no workbook that can be read: {error}") from None
        if sheet is not None and sheet not in book.sheet_names:
            raise UsageError(
                f"{path} has no sheet {sheet!r}; it has {', '.join(map(repr, book.sheet_names))}"
            )
        self.sheet = book.sheet_names[0] if sheet is None else sheet
        rows = book.get_sheet_by_name(self.sheet).to_python(skip_empty_area=False)
        if not rows or not any(str(cell).strip() for cell in rows[0]):
            raise UsageError(
                f"the sheet {self.sheet!r} of {path} is empty: its first row must name its columns"
            )
        width = max(n for n, cell in enumerate(rows[0], 1) if str(cell).strip())
        if any(cell != "" for row in rows[1:] for cell in row[width:]):
            width = max(len(row) for row in rows)
        header = [_as_text(cell) for cell in rows[0][:width]]
        arrays = [_column([row[n] if n < len(row) else "" for row in rows[1:]]) for n in range(width)]
        super().__init__(path, header, [array.type for array in arrays])
        self._table = pa.Table.from_arrays(arrays, names=list(self.names))

    def describe(self) -> str:
        """Return how it was read."""
        return f"xlsx, sheet {self.sheet!r}"

    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """See `CatalogTable`."""
        table = self._table if columns is None else self._table.select(list(columns))
        yield from table.to_batches(BATCH_ROWS)


def _column(cells: list[Any]) -> pa.Array:
    values = [None if cell == "" else cell for cell in cells]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        whole = all(value is None or (float(value).is_integer() and abs(value) < _EXACT) for value in values)
        if whole:
            return pa.array([None if value is None else int(value) for value in values], pa.int64())
        return pa.array(values, pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {dt.date}:
        return pa.array(values, pa.date32())
    if kinds and kinds <= {dt.date, dt.datetime}:  # midnight is read as a date
        return pa.array([None if value is None else _moment(value) for value in values], pa.timestamp("us"))
    return pa.array([None if value is None else _as_text(value) for value in values], pa.string())


def _moment(value: dt.date) -> dt.datetime:
    return value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())


def _as_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)
