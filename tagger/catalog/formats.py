"""The formats of an enriched catalog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tagger.catalog.google import GoogleOutput, check_google
from tagger.catalog.shopify import check_shopify, is_further, open_shopify
from tagger.catalog.writing import CsvOutput, JsonLinesOutput, ParquetOutput
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from tagger.catalog.roles import Roles
    from tagger.catalog.table import CatalogTable
from tagger.catalog.writing import Output


def _accept(table: CatalogTable, roles: Roles) -> None:
    """Any catalog will do."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        open: Makes the writer, of the file, the catalog, its columns and ours.
        check: Raises for a catalog that cannot be written so.
        with_names: Whether the writer needs `ROW_PICTURES`, `PRODUCT_PICTURES` and titles.
        is_further: Tells whether the second path can be a further file of the first.
    """

    open: Callable[[Path, CatalogTable, Roles, pa.Schema], Output]
    check: Callable[[CatalogTable, Roles], None] = _accept
    with_names: bool = False
    is_further: Callable[[Path, Path], bool] = lambda _, __: False


FORMATS: Final = {
    "parquet": Format(lambda path, table, roles, ours: ParquetOutput(path, table, ours, roles)),
    "csv": Format(lambda path, table, _, ours: CsvOutput(path, table, ours)),
    "jsonl": Format(lambda path, table, _, ours: JsonLinesOutput(path, table, ours)),
    "google-merchant": Format(lambda out, _, roles, __: GoogleOutput(out, roles), check_google),
    "shopify": Format(open_shopify, check_shopify, with_names=True, is_further=is_further),
}
_TSV: Final = Format(lambda path, table, _, ours: CsvOutput(path, table, ours, delimiter="\t"))

_ENDINGS: Final = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FIT: Final[dict[str, tuple[str, ...]]] = {
    ".parquet": ("parquet",),
    ".csv": ("csv", "shopify"),
    ".tsv": ("csv", "google-merchant"),
    **dict.fromkeys((".jsonl", ".ndjson"), ("jsonl",)),
    **dict.fromkeys((".gz", ".zip", ".zst", ".bz2", ".xlsx", ".xls", ".ods", ".xml"), ()),
}
"""What a file of an ending can be; other endings say nothing."""


def find_format(out: Path, name: str | None) -> Format:
    """Return the format of a file.

    Raises:
        UsageError: There is none of that name, or none of that ending.
    """
    ending = out.suffix.lower()
    if name is None:
        name = _ENDINGS.get(ending)
        if name is None:
            raise UsageError(
                f"the ending of {str(out)!r} tells no format: use .parquet, .csv, .tsv or .jsonl, or name "
                f"one with --format: {', '.join(FORMATS)}"
            )
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}: use one of {', '.join(FORMATS)}")
    if name not in _FIT.get(ending, (name,)):
        raise UsageError(f"{str(out)!r} would not be what its ending says: it is {name}, name it so")
    return _TSV if (name, ending) == ("csv", ".tsv") else FORMATS[name]
