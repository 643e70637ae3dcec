"""What feeds of shops have in common: values that fit their rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tagger.spreadsheet import FORMULA_SIGNS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tagger.catalog.writing import Rows

LEAST_SCORE: Final = 0.3
"""Of a tag that goes to customers."""

_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


def plain(text: str, most: int) -> str:
    r"""Return a text for a feed: one line, at most so many characters, and nothing that runs as a formula.

    Signs that a formula begins with are taken away rather than hidden behind an apostrophe, which a shop
    would show.

    >>> plain("=a\tb  c", 99), plain("one two three", 9)
    ('a b c', 'one two')
    """
    text = " ".join(_BREAKS.sub(" ", text).split())
    while text.startswith(FORMULA_SIGNS):
        text = text[1:].lstrip()
    if len(text) <= most:
        return text
    cut = text[:most]
    return (cut.rsplit(" ", 1)[0] if " " in cut and text[most] != " " else cut).rstrip()


def products_of(rows: Rows) -> Iterable[tuple[int, dict[str, Any]]]:
    """Return each product that begins in these rows: its row, and what is said of it."""
    firsts = rows.is_first.nonzero()[0].tolist()
    columns = {name: column.take(firsts).to_pylist() for name, column in rows.ours.items()}
    for n, row in enumerate(firsts):
        yield row, {name: values[n] for name, values in columns.items()}


def sure_tags(said: dict[str, Any]) -> list[str]:
    """Return the tags of a product that customers may read."""
    return [one["tag"] for one in said["tags"] or () if one["score"] >= LEAST_SCORE]


def words(said: dict[str, Any]) -> list[str]:
    """Return these tags and the categories, each once."""
    found = [*sure_tags(said), *(one["tag"] for one in said["categories"] or ())]
    return list({word.casefold(): word for word in reversed(found)}.values())[::-1]
