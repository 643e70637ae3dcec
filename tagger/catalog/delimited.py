"""Catalogs as text with delimiters: CSV as spreadsheets, shops and databases write it.

Every column is text, so that what is in a cell comes back as it was: leading zeros, decimal commas, `=1+1`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import pyarrow as pa

from tagger.catalog.table import BATCH_ROWS, CatalogTable, cannot_open
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DELIMITERS: Final = (",", ";", "\t", "|")

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF_32: Final = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SEP: Final = re.compile(r"sep=([^\"\r\n])\s*", re.IGNORECASE)
_GZIP: Final = b"\x1f\x8b"
_MOST_CELL: Final = 1 << 28  # characters
_LOOK_BYTES: Final = 4096
_MOST_HEADER_LINES: Final = 1000
_STEP_ROWS: Final = 64
_BATCH_CHARACTERS: Final = 1 << 24
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the text was written.

    Attributes:
        encoding: Python's name of it.
        delimiter: Between cells.
        line_end: Behind the header; the file is written with it, too.
        says_delimiter: Whether its first line is `sep=;` or the like, which Excel understands.
    """

    encoding: str
    delimiter: str
    line_end: str
    says_delimiter: bool = False

    @property
    def has_bom(self) -> bool:
        """Whether it begins with a byte order mark."""
        return self.encoding in ("utf-8-sig", "utf-16")


class DelimitedTable(CatalogTable):
    """A CSV or TSV file.

    The encoding is that of the byte order mark; without one UTF-8, or where the file is not that,
    Windows-1252, the Latin alphabet of Western spreadsheets. The delimiter is the one of comma, semicolon,
    tab and bar that the header has most of. Rows may be shorter than the header; a longer one is an error,
    because a cell was not quoted and all behind it is shifted.

    Args:
        path: The file; may be gzipped.
        encoding: Of the text, if it is known.
        delimiter: Between cells, if it is known.

    Raises:
        UsageError: It cannot be opened, is empty, or is not text in that encoding.
    """

    format = "csv"

    def __init__(self, path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> None:
        self.path = path
        try:
            encoding = _encoding_of(path) if not encoding else _said_encoding(path, encoding)
            header, self.dialect = _header(path, encoding, delimiter)
        except LookupError:
            raise UsageError(
                f"there is no encoding {encoding!r}: utf-8, cp1252 and utf-16 are usual"
            ) from None
        except UnicodeError as error:
            raise UsageError(f"the catalog {path} is not {encoding}: {error}") from None
        except csv.Error as error:
            raise _damaged(path, 1, error) from None
        except (OSError, EOFError, zlib.error) as error:
            raise cannot_open(
                path, error if isinstance(error, OSError) else OSError("it is damaged")
            ) from None
        super().__init__(path, header, [pa.string()] * len(header))

    def describe(self) -> str:
        """Return how it was read."""
        name = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}.get(
            self.dialect.delimiter, repr(self.dialect.delimiter)
        )
        return f"{self.format}, {self.dialect.encoding.removesuffix('-sig')}, cells apart by {name}"

    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """See `CatalogTable`."""
        wanted = range(len(self.header)) if columns is None else columns
        try:
            with _opened(self.path, self.dialect) as text:
                records = self._records(_reader(text, self.dialect.delimiter))
                next(records)
                while rows := _some(records):
                    across = list(zip(*rows, strict=True))
                    yield self._batch([pa.array(across[n], pa.string()) for n in wanted], columns)
        except UnicodeError as error:
            raise UsageError(f"the catalog {self.path} is not {self.dialect.encoding}: {error}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise cannot_open(
                self.path, error if isinstance(error, OSError) else OSError("it is cut off")
            ) from None

    def _records(self, reader: Any) -> Iterator[list[str]]:
        """Yield the header and the rows, all as wide as it."""
        width = len(self.header)
        try:
            for row in reader:
                if len(row) != width:
                    self._fit(row, width, reader.line_num)
                yield row
        except csv.Error as error:
            raise _damaged(self.path, reader.line_num, error) from None

    def _fit(self, row: list[str], width: int, line: int) -> None:
        """Fill a short row up; of a long one, cells behind the header may only be empty."""
        if any(row[width:]):
            raise UsageError(
                f"a row of {self.path} that ends in line {line} has {len(row)} cells, and the header has "
                f"{width}: put cells that hold the delimiter into quotes, or name another --delimiter"
            )
        del row[width:]
        row += [""] * (width - len(row))


