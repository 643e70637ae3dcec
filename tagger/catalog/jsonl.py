"""Catalogs as JSON Lines."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa

from tagger.catalog.table import BATCH_ROWS, EXACT, CatalogTable, cannot_open
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO


_MOST_INT: Final = 2**63


class JsonLinesTable(CatalogTable):
    """A file of JSON objects, one a line; may be gzipped.

    Text, truth values, whole numbers and numbers are columns of such a type; whatever else, or is mixed, is a
    column of text, in which what is no text is written as JSON.

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
        try:
            yield from self._records()
        except (EOFError, zlib.error):
            raise UsageError(f"the catalog {self.path} is damaged: it is no whole gzip file") from None

    def _records(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        with self.path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with cast("BinaryIO", gzip.open(self.path, "rb")) if is_gzip else self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.strip().removeprefix(b"\xef\xbb\xbf")
                if not text:
                    continue
                try:
                    record = json.loads(text)  # which, unlike faster ones, keeps every digit of a long number
                    if b"\\ud" in text.lower():  # halves of characters, which no text can hold
                        record = json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))
                except (ValueError, RecursionError) as error:
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
            values = [
                one if one is None or isinstance(one, str) else json.dumps(one, ensure_ascii=False)
                for one in values
            ]
        return pa.array(values, self.types[n])


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return "whole" if -EXACT <= value <= EXACT else "long" if -_MOST_INT <= value < _MOST_INT else "huge"
    # What is too large for a float, or said to be infinite, stays text.
    return "number" if isinstance(value, float) and not math.isinf(value) else "nested"


def _type_of(kinds: set[str]) -> pa.DataType:
    if kinds == {"truth"}:
        return pa.bool_()
    if kinds and kinds <= {"whole", "long"}:
        return pa.int64()
    if kinds and kinds <= {"whole", "number"}:
        return pa.float64()
    return pa.string()
