"""Filters: which images may be found, as roaring bitmaps that become FAISS's selector."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import QueryError, UnknownName
from tagger.index.words import CATEGORY, COLOR, TAG
from tagger.vision.colors import COLOR_NAMES, color_spelling

if TYPE_CHECKING:
    from pyroaring import BitMap

    from tagger.index.ids import Ids
    from tagger.index.vectors import Floats, Slots
    from tagger.index.words import Words
    from tagger.tags import Taxonomy

_LEAST_FRACTION: Final = 0.1
"""Share of a picture that must have a colour for it to be of that colour."""

_MOST_SHOWN: Final = 200
_MOST_PIXELS: Final = 2**31 - 1  # what ids.parquet can hold


def shown(value: object) -> str:
    """Return a value as messages show it: its repr, cut to some 200 characters."""
    try:
        text = repr(value[:_MOST_SHOWN] if isinstance(value, str | bytes) else value)
    except ValueError:  # an int of more than 4,300 digits
        return "a value too long to show"
    cut = len(text) > _MOST_SHOWN or (isinstance(value, str | bytes) and len(value) > _MOST_SHOWN)
    return f"{text[:_MOST_SHOWN]}…" if cut else text


def strings(name: str, given: object, what: str) -> tuple[str, ...]:
    """Return a list of strings as a tuple; a generator is read once.

    Raises:
        QueryError: It is one string, or no list of strings; the text says `name` must be a list of `what`.
    """
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        read = tuple(given)
        if all(isinstance(one, str) for one in read):
            return read
        given = list(read)
    raise QueryError(f"{name} must be a list of {what}, got {shown(given)}")


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
            object.__setattr__(self, name, strings(name, getattr(self, name), "words"))
        if not _is_number(self.min_score) or not 0 <= self.min_score <= 1:
            raise QueryError(f"min_score must be in [0, 1], got {shown(self.min_score)}")
        if self.color is not None and not isinstance(self.color, str):
            raise QueryError(f"color must be the name of a colour, got {shown(self.color)}")
        for name in ("min_width_px", "min_height_px"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise QueryError(f"{name} must be a whole number of pixels, got {shown(value)}")

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
        if not isinstance(given, Mapping):
            raise QueryError(f"filter must give fields by name ({', '.join(known)}), got {shown(given)}")
        for name in given:
            if name not in known:
                raise QueryError(f"a filter has no field {shown(name)}; it has {', '.join(known)}")
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

    A word that is spelled as one of them means that one; any other means all that differ from it only in
    case: of the tags Turkey and turkey, `turkey` is one and `TURKEY` is both.

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
        self._known = frozenset(known)
        self._spellings: dict[str, tuple[str, ...]] = {}
        for name in sorted(self._known):
            folded = name.casefold()
            self._spellings[folded] = (*self._spellings.get(folded, ()), name)

    def find(self, word: str) -> str | None:
        """Return a word as it is written, or as given where it means several; None if it is unknown."""
        spellings = self._meant(word)
        return word if len(spellings) > 1 else next(iter(spellings), None)

    def require(self, word: str) -> str:
        """Return a word as `find` does.

        Raises:
            UnknownName: The text names similar ones.
        """
        found = self.find(word)
        if found is None:
            near = self.similar(word)
            hint = f"; similar: {', '.join(near)}" if near else ""
            raise UnknownName(f"there is no tag or category {shown(word)}{hint}", near)
        return found

    def similar(self, word: str) -> list[str]:
        """Return up to three words that are written much like one."""
        if len(word) > _MOST_SHOWN:
            return []
        near = difflib.get_close_matches(word.casefold(), self._spellings, n=3, cutoff=0.6)
        return [self._spellings[name][0] for name in near]

    def parents(self, word: str) -> tuple[str, ...]:
        """Return the categories above a word, nearest first."""
        return () if self._taxonomy is None else self._taxonomy.ancestors(word)

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
        for spelling in self._meant(word):
            below = () if self._taxonomy is None else self._taxonomy.descendants(spelling)
            for name in (spelling, *below):
                yield TAG, name
                yield CATEGORY, name

    def _meant(self, word: str) -> tuple[str, ...]:
        return (word,) if word in self._known else self._spellings.get(word.casefold(), ())


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
            large = ids.column(column).to_numpy() >= min(least, _MOST_PIXELS)
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
    found = by_name.get(color_spelling(name))
    if found is None:
        if color_spelling(name) not in COLOR_NAMES:
            raise UnknownName(f"there is no colour {shown(name)}; there are {', '.join(COLOR_NAMES)}")
        return BitMap()
    posting = words.posting(COLOR, found)
    return BitMap() if posting is None else posting.at_least(_LEAST_FRACTION)


def slots_of(bitmap: BitMap) -> Slots:
    """Return the slots in a bitmap, ascending."""
    return np.frombuffer(bitmap.to_array(), np.uint32).astype(np.int64)
