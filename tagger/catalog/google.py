"""A supplemental feed for Google Merchant Center.

It adds to products that a shop's primary feed has already. The rules are those of Google's product data
specification, read 2026-11-25; docs/marketing.md cites them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tagger.catalog.feeds import plain, products_of, sure_tags
from tagger.catalog.table import cell_text, values_of
from tagger.catalog.writing import Output
from tagger.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tagger.catalog.roles import Roles
    from tagger.catalog.table import CatalogTable
    from tagger.catalog.writing import Rows

HEADER: Final = ("id", "product_type", "custom_label_0", "custom_label_1", "custom_label_2", "custom_label_3")
"""Labels: the best tag, the widest category, the main colour, and whether the pictures are good enough."""

MOST_ID: Final = 50
MOST_TYPE: Final = 750
MOST_LABEL: Final = 100
MOST_LABELS: Final = 1000
"""Different values that a custom label may have."""

_BAD_PICTURES: Final = {
    "image_failed": "unreadable",
    "blurred": "blurred",
    "too_small": "too small",
    "too_dark": "too dark",
    "image_missing": "missing",
    "duplicate_of": "same as another product",
}
GOOD: Final = "pictures ok"


def check_google(table: CatalogTable, roles: Roles) -> None:
    """Raise for a catalog without product ids.

    Raises:
        UsageError: It has none.
    """
    if roles.id is None:
        raise UsageError(
            f"a feed for Google Merchant Center needs the ids of the products, and no column of {table.path} "
            "seems to have them: say which with --id-column"
        )


class GoogleOutput(Output):
    """Text with tabs, in UTF-8, with one line for every product that has a picture.

    The colour is a label and not Google's `color`: it is of the whole picture, background included.

    Args:
        out: The file.
        roles: Columns of the catalog.
    """

    def __init__(self, out: Path, roles: Roles) -> None:
        super().__init__(out)
        assert roles.id is not None
        self._id = roles.id
        self._labels: list[set[str]] = [set() for _ in range(4)]
        self._file = self._pending[0].part.open("w", encoding="utf-8", newline="")
        self._line(HEADER)

    def write(self, rows: Rows) -> None:
        """See `Output`."""
        ids = values_of(rows.own.column(self._id))
        for row, said in products_of(rows):
            name = cell_text(ids[row])
            reason = self._reason(name, said)
            if reason is not None:
                self.left_out[reason] += 1
                continue
            own = rows.category[row].as_py() or ""
            kind = said["category_suggestion"] if said["category_source"] != "tags" else own
            labels = [self._label(n, text) for n, text in enumerate(_labels(said))]
            self._line((name, _product_type(kind or own), *labels))

    def close(self) -> None:
        """See `Output`."""
        self._file.close()

    def _line(self, cells: tuple[str, ...]) -> None:
        self._file.write("\t".join(cells) + "\n")

    def _reason(self, name: str, said: dict[str, Any]) -> str | None:
        if said["tags"] is None:
            return "no picture"
        if not name:
            return "no id"
        if len(name) > MOST_ID:
            return f"id longer than {MOST_ID} characters"
        if not name.isprintable() or '"' in name:
            return "id with control characters or quotes"
        return None

    def _label(self, n: int, text: str) -> str:
        text = plain(_without_quotes(text), MOST_LABEL)
        if text and (text in self._labels[n] or len(self._labels[n]) < MOST_LABELS):
            self._labels[n].add(text)
            return text
        return ""


def _labels(said: dict[str, Any]) -> tuple[str, ...]:
    tags, categories, colors = sure_tags(said), said["categories"] or (), said["colors"] or ()
    flags = {one["flag"] for one in said["quality_flags"]}
    bad = [text for flag, text in _BAD_PICTURES.items() if flag in flags]
    return (
        tags[0] if tags else "",
        categories[0]["tag"] if categories else "",
        colors[0]["name"] if colors else "",
        ", ".join(bad) or GOOD,
    )


def _product_type(path: str) -> str:
    """Return a category as Google has it.

    >>> _product_type("Home>Mugs> Big >")
    'Home > Mugs > Big'
    """
    levels = map(str.strip, _without_quotes(path).split(">"))
    return plain(" > ".join(filter(None, levels)), MOST_TYPE).rstrip(" >")


def _without_quotes(text: str) -> str:
    return text.replace('"', "")