def _reader(text: io.TextIOBase, delimiter: str) -> Any:
    csv.field_size_limit(_MOST_CELL)
    # Strict: a quote that never ends would make one cell of all that follows.
    return csv.reader(text, delimiter=delimiter, strict=True)


def _some(records: Iterator[list[str]]) -> list[list[str]]:
    """Return the next rows: so many, or as long as they are short."""
    rows: list[list[str]] = []
    characters = 0
    while len(rows) < BATCH_ROWS and characters < _BATCH_CHARACTERS:
        more = list(islice(records, _STEP_ROWS))
        rows += more
        if len(more) < _STEP_ROWS:
            break
        characters += sum(len(cell) for row in more for cell in row)
    return rows


def _damaged(path: Path, line: int, error: csv.Error) -> UsageError:
    return UsageError(
        f"the catalog {path} is damaged at line {line}: {error}; a quote inside a cell must be doubled, and "
        "the cell be in quotes"
    )


def _header(path: Path, encoding: str, delimiter: str | None) -> tuple[list[str], Dialect]:
    with _text(path, encoding) as text:
        line = text.readline()
        told = _SEP.fullmatch(line)
        if told is not None:
            line = text.readline()
        # A header may have line ends in quotes; the one behind it is that of the file.
        for _ in range(_MOST_HEADER_LINES):
            if line.count('"') % 2 == 0 or not (more := text.readline()):
                break
            line += more
    line_end = "\r\n" if line.endswith("\r\n") else "\r" if line.endswith("\r") else "\n"
    if delimiter is None:
        outside = "".join(line.split('"')[::2])
        # Of equals the first: a lone column has none.
        delimiter = told[1] if told is not None else max(DELIMITERS, key=outside.count)
    elif len(delimiter) != 1 or delimiter in '"\r\n':
        raise UsageError(f"--delimiter must be one character, got {delimiter!r}")
    dialect = Dialect(encoding, delimiter, line_end, told is not None)
    with _opened(path, dialect) as text:
        header = next(_reader(text, delimiter), None)
    if not header:
        raise UsageError(f"the catalog {path} is empty: its first line must name its columns")
    return header, dialect


def _opened(path: Path, dialect: Dialect) -> io.TextIOWrapper:
    """Open a file where its header begins."""
    text = _text(path, dialect.encoding)
    if dialect.says_delimiter:
        text.readline()
    return text


def _said_encoding(path: Path, said: str) -> str:
    """Return the encoding that the user gave, in the spelling that says whether the file has its mark."""
    name = codecs.lookup(said).name
    with _bytes(path) as file:
        begins = file.read(4)
    if begins in _UTF_32 and name not in ("utf-32", "utf-32-le", "utf-32-be"):
        raise _utf_32(path)
    name = name.removesuffix("-sig")
    for mark, marked in _BOMS:
        if begins.startswith(mark) and name.startswith(marked.removesuffix("-sig")):
            return marked
    return name


def _utf_32(path: Path) -> UsageError:
    return UsageError(f"the catalog {path} is UTF-32, which few programs read: save it as UTF-8")


def _encoding_of(path: Path) -> str:
    with _bytes(path) as file:
        begins = file.read(4)
        if begins in _UTF_32:
            raise _utf_32(path)
        for mark, encoding in _BOMS:
            if begins.startswith(mark):
                return encoding
        begins += file.read(_LOOK_BYTES)
        if begins.count(0) > len(begins) // 4:  # Latin letters in 16 bits, without a mark
            return "utf-16-le" if begins[1::2].count(0) > begins[0::2].count(0) else "utf-16-be"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(begins)
            while part := file.read(_READ_BYTES):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeError:
            return _western(path)
    return "utf-8"


def _western(path: Path) -> str:
    """Return Windows-1252, or Latin-1 where a byte means nothing in that."""
    with _bytes(path) as file:
        while part := file.read(_READ_BYTES):
            if any(byte in part for byte in b"\x81\x8d\x8f\x90\x9d"):
                return "latin-1"
    return "cp1252"


def _bytes(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP
    return cast("BinaryIO", gzip.open(path, "rb")) if is_gzip else path.open("rb")


def _text(path: Path, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(_bytes(path), encoding=encoding, newline="")
