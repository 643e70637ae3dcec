"""The enriched catalog as a file: the catalog's own columns as they were, and ours behind them."""

from __future__ import annotations

import base64
import contextlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger.catalog.delimited import DelimitedTable
from tagger.catalog.jsonl import JsonLinesTable
from tagger.catalog.table import free_name, values_of, whole
from tagger.outfile import PendingFile
from tagger.spreadsheet import FORMULA_SIGNS, csv_writer, harmless_cell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from tagger.catalog.roles import Roles
    from tagger.catalog.table import CatalogTable

BETWEEN: Final = "; "
"""Between the values of one of our cells in CSV."""

ROW_PICTURES: Final = "row_pictures"
PRODUCT_PICTURES: Final = "product_pictures"
"""Lists of (name, alt): the images of a row, and of its product, that were found, by the names that the
catalog has for them, with their alternative texts."""

ROLES_KEY: Final = b"tagger.roles"
"""Where a Parquet file notes, as JSON, which of the catalog's columns were taken for what."""

_GROUP_ROWS: Final = 65_536
_GROUP_BYTES: Final = 128 << 20
_FORMULA: Final = f"^[{''.join(FORMULA_SIGNS).replace('-', '') + '-'}]"


@dataclass(frozen=True)
class Rows:
    """Some rows of the catalog.

    Attributes:
        own: Their own columns, as the catalog has them.
        ours: What tagger says, by name; for some formats also `ROW_PICTURES` and `PRODUCT_PICTURES`.
        is_first: Which are the first of their product.
        category: The category of each one's product, in the first of its rows that has one; else null.
        title: The same for titles; None for formats without pictures' names.
    """

    own: pa.RecordBatch
    ours: dict[str, pa.Array]
    is_first: npt.NDArray[np.bool_]
    category: pa.Array
    title: pa.Array | None


class Output(ABC):
    """Writes rows to a file, or to several, that appear when all are complete.

    Args:
        out: The file.

    Attributes:
        kept: Files that are read or written besides, and are not to be replaced by a further file.
        left_out: Products that cannot be in such a file, by the reason.
        remarks: What else the person should know, by how many products it is about.

    Raises:
        UsageError: Nothing can be written there.
    """

    def __init__(self, out: Path) -> None:
        self._pending = [PendingFile(out)]
        self.kept: tuple[Path, ...] = ()
        self.left_out: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    @property
    def files(self) -> list[str]:
        """The files, the first as it was asked for."""
        return [str(one.path) for one in self._pending]

    def append(self, rows: Rows) -> None:
        """Append rows.

        Raises:
            RunError: The disk is full.
        """
        with self._pending[-1].explained():
            self.write(rows)

    @abstractmethod
    def write(self, rows: Rows) -> None:
        """As `append`, with the errors of the file system."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left; a second time nothing."""

    def publish(self) -> None:
        """Close the files and give them their names.

        Raises:
            RunError: The disk is full.
        """
        with self._pending[-1].explained():
            self.close()
        for one in self._pending:
            one.publish()

    def discard(self) -> None:
        """Remove what has no name yet."""
        with contextlib.suppress(OSError):
            self.close()
        for one in self._pending:
            one.discard()


