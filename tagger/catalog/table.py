"""A product catalog as a table: whatever file it is in, a stream of its own columns with their own types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tagger.errors import RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BATCH_ROWS: Final = 8192
EXACT: Final = 2**53
"""Whole numbers up to here are exact as floats."""


class CatalogTable(ABC):
    """A catalog that can be read more than once, always with the same rows in the same order.

    Columns are told apart by their position: a header may be empty, or name two columns alike.

    Attributes:
        path: Where it is.
        format: `csv`, `parquet`, `jsonl` or `xlsx`.
        header: The columns' names as the file has them.
        types: Their types.
        remarks: What of it is lost, with numbers.
    """

    format: str

    def __init__(self, path: Path, header: Sequence[str], types: Sequence[pa.DataType]) -> None:
        self.path = path
        self._facts = _facts(path)
        self.header = tuple(header)
        self.types = tuple(types)
        self.remarks: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names made different from each other, and none empty."""
        return unique_names(self.header)

    @abstractmethod
    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield rows, with these columns or all, named by `names`.

        Raises:
            UsageError: The file is damaged; says where.
        """

    def require_unchanged(self) -> None:
        """Raise if the file is not what it was when it was opened: its rows would get the wrong pictures.

        Raises:
            RunError: It was changed.
        """
        if _facts(self.path) != self._facts:
            raise RunError(
                f"the catalog {self.path} was changed while it was read: run the same command again"
            )

    def describe(self) -> str:
        """Return how it was read, for the person who wonders."""
        return self.format

    def _batch(self, arrays: Sequence[pa.Array], columns: Sequence[int] | None) -> pa.RecordBatch:
        wanted = range(len(self.header)) if columns is None else columns
        fields = [pa.field(self.names[column], self.types[column]) for column in wanted]
        return pa.RecordBatch.from_arrays(list(arrays), schema=pa.schema(fields))


def _facts(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def unique_names(header: Sequence[str]) -> tuple[str, ...]:
    """Return the names made different from each other, and none empty.

    >>> unique_names(["id", "Image", "Image", ""])
    ('id', 'Image', 'Image (2)', 'column 4')
    """
    used: set[str] = set(header)
    found: list[str] = []
    for position, given in enumerate(header, 1):
        name = given if given and given not in found else free_name(given or f"column {position}", used)
        used.add(name)
        found.append(name)
    return tuple(found)


def free_name(name: str, used: set[str]) -> str:
    """Return a name that is not among those used: with a number if need be."""
    free, number = name, 1
    while free in used:
        number += 1
        free = f"{name} ({number})"
    return free


def cell_text(value: Any) -> str:
    """Return a value as the text that people see; an id that a spreadsheet took for the number 7.0 is 7.

    >>> cell_text(7.0), cell_text(True), cell_text(b"a"), cell_text(None)
    ('7', 'true', 'a', '')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    return "" if value is None else str(whole(value)).strip()


def whole(value: Any) -> Any:
    """Return a value; of a number without a fraction, as spreadsheets have all of them, the integer."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < EXACT else value


def values_of(column: pa.Array) -> list[Any]:
    r"""Return a column's values; text where Python has nothing for one, such as a date after the year 9999.

    Bytes that are no text in UTF-8 are written as `\xff`, so that different ids stay different.
    """
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError, pa.ArrowException):  # also text that is not UTF-8
        values = [_value(one) for one in column]
    return values


def _value(one: Any) -> Any:
    try:
        return one.as_py()
    except (OverflowError, ValueError, pa.ArrowException):
        pass
    if isinstance(one, pa.DictionaryScalar | pa.ExtensionScalar):
        return _value(one.value)
    if isinstance(one, pa.StructScalar):
        return {name: _value(one[n]) for n, name in enumerate(one.type.names)}
    if isinstance(one, pa.ListScalar):
        return values_of(one.values)
    try:
        return one.cast(pa.binary()).as_py().decode(errors="backslashreplace")
    except pa.ArrowException:
        pass
    try:
        return one.cast(pa.string()).as_py()
    except (ValueError, pa.ArrowException):
        return repr(one)


def cannot_open(path: Path, error: OSError) -> UsageError:
    """Return the error of a catalog that cannot be opened."""
    return UsageError(
        f"the catalog {path} cannot be opened ({error.strerror or error}): give the path of a CSV, TSV, "
        "Parquet, JSON Lines or XLSX file"
    )
