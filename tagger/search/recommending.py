"""Recommendations for one customer, from the images they liked and disliked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import QueryError
from tagger.index import Filter
from tagger.search.diversity import diversify
from tagger.search.fold import fold as fold_slots
from tagger.search.query import MOST_K, Found, matches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tagger.index import Index
    from tagger.index.vectors import Floats

DIVERSITY: Final = 0.3
"""How much a recommendation should differ from those before it, in [0, 1]: enough that a page does not show
ten views of one thing, and little enough that each of them is still near to what was liked."""

NEGATIVE: Final = 0.5
"""Weight of the disliked images' mean beside that of the liked ones: what they share stays liked."""

_POOL: Final = 20  # candidates for each recommendation, from which diversity and folding choose
_LEAST_POOL: Final = 200


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
        k: Most recommendations, from 1 to 10,000.
        filter: Which images may be recommended.
        diversity: In [0, 1]; 0 ranks by similarity alone.
        fold: Recommend one of several images that show the same picture, and none that shows one of
            `positive` or `negative`.

    Returns:
        Matches whose `score` is the cosine to the query, and `because` the liked image nearest to it.

    Raises:
        QueryError: No liked image, an unknown one, one that is liked and disliked, or a value out of range.
    """
    liked, disliked = _ids("positive", positive), _ids("negative", negative)
    if not liked:
        raise QueryError("recommend needs at least one liked image")
    if both := set(liked) & set(disliked):
        raise QueryError(f"{min(both)!r} cannot be liked and disliked at once")
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MOST_K:
        raise QueryError(f"k must be a whole number from 1 to {MOST_K:,}, got {k!r}")
    if not isinstance(diversity, int | float) or not 0 <= diversity <= 1:
        raise QueryError(f"diversity must be in [0, 1], got {diversity!r}")
    mine = np.array([index.slot(one) for one in (*liked, *disliked)], np.int64)
    vectors = index.vectors.take(mine)
    pool = max(_LEAST_POOL, _POOL * k) + len(mine)
    ranked = index.ranking(profile(vectors[: len(liked)], vectors[len(liked) :]), Filter.of(filter))
    scores, slots = ranked.first(pool)
    scores, slots = scores[:pool], slots[:pool]
    if fold:
        # The known ones lead, so that they stand for every image that shows the same.
        known = np.concatenate([mine, slots[~np.isin(slots, mine)]])
        kept, groups = fold_slots(index, known)
        fresh = known[[position for position in kept if position >= len(mine)]]
        keep = np.isin(slots, fresh)
    else:
        keep, groups = ~np.isin(slots, mine), {}
    scores, slots = scores[keep], slots[keep]
    candidates = index.vectors.take(slots)
    chosen = diversify(scores, candidates, k, diversity)
    nearest = np.argmax(candidates[chosen] @ vectors[: len(liked)].T, axis=1) if chosen else []
    return Found(
        index.manifest.model_id,
        index.manifest.version,
        matches(
            index, scores[chosen], slots[chosen], groups=groups, because=[liked[place] for place in nearest]
        ),
        None,
    )


def profile(liked: Floats, disliked: Floats, weights: Floats | None = None) -> Floats:
    """Return what a customer likes as a query, shape (1, D).

    Args:
        liked: Embeddings, shape (N, D), N at least 1.
        disliked: Embeddings, shape (M, D).
        weights: Of the liked ones, shape (N,); equal by default.
    """
    wanted = np.average(liked, axis=0, weights=weights)
    if not np.linalg.norm(wanted):
        raise QueryError("the liked images have nothing in common, and cannot be recommended from together")
    if len(disliked):
        less = wanted / np.linalg.norm(wanted) - NEGATIVE * disliked.mean(axis=0)
        wanted = less if np.linalg.norm(less) > 1e-6 else wanted
    return np.asarray(wanted / np.linalg.norm(wanted), np.float32).reshape(1, -1)


def _ids(name: str, given: Sequence[str]) -> list[str]:
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise QueryError(f"{name} must be a list of image ids, got {given!r}")
    return list(dict.fromkeys(given))
