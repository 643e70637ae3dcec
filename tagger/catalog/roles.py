"""Which column of a catalog is what: found by its name, or said by the user."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order of preference. Names are compared without case, spaces and signs: «Image Src» is imagesrc.
# Those of feeds and shops come from the specifications named in docs/marketing.md.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "id": (
        *(
            "handle",
            "urlhandle",
            "productid",
            "id",
            "sku",
            "itemid",
            "articleid",
            "articlenumber",
            "productnumber",
        ),
        *("variantsku", "artikelnummer", "artikelnr", "artikelid"),
        *(
            "produktid",
            "produktnummer",
            "itemno",
            "itemnumber",
            "skuid",
            "nr",
            "partnumber",
            "mpn",
            "gtin",
            "ean",
        ),
    ),
    "image": (
        *("imageid", "imageids", "images", "image", "imagelink", "imagesrc", "imageurl", "imageurls"),
        *("productimageurl", "productimage", "imageuri", "imagefile", "imagefiles", "imagename", "filename"),
        *("picture", "pictures", "photo", "photos", "mainimage", "file", "uri", "bild", "bilder"),
        *("baseimage", "bilddatei", "bilddateien"),
        *("produktbild", "bildname", "bildurl", "bildlink", "foto", "fotos"),
    ),
    "more images": (
        "additionalimagelink",
        "additionalimages",
        "moreimages",
        "variantimage",
        "variantimageurl",
    ),
    "category": (
        # WooCommerce and Magento have categories, and types of which a product is simple or variable.
        *("category", "productcategory", "categories", "producttype", "categoryname"),
        *("googleproductcategory", "kategorie", "kategorien", "department", "warengruppe"),
        *("produktkategorie", "produktgruppe", "rubrik", "type"),
    ),
    "title": (
        *("title", "producttitle", "name", "productname", "titel", "producttitel", "produkttitel"),
        *("produktname", "artikelname", "artikelbezeichnung", "bezeichnung"),
    ),
    "stock": (
        "instock",
        "isinstock",
        "availability",
        "available",
        "stock",
        *(
            "inventoryquantity",
            "variantinventoryqty",
            "quantity",
            "qty",
            "verfügbarkeit",
            "verfuegbarkeit",
            "verfügbar",
        ),
        *("bestand", "lagerbestand", "lager", "auflager", "vorrätig", "menge"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Columns by what they are, as positions in the header.

    Attributes:
        id: Names the product; None where each row is a product of its own.
        images: Name its images.
        category: Its category in the shop's words.
        title: Its title.
        stock: Whether it can be bought.
    """

    id: int | None
    images: tuple[int, ...]
    category: int | None
    title: int | None
    stock: int | None

    def describe(self, header: Sequence[str]) -> str:
        """Return which column is what."""
        parts = [
            f"{what} in {', '.join(header[n] or f'column {n + 1}' for n in columns)}"
            for what, columns in (
                ("product ids", _some(self.id)),
                ("images", self.images),
                ("categories", _some(self.category)),
                ("titles", _some(self.title)),
                ("stock", _some(self.stock)),
            )
            if columns
        ]
        missing = [
            what
            for what, column in (
                ("product ids (rows are numbered)", self.id),
                ("categories", self.category),
                ("titles", self.title),
                ("stock", self.stock),
            )
            if column is None
        ]
        return "; ".join(parts) + (f"; not found: {', '.join(missing)}" if missing else "")