def our_names(own: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Return names for our columns that the catalog does not have, in any case.

    >>> our_names(["id", "Tags"], ["tags", "colors"])
    ['tagger_tags', 'colors']
    """
    used = {name.casefold() for name in own}
    found = []
    for name in ours:
        free = name if name not in used else free_name(f"tagger_{name}", used)
        used.add(free)
        found.append(free)
    return found


class ParquetOutput(Output):
    """Parquet, with the catalog's types and lists of structs for ours.

    Args:
        out: The file.
        table: The catalog.
        ours: Our columns.
        roles: Which of its columns is what; noted in the file, for those who read it.
    """

    def __init__(self, out: Path, table: CatalogTable, ours: pa.Schema, roles: Roles) -> None:
        super().__init__(out)
        own = [pa.field(name, kind) for name, kind in zip(table.names, table.types, strict=True)]
        names = our_names(table.names, ours.names)
        taken = {"id": roles.id, "category": roles.category, "title": roles.title}
        noted = {role: table.names[column] for role, column in taken.items() if column is not None}
        self._schema = pa.schema(
            [*own, *(pa.field(n, f.type) for n, f in zip(names, ours, strict=True))],
            metadata={ROLES_KEY: json.dumps(noted)},
        )
        self._writer = pq.ParquetWriter(self._pending[0].part, self._schema, compression="zstd")
        self._held: list[pa.RecordBatch] = []

    def write(self, rows: Rows) -> None:
        """See `Output`."""
        arrays = [*rows.own.columns, *rows.ours.values()]
        self._held.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        held, size = sum(map(len, self._held)), sum(one.nbytes for one in self._held)
        if held >= _GROUP_ROWS or size >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """See `Output`."""
        if self._writer.is_open:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema))
            self._held = []


class CsvOutput(Output):
    """CSV: cells apart and lines ended as in the catalog, or by comma and LF.

    The text is UTF-8; with a byte order mark, which Excel needs, where the catalog had one, was in another
    encoding, or was a workbook. Cells of a CSV catalog come back as they were. Others that a spreadsheet
    would run as a formula, and were none so far, get an apostrophe in front.

    Args:
        out: The file.
        table: The catalog.
        ours: Our columns.
        delimiter: Between cells; that of the catalog by default.
    """

    def __init__(
        self, out: Path, table: CatalogTable, ours: pa.Schema, *, delimiter: str | None = None
    ) -> None:
        super().__init__(out)
        self._is_text = isinstance(table, DelimitedTable)
        line_end, with_mark, says_delimiter = "\n", table.format == "xlsx", False
        if isinstance(table, DelimitedTable):
            line_end = table.dialect.line_end
            delimiter = delimiter or table.dialect.delimiter
            with_mark = table.dialect.has_bom or table.dialect.encoding != "utf-8"
            says_delimiter = table.dialect.says_delimiter
        encoding = "utf-8-sig" if with_mark else "utf-8"
        self._file = self._pending[0].part.open("w", encoding=encoding, newline="")
        delimiter = delimiter or ","
        if says_delimiter:
            self._file.write(f"sep={delimiter}{line_end}")
        self._csv = csv_writer(self._file, delimiter=delimiter, line_end=line_end)
        own = table.header if self._is_text else [harmless_cell(name) for name in table.header]
        self._csv.writerow([*own, *our_names(table.header, ours.names)])

    def write(self, rows: Rows) -> None:
        """See `Output`."""
        own = [values_of(column) for column in rows.own.columns]
        if not self._is_text:
            own = [[_cell(value) for value in column] for column in own]
        ours = [_harmless(as_text(name, column)).to_pylist() for name, column in rows.ours.items()]
        self._csv.writerows(zip(*own, *ours, strict=True))

    def close(self) -> None:
        """See `Output`."""
        self._file.close()


class JsonLinesOutput(Output):
    """JSON Lines. Objects of a JSON Lines catalog come back as they were written, with our fields behind.

    Args:
        out: The file.
        table: The catalog.
        ours: Our columns.
    """

    def __init__(self, out: Path, table: CatalogTable, ours: pa.Schema) -> None:
        super().__init__(out)
        self._file = self._pending[0].part.open("wb")
        own = table.header if isinstance(table, JsonLinesTable) else table.names
        self._names = our_names(own, ours.names)
        self._lines = table.lines() if isinstance(table, JsonLinesTable) else None
        self._is_sheet = table.format == "xlsx"

    def write(self, rows: Rows) -> None:
        """See `Output`."""
        columns = [column.to_pylist() for column in rows.ours.values()]
        ours = (orjson.dumps(dict(zip(self._names, row, strict=True))) for row in zip(*columns, strict=True))
        if self._lines is None:
            values = (self._own(column) for column in rows.own.columns)
            own = (dict(zip(rows.own.schema.names, row, strict=True)) for row in zip(*values, strict=True))
            lines = (orjson.dumps(row, default=_json) for row in own)
        else:
            lines = (line for line, _ in islice(self._lines, len(rows.own)))
        for line, more in zip(lines, ours, strict=True):
            start = line.rstrip()[:-1].rstrip()  # without the brace
            self._file.write(start + (b"" if start == b"{" else b",") + more[1:] + b"\n")

    def _own(self, column: pa.Array) -> list[Any]:
        values = values_of(column)
        return list(map(whole, values)) if self._is_sheet else values

    def close(self) -> None:
        """See `Output`."""
        self._file.close()


def as_text(name: str, column: pa.Array) -> pa.Array:
    """Return one of our columns as text for people: what lists hold, one behind the other."""
    if not pa.types.is_list(column.type):
        return pc.fill_null(column.cast(pa.string()), "")
    values = column.flatten()
    if pa.types.is_struct(values.type):
        values = _flag_texts(values) if name == "quality_flags" else values.field(0)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    lists = pa.ListArray.from_arrays(offsets, values.cast(pa.string()))
    return pc.fill_null(pc.binary_join(lists, BETWEEN), "")


def _flag_texts(flags: pa.StructArray) -> pa.Array:
    """Return `blurred: sharpness 12 [cat.jpg]` and the like."""
    flag, image, detail = (flags.field(name) for name in ("flag", "image", "detail"))
    detail = pc.if_else(pc.is_valid(detail), pc.binary_join_element_wise(": ", detail, ""), "")
    name = pc.replace_substring_regex(image, pattern=r"^.*/", replacement="")
    name = pc.if_else(pc.is_valid(name), pc.binary_join_element_wise(" [", name, "]", ""), "")
    return pc.binary_join_element_wise(flag, detail, name, "")


def _harmless(texts: pa.Array) -> pa.Array:
    risky = pc.match_substring_regex(texts, pattern=_FORMULA)
    return pc.if_else(risky, pc.binary_join_element_wise("'", texts, ""), texts) if pc.any(risky) else texts


def _cell(value: Any) -> Any:
    """Return a value as a spreadsheet has it; numbers and dates are no formulas."""
    if value is None:
        return ""
    if isinstance(value, str):
        return harmless_cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=_json)
    return whole(value) if isinstance(value, int | float) else str(value)


def _json(value: Any) -> str:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
