"""The default categories: wordnet.tsv, derived from WordNet 3.0 (see derive_wordnet.py)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).with_name("wordnet.tsv")


@dataclass(frozen=True, slots=True)
class Table:
    """Names and parents of the ImageNet classes, and of their categories.

    Attributes:
        tags: (tag, parents) by wnid.
        categories: Parents by category; every category comes before its parents.
    """

    tags: dict[str, tuple[str, tuple[str, ...]]]
    categories: dict[str, tuple[str, ...]]


@cache
def default_table() -> Table:
    """Read the table that comes with tagger.

    >>> default_table().tags["n07920052"]
    ('espresso', ('coffee',))
    """
    table = Table({}, {})
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        wnid, name, above = line.split("\t")
        parents = () if above == "-" else tuple(above.split("|"))
        if wnid == "-":
            table.categories[name] = parents
        else:
            table.tags[wnid] = (name, parents)
    return table
