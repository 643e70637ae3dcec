"""Filters: which images may be found, as roaring bitmaps that become FAISS's selector."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import QueryError
from tagger.index.words import CATEGORY, COLOR, TAG
from tagger.vision.colors import COLOR_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyroaring import BitMap

    from tagger.index.ids import Ids
    from tagger.index.vectors import Floats, Slots
    from tagger.index.words import Words
    from tagger.tags import Taxonomy

_LEAST_FRACTION: Final = 0.1
"""Share of a picture that must have a colour for it to be of that colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which images may be found. What is not given admits every image.

    Attributes:
        tags_any: Images that have at least one of these tags or categories, or a descendant of one.
        tags_all: Images that have all of these, each itself or by a descendant.
        tags_none: Images that have none of these and no descendant of one, whatever the score.
        min_score: Least score of a tag in `tags_any` and `tags_all` that counts, in [0, 1]; with neither of
            them, of at least one tag.
        color: Name of a colour that covers at least a tenth of the picture.
        min_width_px: Least width.
        min_height_px: Least height.
    """

    tags_any: tuple[str, ...] = ()
    tags_all: tuple[str, ...] = ()
    tags_none: tuple[str, ...] = ()
    min_score: float = 0.0
    color: str | None = None
    min_width_px: int = 0
    min_height_px: int = 0

    def __post_init__(self) -> None:
        for name in ("tags_any", "tags_all", "tags_none"):
            words = getattr(self, name)
            if isinstance(words, str) or not all(isinstance(word, str) for word in words):
                raise QueryError(f"{name} must be a list of words, got {words!r}")
            object.__setattr__(self, name, tuple(words))
        if not _is_number(self.min_score) or not 0 <= self.min_score <= 1:
            raise QueryError(f"min_score must be in [0, 1], got {self.min_score!r}")
        if self.color is not None and not isinstance(self.color, str):
            raise QueryError(f"color must be the name of a colour, got {self.color!r}")
        for name in ("min_width_px", "min_height_px"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise QueryError(f"{name} must be a whole number of pixels, got {value!r}")

    @classmethod
    def of(cls, given: Filter | Mapping[str, Any] | None) -> Filter:
        """Return a filter from its fields by name.

        Raises:
            QueryError: A field is unknown, or holds what it must not.
        """
        if given is None:
            return EVERYTHING
        if isinstance(given, Filter):
            return given
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise QueryError(f"a filter has no field {name!r}; it has {', '.join(known)}")
        return cls(**given)

    @property
    def is_empty(self) -> bool:
        """Whether it admits every image."""
        return self is EVERYTHING or self == EVERYTHING


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


EVERYTHING: Final = Filter()


class Vocabulary:
    """The words that may be asked for: those of the taxonomy, and those that images have.

    Args:
        words: Of the index.
        taxonomy: What the words were made with; None for a collection without one.
    """

    def __init__(self, words: Words, taxonomy: Taxonomy | None) -> None:
        self._words = words
        self._taxonomy = taxonomy
        known = [*words.words(TAG), *words.words(CATEGORY)]
        if taxonomy is not None:
            known += [*taxonomy.names, *taxonomy.categories]
        self._names = {name.casefold(): name for name in known}

    def find(self, word: str) -> str | None:
        """Return a word as it is written, whatever its case; None if it is unknown."""
        return self._names.get(word.casefold())

    def require(self, word: str) -> str:
        """Return a word as it is written.

        Raises:
            QueryError: It is unknown; the text names similar ones.
        """
        found = self.find(word)
        if found is None:
            near = self.similar(word)
            hint = f"; similar: {', '.join(near)}" if near else ""
            raise QueryError(f"there is no tag or category {word!r}{hint}")
        return found

    def similar(self, word: str) -> list[str]:
        """Return up to three words that are written much like one."""
        near = difflib.get_close_matches(word.casefold(), self._names, n=3, cutoff=0.6)
        return [self._names[name] for name in near]

    def images(self, word: str, min_score: float = 0.0) -> BitMap:
        """Return the slots that have a word or a descendant of it, with at least this score."""
        from pyroaring import BitMap

        found = BitMap()
        for kind, name in self._with_descendants(word):
            posting = self._words.posting(kind, name)
            if posting is not None:
                found |= posting.at_least(min_score)
        return found

    def scores(self, word: str, n_slots: int) -> Floats:
        """Return by slot the best score of a word or a descendant of it; 0 where an image has neither."""
        scores = np.zeros(n_slots, np.float32)
        for kind, name in self._with_descendants(word):
            posting = self._words.posting(kind, name)
            if posting is not None:
                slots = posting.slots
                scores[slots] = np.maximum(scores[slots], posting.scores)
        return scores

    def _with_descendants(self, word: str) -> Iterable[tuple[str, str]]:
        below = () if self._taxonomy is None else self._taxonomy.descendants(word)
        for name in (word, *below):
            yield TAG, name
            yield CATEGORY, name


def admitted(asked: Filter, words: Words, vocabulary: Vocabulary, ids: Ids) -> BitMap:
    """Return the slots that a filter admits.

    Raises:
        QueryError: It names an unknown word or colour.
    """
    from pyroaring import BitMap

    found: BitMap | None = None

    def narrow(some: BitMap) -> None:
        nonlocal found
        found = some if found is None else found & some

    if asked.tags_any:
        some = BitMap()
        for word in asked.tags_any:
            some |= vocabulary.images(vocabulary.require(word), asked.min_score)
        narrow(some)
    for word in asked.tags_all:
        narrow(vocabulary.images(vocabulary.require(word), asked.min_score))
    if asked.min_score and not (asked.tags_any or asked.tags_all):
        some = BitMap()
        for word in words.words(TAG):
            posting = words.posting(TAG, word)
            if posting is not None:
                some |= posting.at_least(asked.min_score)
        narrow(some)
    if asked.color is not None:
        narrow(_of_color(asked.color, words))
    for column, least in (("width_px", asked.min_width_px), ("height_px", asked.min_height_px)):
        if least:
            large = ids.column(column).to_numpy() >= least
            narrow(BitMap(ids.slots[large].astype(np.uint32)))
    if found is None:
        found = BitMap(ids.slots.astype(np.uint32))
    for word in asked.tags_none:
        found = found - vocabulary.images(vocabulary.require(word))
    return found


def _of_color(name: str, words: Words) -> BitMap:
    from pyroaring import BitMap

    known = words.words(COLOR)
    by_name = {color.casefold(): color for color in known}
    found = by_name.get(name.casefold())
    if found is None:
        if name.casefold() not in COLOR_NAMES:
            raise QueryError(f"there is no colour {name!r}; there are {', '.join(COLOR_NAMES)}")
        return BitMap()
    posting = words.posting(COLOR, found)
    return BitMap() if posting is None else posting.at_least(_LEAST_FRACTION)


def slots_of(bitmap: BitMap) -> Slots:
    """Return the slots in a bitmap, ascending."""
    return np.frombuffer(bitmap.to_array(), np.uint32).astype(np.int64)
