"""Opens a catalog, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tagger.catalog.delimited import DelimitedTable
from tagger.catalog.jsonl import JsonLinesTable
from tagger.catalog.parquet import ParquetTable
from tagger.catalog.table import cannot_open
from tagger.catalog.workbook import SheetTable
from tagger.errors import UsageError

if TYPE_CHECKING:
    from tagger.catalog.table import CatalogTable

_SHEETS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # a ZIP file, and the container of before 2007
_LINES: Final = (".jsonl", ".ndjson", ".json")


def open_catalog(
    path: str | Path, *, encoding: str | None = None, delimiter: str | None = None, sheet: str | None = None
) -> CatalogTable:
    r"""Open a catalog to be read. What it is, is told by its first bytes, and only JSON Lines by its name.

    Args:
        path: CSV, TSV or other text with delimiters, JSON Lines (both may be gzipped), Parquet or XLSX.
        encoding: Of the text, if it is known.
        delimiter: Between cells of text, if it is known; `\t` is a tab.
        sheet: Which sheet of a workbook; the first by default.

    Raises:
        UsageError: It cannot be opened, is damaged, or an option does not fit what it is.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UsageError(f"the catalog {path} is no file that can be read twice: write it to one first")
        with path.open("rb") as file:
            begins = file.read(4)
    except ValueError as error:
        raise UsageError(f"the catalog {str(path)!r} has a name that no file has: {error}") from None
    except OSError as error:
        raise cannot_open(path, error) from None
    if begins == b"PAR1":
        _refuse("Parquet file", path, encoding=encoding, delimiter=delimiter, sheet=sheet)
        return ParquetTable(path)
    if begins in _SHEETS:
        _refuse("workbook", path, encoding=encoding, delimiter=delimiter)
        return SheetTable(path, sheet=sheet)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_LINES):
        _refuse("JSON Lines file", path, encoding=encoding, delimiter=delimiter, sheet=sheet)
        return JsonLinesTable(path)
    _refuse("text file", path, sheet=sheet)
    return DelimitedTable(path, encoding=encoding, delimiter="\t" if delimiter == "\\t" else delimiter)


def _refuse(what: str, path: Path, **options: str | None) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"--{name} means nothing for the catalog {path}, which is a {what}: leave it out"
            )
