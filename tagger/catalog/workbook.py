"""Catalogs as XLSX."""

from __future__ import annotations

import datetime as dt
import re
import zipfile
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tagger.catalog.table import BATCH_ROWS, EXACT, CatalogTable, cannot_open, whole
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LOST: Final = (
    "cells of the workbook with an error such as #N/A, or a formula without its result: they are empty"
)
_LOST_CELL: Final = re.compile(rb"<c\s[^>]*\bt=[\"']e[\"']|</f>(<v\s*/>|<v></v>)?</c>")


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
        if lost := _lost_cells(path, book.sheet_names.index(self.sheet)):
            self.remarks[_LOST] = lost

    def describe(self) -> str:
        """Return how it was read."""
        return f"xlsx, sheet {self.sheet!r}"

    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """See `CatalogTable`."""
        table = self._table if columns is None else self._table.select(list(columns))
        yield from table.to_batches(BATCH_ROWS)


def _lost_cells(path: Path, sheet: int) -> int:
    """Count the cells whose errors or missing results the reader gives as empty ones; 0 if it is no XLSX."""
    try:
        with zipfile.ZipFile(path) as book:
            listed = re.findall(
                rb"<(?:\w+:)?sheet\s[^>]*?\w+:id=[\"']([^\"']+)", book.read("xl/workbook.xml")
            )
            for part in re.findall(rb"<Relationship\s[^>]*>", book.read("xl/_rels/workbook.xml.rels")):
                said = dict(re.findall(rb"(\w+)=[\"']([^\"']*)", part))
                if said[b"Id"] == listed[sheet]:
                    name = said[b"Target"].decode().removeprefix("/xl/")
                    return len(_LOST_CELL.findall(book.read(f"xl/{name}")))
    except (KeyError, IndexError, OSError, zipfile.BadZipFile):
        pass
    return 0


def _column(cells: list[Any]) -> pa.Array:
    values = [None if cell == "" else cell for cell in cells]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        whole = all(value is None or (float(value).is_integer() and abs(value) < EXACT) for value in values)
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
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    value = whole(value)
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)
