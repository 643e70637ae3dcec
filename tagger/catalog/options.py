"""How a catalog is read, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tagger.catalog.flags import FlagRules
from tagger.catalog.similar import Rules
from tagger.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MOST_SIMILAR: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichOptions:
    """How a catalog is read and what is made of it.

    Attributes:
        k: Similar products of each, at most 100.
        similar: Which products may be similar ones.
        flags: When a picture is flagged.
        events: What customers did, for `recommended_with`: CSV or Parquet with user_id, product_id or
            image_id, event, timestamp; see `tagger.search.events.Events`.
        taxonomy: Taxonomy file of the shop's own categories; see docs/taxonomy.md.
        id_column, image_columns, category_column, title_column, stock_column: Names of columns; found by
            their usual names if not given.
        separator: Between the images of one cell, if it is known.
        encoding, delimiter: Of a text file, if they are known.
        sheet: Of a workbook; the first by default.
    """

    k: int = 10
    similar: Rules = Rules()  # noqa: RUF009 - frozen
    flags: FlagRules = FlagRules()  # noqa: RUF009 - frozen
    events: str | Path | None = None
    taxonomy: str | Path | None = None
    id_column: str | None = None
    image_columns: tuple[str, ...] = ()
    category_column: str | None = None
    title_column: str | None = None
    stock_column: str | None = None
    separator: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST_SIMILAR:
            raise UsageError(f"k must be from 1 to {MOST_SIMILAR}, got {self.k}")
        if self.separator == "":
            raise UsageError("the separator between images must be at least one character")
