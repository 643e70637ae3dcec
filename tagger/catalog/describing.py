"""What is said of products' images: tags, categories and colours of all, and of each an alternative text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from tagger.index.ranges import ranks
from tagger.tags import CATEGORY_THRESHOLD

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.catalog.pictures import Pictures
    from tagger.index import Index
    from tagger.index.vectors import Floats

    Ints = npt.NDArray[np.int64]

TAG: Final = pa.struct([("tag", pa.string()), ("score", pa.float64())])
COLOR: Final = pa.struct([("name", pa.string()), ("fraction", pa.float64())])

MOST_ALT: Final = 125
"""Characters of an alternative text: as much as some screen readers read in one go."""

_MOST: Final = {"tags": 20, "categories": 20, "colors": 5}
_BLOCK: Final = 65_536
_LEAST_SCORE: Final = 0.3  # a text that is wrong is worse than none
_LEAST_FRACTION: Final = 0.15  # of the picture that a colour covers to be told of


class Describer:
    """Describes images and sets of images by the words that the index has of them.

    Args:
        index: What knows them.
        pictures: Which images.
    """

    def __init__(self, index: Index, pictures: Pictures) -> None:
        self._index = index
        self._pictures = pictures
        self._vocabulary = pa.array(index.words.vocabulary, pa.string())

    def sets(self, sets: Ints) -> dict[str, pa.ListArray]:
        """Merge what is said of the images of each set.

        Of a tag or category the greatest score of the images counts; of a colour the mean share over all.

        Args:
            sets: Sets of images, shape (N,); -1 for none.

        Returns:
            `tags` and `categories` as lists of `TAG`, `colors` as lists of `COLOR`, best first; null for
            none.
        """
        row, image = self._pictures.images_of(sets)
        places = self._pictures.places[image]
        sizes = np.bincount(row, minlength=len(sets))
        found = {}
        for name, kind in (("tags", TAG), ("categories", TAG), ("colors", COLOR)):
            numbers, scores, lengths = self._index.words.flat(name, places)
            owner = np.repeat(row, lengths)
            if name == "colors":
                scores = (scores / sizes[owner]).astype(np.float32)
            owner, numbers, scores = _merged(owner, numbers, scores, add=name == "colors")
            owner, numbers, scores = _best(owner, numbers, scores, _MOST[name])
            words = self._vocabulary.take(pa.array(numbers))
            values = pa.StructArray.from_arrays([words, rounded(scores)], fields=list(kind))
            found[name] = as_lists(owner, values, len(sets), none=sets < 0)
        return found

    def alt_texts(self) -> pa.DictionaryArray:
        """Return the alternative text of every image; empty where nothing is sure enough to be said.

        The thing first, then up to two colours that cover much of the picture.
        """
        things, shades = [], []
        for start in range(0, len(self._pictures.places), _BLOCK):
            places = self._pictures.places[start : start + _BLOCK]
            thing, score = things_of(self._index, places)
            things.append(np.where(score >= _LEAST_SCORE, thing, -1))
            shades.append(self._shades(places))
        if not things:
            return pa.array([], pa.string()).dictionary_encode()
        code = np.concatenate([np.concatenate(things)[:, None], np.concatenate(shades)], axis=1)
        different, number = np.unique(code, axis=0, return_inverse=True)
        words = self._index.words.vocabulary
        texts = [
            alt_text(words[thing] if thing >= 0 else "", [words[one] for one in colors if one >= 0])
            for thing, *colors in different.tolist()
        ]
        return pa.DictionaryArray.from_arrays(pa.array(number.reshape(-1), pa.int32()), pa.array(texts))

    def _shades(self, places: Ints) -> Ints:
        numbers, fractions, lengths = self._index.words.flat("colors", places)
        numbers = np.where(fractions >= _LEAST_FRACTION, numbers, -1)
        return np.stack([_first(numbers, fractions, lengths, nth=nth)[0] for nth in (0, 1)], axis=1)


def things_of(index: Index, places: Ints) -> tuple[Ints, Floats]:
    """Return what images show, in one word: a sure tag, or else the most specific sure category, or a tag.

    Args:
        index: What has words of them.
        places: Which images, shape (N,).

    Returns:
        Numbers of words, -1 for none, and their scores.
    """
    tag, score = _first(*index.words.flat("tags", places), nth=0)
    numbers, scores, lengths = index.words.flat("categories", places)
    owner = np.repeat(np.arange(len(places)), lengths)
    sure = (scores >= CATEGORY_THRESHOLD) & (score[owner] < CATEGORY_THRESHOLD)
    owner, numbers, scores = owner[sure], numbers[sure], scores[sure]
    order = np.lexsort((-scores, -_depths(index, numbers), owner))
    row, at = np.unique(owner[order], return_index=True)
    tag[row], score[row] = numbers[order][at], scores[order][at]
    return tag, score


def _depths(index: Index, numbers: npt.NDArray[np.int32]) -> Ints:
    """Return how many categories are above each word."""
    words, depth = index.words.vocabulary, np.zeros(len(index.words.vocabulary), np.int64)
    for number in np.unique(numbers).tolist():
        depth[number] = len(index.vocabulary.parents(words[number]))
    found: Ints = depth[numbers]
    return found


def alt_text(thing: str, colors: list[str]) -> str:
    """Return an alternative text: the thing, and the colours of the picture.

    >>> alt_text("tabby", ["brown", "gray"]), alt_text("", ["red"])
    ('Tabby, mainly brown and gray', '')
    """
    if not thing:
        return ""
    text = thing[:1].upper() + thing[1:] + (f", mainly {' and '.join(colors)}" if colors else "")
    return text if len(text) <= MOST_ALT else text[: MOST_ALT - 1].rstrip() + "…"


def as_lists(
    owner: Ints, values: pa.Array, rows: int, *, none: npt.NDArray[np.bool_] | None = None
) -> pa.ListArray:
    """Return values as lists by row.

    Args:
        owner: Row of each value, ascending.
        values: Shape (N,).
        rows: How many lists.
        none: Rows that are null, and have no values.
    """
    offsets = np.searchsorted(owner, np.arange(rows + 1)).astype(np.int32)
    mask = None if none is None else pa.array(none)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)


def _merged(
    owner: Ints, numbers: npt.NDArray[np.int32], scores: Floats, *, add: bool
) -> tuple[Ints, npt.NDArray[np.int32], Floats]:
    """Make one of equal words of a row: with the greatest score, or the sum."""
    order = np.lexsort((numbers, owner))
    owner, numbers, scores = owner[order], numbers[order], scores[order]
    if not len(owner):
        return owner, numbers, scores
    first = np.flatnonzero(np.r_[True, (owner[1:] != owner[:-1]) | (numbers[1:] != numbers[:-1])])
    together = np.add if add else np.maximum
    return owner[first], numbers[first], together.reduceat(scores, first)


def _best(
    owner: Ints, numbers: npt.NDArray[np.int32], scores: Floats, most: int
) -> tuple[Ints, npt.NDArray[np.int32], Floats]:
    """Order the words of each row by score, and keep the first."""
    order = np.lexsort((-scores, owner))
    owner, numbers, scores = owner[order], numbers[order], scores[order]
    nth = ranks(owner)
    return owner[nth < most], numbers[nth < most], scores[nth < most]


def _first(numbers: npt.NDArray[np.int32], scores: Floats, lengths: Ints, *, nth: int) -> tuple[Ints, Floats]:
    """Return the nth word of each image and its score, -1 where it has fewer."""
    at = np.cumsum(lengths) - lengths + nth
    found, score = np.full(len(lengths), -1, np.int64), np.zeros(len(lengths), np.float32)
    has = lengths > nth
    found[has], score[has] = numbers[at[has]], scores[at[has]]
    return found, score


def rounded(scores: Floats) -> pa.Array:
    """Return scores with four digits, as they are written."""
    return pa.array(np.round(scores.astype(np.float64), 4), pa.float64())
