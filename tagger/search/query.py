"""Search: images like a picture, images with a tag, and both together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from tagger.errors import OtherModel, QueryError
from tagger.index import Filter
from tagger.index.filters import shown, strings
from tagger.search.fold import Folded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from tagger.index import Index
    from tagger.index.vectors import Floats, Slots

MOST_K: Final = 10_000
MOST_OFFSET: Final = 1_000_000
MOST_FOLDED_OFFSET: Final = 10_000
"""As `MOST_OFFSET`, of a list that is folded: each image is compared with all before it."""

LEAST_LENGTH: Final = 1e-3
"""Least length of a mean of vectors that has a direction; float16 rounds the length of one by as much."""

_SHOWN_TAGS: Final = 3


class Match(NamedTuple):
    """One answer.

    Attributes:
        image_id: Which image.
        score: In [0, 1], higher is better: the cosine of the embeddings, or the score of the tag asked for.
        tags: Its tags, best first.
        categories: Its categories, best first.
        folded: Ids of images that show the same picture and come later in the list; only where folding was
            asked for.
        because: The liked image that it resembles most; only of recommendations.
    """

    image_id: str
    score: float
    tags: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    folded: tuple[str, ...] = ()
    because: str | None = None

    def __str__(self) -> str:
        words = ", ".join(f"{tag['tag']} {tag['score']:.2f}" for tag in self.tags[:_SHOWN_TAGS])
        because = f"like {self.because}" if self.because else ""
        folded = f"and {len(self.folded)} more of it" if self.folded else ""
        return "  ".join(
            part for part in (f"{self.score:.3f}", self.image_id, words, because, folded) if part
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a query.

    Attributes:
        model_id: The model whose embeddings were compared.
        index_version: The version of the index that was asked.
        matches: Best first.
        next_offset: Where the next page begins; None after the last.
    """

    model_id: str
    index_version: str
    matches: list[Match]
    next_offset: int | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON objects; `folded` and `because` only where there are some."""
        optional = "folded", "because"
        matches = [
            {name: value for name, value in match._asdict().items() if value or name not in optional}
            for match in self.matches
        ]
        return {
            "model_id": self.model_id,
            "index_version": self.index_version,
            "matches": matches,
            "next_offset": self.next_offset,
        }


class Ranked(Protocol):
    """Images from best to worst, read as far as needed; earlier ranks never change."""

    def first(self, n: int) -> tuple[Floats, Slots]:
        """Return scores and slots of at least the first `n`, or of all there are."""
        ...


def search(
    index: Index,
    *,
    image_id: str | Sequence[str] | None = None,
    embedding: npt.ArrayLike | None = None,
    tag: str | None = None,
    k: int = 10,
    offset: int = 0,
    filter: Filter | Mapping[str, Any] | None = None,  # noqa: A002 - the word of the API
    fold: bool = False,
    model_id: str | None = None,
) -> Found:
    """Find images.

    Pictures (`image_id`, `embedding`) are searched by similarity; of several the mean is taken. A tag without
    a picture finds the images that have it, or a descendant of it, by its score. A tag beside a picture
    narrows the search to such images.

    Args:
        index: What to search.
        image_id: One image of the collection, or several. None of them is among the matches.
        embedding: A vector of the collection's model, shape (D,).
        tag: A tag or category.
        k: Most matches, from 1 to 10,000.
        offset: Matches to skip, up to 1,000,000, with `fold` up to 10,000: pages follow each other without
            gaps or repeats.
        filter: Which images may be found; a `Filter`, or its fields by name.
        fold: Keep one of several images that show the same picture.
        model_id: The model that made `embedding`, where the caller knows; another one is refused.

    Raises:
        QueryError: Nothing to search for, an unknown image, tag or colour, a number out of range, or an
            embedding of another model, or pictures that are blank or cancel each other out.
    """
    require_number("k", k, 1, MOST_K)
    if fold:
        require_number("offset with fold", offset, 0, MOST_FOLDED_OFFSET)
    else:
        require_number("offset", offset, 0, MOST_OFFSET)
    asked = Filter.of(filter)
    if model_id is not None and model_id != index.manifest.model_id:
        raise OtherModel(
            f"the embedding was made by model {str(model_id)[:200]}, and this index is of "
            f"{index.manifest.model_id}"
        )
    given: tuple[str, ...] = ()
    if image_id is not None:
        given = (image_id,) if isinstance(image_id, str) else strings("image_id", image_id, "image ids")
    mine = slots_of_images(index, given)
    if tag is not None:
        if not isinstance(tag, str):
            raise QueryError(f"tag must be a tag or category, got {shown(tag)}")
        tag = index.vocabulary.require(tag)
        asked = replace(asked, tags_all=(*asked.tags_all, tag))
    pictures = [index.vectors.take(mine)] if given else []
    if embedding is not None:
        pictures.append(index.query(embedding))
    ranked: Ranked
    if pictures:
        together = np.concatenate(pictures)
        query = direction(together.mean(axis=0))
        ranked = index.ranking(together if len(together) == 1 else query, asked)
    elif tag is not None:
        ranked = _ByTag(index, tag, asked)
    else:
        raise QueryError("there is nothing to search for: give an image, an image_id, an embedding or a tag")
    return page(index, ranked, k=k, offset=offset, leave_out=mine, fold=fold)


def page(
    index: Index,
    ranked: Ranked,
    *,
    k: int,
    offset: int = 0,
    leave_out: Slots,
    fold: bool = False,
) -> Found:
    """Cut a page out of ranked images.

    Args:
        index: Where they are from.
        ranked: All of them.
        k: Most matches.
        offset: Matches to skip.
        leave_out: Slots that are no matches.
        fold: Keep one of several images that show the same picture.
    """
    need = offset + k + 1
    n = offset + k + len(leave_out) + 1
    folded = Folded(index) if fold else None
    while True:
        scores, slots = ranked.first(n)
        complete = len(slots) < n
        if len(leave_out):
            kept = ~np.isin(slots, leave_out)
            scores, slots = scores[kept], slots[kept]
        if folded is not None:
            positions = folded.extend(slots, need=need)
            scores, slots = scores[positions], slots[positions]
        if complete or len(slots) >= need:
            break
        n *= 2
    chosen = slice(offset, offset + k)
    more = len(slots) > offset + k
    groups = folded.groups if folded else {}
    return Found(
        index.manifest.model_id,
        index.manifest.version,
        matches(index, scores[chosen], slots[chosen], groups=groups),
        offset + k if more else None,
    )


def matches(
    index: Index,
    scores: Floats,
    slots: Slots,
    *,
    groups: Mapping[int, Sequence[int]] | None = None,
    because: Sequence[str] | None = None,
) -> list[Match]:
    """Return slots as matches, with their words."""
    ids, places = index.ids.image_ids(slots), index.ids.places(slots)
    tags, categories = index.words.of("tags", places), index.words.of("categories", places)
    found = []
    for n, (image_id, score) in enumerate(zip(ids, scores.tolist(), strict=True)):
        others = (groups or {}).get(int(slots[n]), ())
        found.append(
            Match(
                image_id,
                round(score, 6),
                tags[n],
                categories[n],
                tuple(index.ids.image_ids(np.array(others, np.int64))) if others else (),
                because[n] if because is not None else None,
            )
        )
    return found


class _ByTag:
    """Images that have a tag or a descendant of it, by its score; of equals the lower slot first."""

    def __init__(self, index: Index, tag: str, asked: Filter) -> None:
        allowed = index.allowed(asked)
        assert allowed is not None  # the filter has the tag
        scores = index.vocabulary.scores(tag, index.manifest.slots)[allowed.slots]
        order = np.lexsort((allowed.slots, -scores))
        self._scores, self._slots = scores[order], allowed.slots[order]

    def first(self, n: int) -> tuple[Floats, Slots]:
        return self._scores[:n], self._slots[:n]


def direction(vector: Floats) -> Floats:
    """Return what pictures have in common, the mean of their vectors, as a query, shape (1, D), length 1.

    Raises:
        QueryError: It is too short to have a direction.
    """
    length = float(np.linalg.norm(vector))
    if not length >= LEAST_LENGTH:
        raise QueryError(
            "the pictures have nothing in common to go by: they are blank, or cancel each other out; "
            "take others, or one at a time"
        )
    return np.asarray(vector / length, np.float32).reshape(1, -1)


def slots_of_images(index: Index, image_ids: Sequence[str]) -> Slots:
    """Return the slots of images.

    Raises:
        QueryError: One is not in the index.
    """
    return np.array([index.slot(one) for one in image_ids], np.int64)


def require_number(name: str, value: object, least: int, most: int) -> None:
    """Refuse what is not a whole number within limits.

    Raises:
        QueryError: It is not; the text begins with `name`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise QueryError(f"{name} must be a whole number from {least:,} to {most:,}, got {shown(value)}")
