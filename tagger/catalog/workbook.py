"""Catalogs as XLSX."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tagger.catalog.table import BATCH_ROWS, CatalogTable, cannot_open
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


_EXACT: Final = 2**53  # whole numbers up to here are exact as floats


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
