"""A product CSV for Shopify: a shop's own export with tags and alternative texts added, or new products.

The rules are those of Shopify's help center on product CSV files, read 2026-11-25; docs/marketing.md cites
them.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tagger.catalog.feeds import plain, products_of, words
from tagger.catalog.table import cell_text, values_of
from tagger.catalog.writing import PRODUCT_PICTURES, ROW_PICTURES, Output
from tagger.errors import UsageError
from tagger.outfile import PendingFile
from tagger.spreadsheet import csv_writer

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from tagger.catalog.roles import Roles
    from tagger.catalog.table import CatalogTable
    from tagger.catalog.writing import Rows

HEADER: Final = ("Handle", "Title", "Tags", "Image Src", "Image Position", "Image Alt Text")
MOST_TAGS: Final = 250
MOST_TAG: Final = 255
MOST_ALT: Final = 512
MOST_HANDLE: Final = 255
MOST_TITLE: Final = 255
MOST_BYTES: Final = 15_000_000
"""Shopify takes files of up to 15 MB; more products go into further files."""

# Names of the columns, in the words of before and since 2025. A file has the ones or the others.
_HANDLE: Final = ("Handle", "URL handle")
_TITLE: Final = ("Title",)
_TAGS: Final = ("Tags",)
_SOURCE: Final = ("Image Src", "Product image URL")
_ALT: Final = ("Image Alt Text", "Image alt text")
_LINK: Final = re.compile(r"https?://[^\s/?#:]", re.IGNORECASE)
_NO_SIGN: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")  # which no address holds but as %20 and the like
_SLUG: Final = re.compile(r"[^a-z0-9]+")


def is_export(table: CatalogTable) -> bool:
    """Tell whether a catalog is a file that Shopify exported: it has handle and title by its names."""
    return _column(table, _HANDLE) is not None and _column(table, _TITLE) is not None


def check_shopify(table: CatalogTable, roles: Roles) -> None:
    """Raise for a catalog that has not what Shopify asks for.

    Raises:
        UsageError: It has no ids or no titles.
    """
    if is_export(table):
        return
    for what, column, option in (("ids", roles.id, "--id-column"), ("titles", roles.title, "--title-column")):
        if column is None:
            raise UsageError(
                f"a file for Shopify needs the {what} of the products, and no column of {table.path} seems "
                f"to have them: say which with {option}, or give a product export of Shopify"
            )


def open_shopify(out: Path, table: CatalogTable, roles: Roles, ours: pa.Schema) -> Output:
    """Return what writes a file for Shopify."""
    del ours
    return ExportOutput(out, table) if is_export(table) else ProductsOutput(out, roles)


def is_further(out: Path, path: Path) -> bool:
    """Tell whether a path has a name that a further file of `out` may get."""
    name = rf"{re.escape(out.stem)}-\d+{re.escape(out.suffix)}"
    places = (path, path.resolve())
    return any(
        one.parent.resolve() == out.parent.resolve() and re.fullmatch(name, one.name) for one in places
    )


class _ShopifyOutput(Output):
    """CSV in UTF-8 in files that are small enough, with all rows of a product in one."""

    def __init__(self, out: Path, header: tuple[str, ...]) -> None:
        super().__init__(out)
        self._header = header
        self._open()

    def close(self) -> None:
        """See `Output`."""
        self._file.close()

    def _put(self, rows: list[list[Any]], *, new_product: bool) -> None:
        """Write rows of one product, into a new file where the old one has become too large."""
        text = io.StringIO(newline="")
        csv_writer(text).writerows(rows)
        data = text.getvalue().encode()
        if new_product and self._bytes + len(data) > MOST_BYTES and self._bytes > self._empty:
            self._file.close()
            self._pending.append(self._further())
            self._open()
        self._file.write(data)
        self._bytes += len(data)

    def _further(self) -> PendingFile:
        """Return the next file; one that is there is replaced only if it is one of an earlier run.

        Raises:
            UsageError: It is anything else.
        """
        first, further = self._pending[0].path, self._named(len(self._pending) + 1)
        target, why = further.resolve(), None
        if any(target == one.resolve() for one in self.kept):
            why = "which is read or written, too: name another --out"
        elif further.is_file() and not (self._is_ours(first) and self._is_ours(further)):
            why = "which is there and is not of an earlier run: move it away, or name another --out"
        if why is not None:
            raise UsageError(f"{first} needs a further file {further}, {why}")
        return PendingFile(further)

    def _is_ours(self, path: Path) -> bool:
        """Tell whether a file begins as this one does."""
        line = _line(self._header)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(line)) == line

    def _named(self, number: int) -> Path:
        first = self._pending[0].path
        return first.with_name(f"{first.stem}-{number}{first.suffix}")

    def publish(self) -> None:
        """See `Output`."""
        super().publish()
        stale = self._named(len(self._pending) + 1)
        if stale.exists():
            self.remarks[f"further file, {stale.name}, is there from before: do not upload it"] = 1

    def _open(self) -> None:
        self._file = self._pending[-1].part.open("wb")
        self._bytes = self._empty = self._file.write(_line(self._header))


class ExportOutput(_ShopifyOutput):
    """An export of Shopify with all of its rows and columns, as they were but for two.

    Tags gets those that the product has not yet; alternative texts are put where a row has a picture and
    none. Importing it changes nothing else, not even variants, which a file without their columns would
    remove.

    Args:
        out: The file.
        table: The export.
    """

    def __init__(self, out: Path, table: CatalogTable) -> None:
        header = list(table.header)
        self._tags, self._alt = _column(table, _TAGS), _column(table, _ALT)
        new = "URL handle" in header
        for missing, name in ((self._tags, _TAGS[0]), (self._alt, _ALT[new])):
            if missing is None:
                header.append(name)
        self._source = _column(table, _SOURCE)
        super().__init__(out, tuple(header))

    def write(self, rows: Rows) -> None:
        """See `Output`."""
        own = [list(row) for row in zip(*(_texts(column) for column in rows.own.columns), strict=True)]
        first = dict(products_of(rows))
        pictures = rows.ours[ROW_PICTURES].to_pylist()
        for n, row in enumerate(own):
            tags = row[self._tags] if self._tags is not None else ""
            if n in first:
                tags = _joined(tags, words(first[n]))
            alt = row[self._alt] if self._alt is not None else ""
            if not alt and self._source is not None:
                named = (one["alt"] for one in pictures[n] if one["name"] == row[self._source].strip())
                alt = plain(next(named, ""), MOST_ALT)
            _set(row, self._tags, tags)
            _set(row, self._alt, alt)
            self._put([row], new_product=bool(rows.is_first[n]))


class ProductsOutput(_ShopifyOutput):
    """Products of any other catalog: handle, title, tags, pictures, one row for each picture.

    A picture is named where the catalog names it by a web address, from which Shopify can fetch it.

    Args:
        out: The file.
        roles: Columns of the catalog.
    """

    def __init__(self, out: Path, roles: Roles) -> None:
        assert roles.id is not None
        self._id = roles.id
        self._handles: set[str] = set()
        super().__init__(out, HEADER)

    def write(self, rows: Rows) -> None:
        """See `Output`."""
        ids = values_of(rows.own.column(self._id))
        assert rows.title is not None
        for n, said in products_of(rows):
            title = plain(rows.title[n].as_py() or "", MOST_TITLE)
            handle = handle_of(cell_text(ids[n]))
            reason = self._reason(handle, title, said)
            if reason is not None:
                self.left_out[reason] += 1
                continue
            self._handles.add(handle)
            if not _links(said):
                self.remarks["in the file without pictures: the catalog has no web address of them"] += 1
            lines: list[list[Any]] = [[handle, title, _joined("", words(said)), "", "", ""]]
            for position, (link, alt) in enumerate(_links(said), 1):
                if position > 1:
                    lines.append([handle, "", "", "", "", ""])
                lines[-1][3:] = [link, position, plain(alt, MOST_ALT)]
            self._put(lines, new_product=True)

    def _reason(self, handle: str, title: str, said: dict[str, Any]) -> str | None:
        if said["tags"] is None:
            return "no picture"
        if not handle:
            return "no id that a handle can be made of"
        if handle in self._handles:
            return "handle of another product"
        return None if title else "no title"


def handle_of(name: str) -> str:
    """Return a handle for a product id: small letters, digits and single hyphens.

    >>> handle_of("SKU 0007/b")
    'sku-0007-b'
    """
    return _SLUG.sub("-", name.lower()).strip("-")[:MOST_HANDLE].strip("-")


def _links(said: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the web addresses of a product's pictures, each once, and their alternative texts."""
    pictures = {one["name"]: one["alt"] for one in said[PRODUCT_PICTURES] if _LINK.match(one["name"])}
    return [(_NO_SIGN.sub(lambda sign: quote(sign[0]), name), alt) for name, alt in pictures.items()]


def _joined(tags: str, more: list[str]) -> str:
    """Return the tags of a cell with those that are not among them."""
    known = [tag.strip() for tag in tags.split(",") if tag.strip()]
    have = {tag.casefold() for tag in known}
    fresh = [plain(word.replace(",", " "), MOST_TAG) for word in more]
    added = [word for word in dict.fromkeys(fresh) if word and word.casefold() not in have]
    added = added[: max(0, MOST_TAGS - len(known))]
    return tags if not added else ", ".join([*known, *added])


def _column(table: CatalogTable, names: tuple[str, ...]) -> int | None:
    plain_names = [name.strip().casefold() for name in table.header]
    return next(
        (plain_names.index(name.casefold()) for name in names if name.casefold() in plain_names), None
    )


def _texts(column: pa.Array) -> list[str]:
    return [value if isinstance(value, str) else cell_text(value) for value in values_of(column)]


def _line(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO(newline="")
    csv_writer(text).writerow(cells)
    return text.getvalue().encode()


def _set(row: list[Any], column: int | None, text: str) -> None:
    if column is None:
        row.append(text)
    else:
        row[column] = text
