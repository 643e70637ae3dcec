"""Recommendations for one customer, from the images they liked and disliked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import QueryError
from tagger.index import Filter
from tagger.index.filters import shown, strings
from tagger.search.diversity import diversify
from tagger.search.fold import Folded, shows_one_of
from tagger.search.query import LEAST_LENGTH, Found, direction, matches, require_number, slots_of_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tagger.index import Index
    from tagger.index.vectors import Floats, Slots
    from tagger.search.query import Ranked

MOST_K: Final = 1_000
"""Fewer than of a search: each recommendation is compared with all candidates."""

DIVERSITY: Final = 0.3
"""How much a recommendation should differ from those before it, in [0, 1]: enough that a page does not show
ten views of one thing, and little enough that each of them is still near to what was liked."""

NEGATIVE: Final = 0.5
"""Weight of the disliked images' mean beside that of the liked ones: what they share stays liked."""

_POOL: Final = 20  # candidates for each recommendation, from which diversity and folding choose
_LEAST_POOL: Final = 200
_MOST_POOL: Final = 5_000  # whose vectors are in memory: 26 MB of 1,280 numbers


def recommend(
    index: Index,
    positive: Sequence[str],
    negative: Sequence[str] = (),
    *,
    k: int = 10,
    filter: Filter | Mapping[str, Any] | None = None,  # noqa: A002 - the word of the API
    diversity: float = DIVERSITY,
    fold: bool = True,
) -> Found:
    """Recommend images that resemble the liked ones and not the disliked ones.

    The query is the mean of what was liked, less half the mean of what was disliked (Rocchio, Relevance
    Feedback in Information Retrieval, 1971). Neither are among the answers. Maximal marginal relevance
    chooses among the nearest, so scores do not fall from rank to rank.

    Args:
        index: What to recommend from.
        positive: Ids of liked images, at least one.
        negative: Ids of disliked images.
        k: Most recommendations, from 1 to 1,000.
        filter: Which images may be recommended.
        diversity: In [0, 1]; 0 ranks by similarity alone.
        fold: Recommend one of several images that show the same picture, and none that shows one of
            `positive` or `negative`.

    Returns:
        Matches whose `score` is the cosine to the query, and `because` the liked image nearest to it.

    Raises:
        QueryError: No liked image, an unknown one, one that is liked and disliked, or a value out of range.
    """
    liked = list(dict.fromkeys(strings("positive", positive, "image ids")))
    disliked = list(dict.fromkeys(strings("negative", negative, "image ids")))
    if not liked:
        raise QueryError("recommend needs at least one liked image")
    if both := set(liked) & set(disliked):
        raise QueryError(f"{shown(min(both))} cannot be liked and disliked at once")
    require_number("k", k, 1, MOST_K)
    if not isinstance(diversity, int | float) or not 0 <= diversity <= 1:
        raise QueryError(f"diversity must be in [0, 1], got {shown(diversity)}")
    asked = Filter.of(filter)
    mine = slots_of_images(index, [*liked, *disliked])
    vectors = index.vectors.take(mine)
    ranked = index.ranking(profile(vectors[: len(liked)], vectors[len(liked) :]), asked)
    folded = Folded(index) if fold else None
    scores, slots = _pool(index, ranked, mine, k, folded)
    candidates = index.vectors.take(slots)
    chosen = diversify(scores, candidates, k, diversity)
    nearest = np.argmax(candidates[chosen] @ vectors[: len(liked)].T, axis=1) if chosen else []
    return Found(
        index.manifest.model_id,
        index.manifest.version,
        matches(
            index,
            scores[chosen],
            slots[chosen],
            groups=folded.groups if folded else {},
            because=[liked[place] for place in nearest],
        ),
        None,
    )


def _pool(index: Index, ranked: Ranked, known: Slots, k: int, folded: Folded | None) -> tuple[Floats, Slots]:
    """Return candidates, best first: of so many ranks, or of as many more as it takes to find `k`."""
    step = min(max(_LEAST_POOL, _POOL * k), _MOST_POOL) + len(known)
    scores: list[Floats] = []
    slots: list[Slots] = []
    read = found = 0
    while found < k:
        every_score, every_slot = ranked.first(read + step)
        score, slot = every_score[read : read + step], every_slot[read : read + step]
        if not len(slot):
            break
        read += len(slot)
        fresh = ~np.isin(slot, known)
        if folded is not None:
            fresh &= ~shows_one_of(index, slot, known)
            fresh[fresh] = folded.add(slot[fresh])
        scores.append(score[fresh])
        slots.append(slot[fresh])
        found += len(slots[-1])
    if not slots:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    return np.concatenate(scores), np.concatenate(slots)


def profile(liked: Floats, disliked: Floats, weights: Floats | None = None) -> Floats:
    """Return what a customer likes as a query, shape (1, D).

    Args:
        liked: Embeddings, shape (N, D), N at least 1.
        disliked: Embeddings, shape (M, D).
        weights: Of the liked ones, shape (N,); equal by default.

    Raises:
        QueryError: The liked ones are blank or cancel each other out.
    """
    wanted = direction(np.average(liked, axis=0, weights=weights))
    if len(disliked):
        less = wanted - NEGATIVE * disliked.mean(axis=0)
        wanted = direction(less) if np.linalg.norm(less) >= LEAST_LENGTH else wanted
    return wanted