def find_roles(
    header: Sequence[str],
    *,
    where: str,
    id: str | None = None,  # noqa: A002 - the word of the catalog
    images: Sequence[str] = (),
    category: str | None = None,
    title: str | None = None,
    stock: str | None = None,
) -> Roles:
    """Find the columns of a catalog.

    Args:
        header: Names of its columns.
        where: What the catalog is called in messages.
        id: Name that the user gave to this column, as for the others.
        images: Names.
        category: Name.
        title: Name.
        stock: Name.

    Raises:
        UsageError: A given column is not there, or is there twice; or no column names images.
    """
    plain = [_plain(name) for name in header]
    if "categorysuggestion" in plain:  # an earlier enrichment: its categories are not the shop's
        plain = ["" if name == "categories" else name for name in plain]

    def given_or_found(given: str | None, option: str, role: str) -> int | None:
        if given is not None:
            return _position(header, given, option, where)
        return next((plain.index(name) for name in _NAMES[role] if name in plain), None)

    found_id = given_or_found(id, "--id-column", "id")
    if images:
        columns = tuple(_position(header, name, "--image-column", where) for name in images)
        if len(set(columns)) < len(columns):
            raise UsageError(f"--image-column names a column of {where} twice: name each once")
    else:
        best = next((name for name in _NAMES["image"] if name in plain), None)
        first = [n for n, name in enumerate(plain) if name == best]
        more = [n for n, name in enumerate(plain) if name in _NAMES["more images"]]
        numbered = [
            n
            for n, name in enumerate(plain)
            if re.fullmatch(r"(image|bild|photo|picture)(url|link|src)?\d+", name)
        ]
        columns = tuple(dict.fromkeys([*first, *numbered, *more]))
    if not columns:
        raise UsageError(
            f"no column of {where} seems to name images: say which with --image-column. It has "
            f"{', '.join(repr(name) for name in header[:30])}"
        )
    if found_id in columns and id is None:
        found_id = None
    return Roles(
        id=found_id,
        images=columns,
        category=given_or_found(category, "--category-column", "category"),
        title=given_or_found(title, "--title-column", "title"),
        stock=given_or_found(stock, "--stock-column", "stock"),
    )


def _position(header: Sequence[str], name: str, option: str, where: str) -> int:
    places = [n for n, one in enumerate(header) if one == name]
    if not places:
        places = [n for n, one in enumerate(header) if _plain(one) == _plain(name)]
    if not places:
        raise UsageError(
            f"{option}: {where} has no column {name!r}; it has {', '.join(repr(one) for one in header[:30])}"
        )
    if len(places) > 1:
        raise UsageError(f"{option}: {where} has {len(places)} columns {name!r}: name them apart")
    return places[0]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _some(column: int | None) -> tuple[int, ...]:
    return () if column is None else (column,)


# Compared without case, blanks, hyphens and what `_NOW` stands for.
_NO: Final = frozenset(
    (
        *("", "n/a", "false", "no", "n", "none", "null", "nan", "inactive", "outofstock", "soldout"),
        *("unavailable", "discontinued", "notavailable", "notinstock", "nostock"),
        *("nein", "falsch", "leer", "ausverkauft", "vergriffen", "nichtvorrätig", "nichtlieferbar"),
        *("nichtverfügbar", "nichtauflager", "nichtamlager", "inaktiv"),
        *("non", "rupture", "rupturedestock", "enrupturedestock", "épuisé", "indisponible"),
        *("agotado", "sinstock", "sinexistencias", "nodisponible", "esaurito", "nondisponibile"),
        *("nee", "uitverkocht", "nietopvoorraad", "nietbeschikbaar", "esgotado", "indisponível"),
    )
)
_NOW: Final = re.compile(
    r"^(https?://)?(www\.)?schema\.org/|^(temporarily|currently|derzeit|momentan|zurzeit) |[\s_.!-]+"
)


def in_stock(text: str) -> bool:
    """Tell whether a cell says that a product can be bought: a number above 0, or words that do not deny it.

    A number that the cell begins with decides, whatever is behind it.

    >>> in_stock("in stock"), in_stock("0 in stock"), in_stock("12 pcs"), in_stock("-3"), in_stock("Sold-out")
    (True, False, True, False, False)
    >>> in_stock("nicht vorrätig"), in_stock("https://schema.org/OutOfStock"), in_stock("1.200,5")
    (False, False, True)
    """
    text = text.strip().casefold()
    number = re.match(r"[+-]?[.,]?\d[\d.,]*", text)
    if number is not None:
        return not number[0].startswith("-") and re.search("[1-9]", number[0]) is not None
    return _NOW.sub("", text) not in _NO
