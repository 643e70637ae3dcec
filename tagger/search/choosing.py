"""Which images each of many users gets: likeness and behaviour blended, folded, diversified."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import QueryError, UsageError
from tagger.index.vectors import Allowed
from tagger.search.diversity import diversify
from tagger.search.events import EventOptions
from tagger.search.fold import HASH_BITS, LEAST_COSINE, SAME_COSINE, fold, same_picture
from tagger.search.interests import split_interests
from tagger.search.recommending import profile
from tagger.search.together import Together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from tagger.index import Filter, Index
    from tagger.index.vectors import Floats, Slots
    from tagger.search.events import Events, Tastes

_MOST_LIKED: Final = 50  # images of a user that make up the profile
_ROUNDING: Final = 1e-3  # of a cosine; equal bytes make equal embeddings
_MOST_KNOWN: Final = 200  # images a user saw last whose copies are not recommended
_POOL: Final = 10  # pictures for each recommendation, from which diversity chooses
_LEAST_FOLDED: Final = 64
_MOST_FOLDED: Final = 256  # candidates that are compared with each other at a time
_DEEPER: Final = 8
_KEPT_BYTES: Final = 256 << 20  # of vectors as float32: 50,000 of 1,280 numbers
_BLOCK: Final = 8192  # vectors that are scored at a time
_AT_ONCE: Final = 1 << 19  # candidates of all users who are served together: 40 MB with three interests


@dataclass(frozen=True, slots=True, kw_only=True)
class UserOptions:
    """How recommendations are chosen.

    Attributes:
        events: What events count.
        blend: Share of the behaviour signal (liked together by others), the rest being likeness of
            pictures, in [0, 1]. Of 0, 0.3, 0.5, 0.7 and 1, 0.7 was best on simulated events, of many users
            and of few; 0 suits a shop that has hardly any events, 1 one where looks do not matter.
        diversity: How much a recommendation should differ from those before it, in [0, 1]. Relevance falls
            from 1 to near 0 within a list, so that 0.1 breaks up rows of look-alikes; on simulated events it
            cost at most 3 % of nDCG, and 0.3 cost 4 to 7 %.
        interests: Groups of look-alikes that a user's liked images are split into at most, each with a
            profile of its own. In `bench.recommend`, 3 beat the single average: nDCG@10 .030
            against .028 by likeness alone, .088 against .085 blended. 1 is 1.6 times as fast.
        fold: Recommend one of several images that show the same picture, and none that shows one of the 50
            that the user likes or dislikes most, or of the 200 seen last.
        candidates: Images that each of the two signals proposes to a user. More take longer and let weaker
            ones in.
    """

    events: EventOptions = field(default_factory=EventOptions)
    blend: float = 0.7
    diversity: float = 0.1
    interests: int = 3
    fold: bool = True
    candidates: int = 200

    def __post_init__(self) -> None:
        for name in ("blend", "diversity"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
                raise UsageError(f"{name} must be in [0, 1], got {value!r}")
        for name in ("interests", "candidates"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value!r}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The recommendations of one user, the first first.

    Attributes:
        slots: The images.
        scores: In [0, 1].
        because: Of each the liked image that is the reason; -1 for what is popular.
    """

    slots: Slots
    scores: Floats
    because: Slots


@dataclass(frozen=True, slots=True)
class _Person:
    """One user: slots are ascending in `seen` and `known`, and by weight in the others.

    `known` are those whose copies are not recommended.
    """

    seen: Slots
    liked: Slots
    weights: Floats
    disliked: Slots
    known: Slots


class Chooser:
    """Chooses images for users, batch by batch; `recommend_users` says how.

    Args:
        index: What to recommend from.
        events: What users did.
        asked: Which images may be recommended.
        k: Most recommendations for a user.
        options: How they are chosen.
        threads: Users who are served at a time.

    Attributes:
        cold: Users so far of whom no liked image is known.
    """

    def __init__(
        self, index: Index, events: Events, asked: Filter, k: int, options: UserOptions, *, threads: int
    ) -> None:
        self._index = index
        self._threads = threads
        vectors = index.vectors
        self._floats = None  # reading float16 takes longer than all that is computed with it
        if len(vectors) * vectors.dim * 4 <= _KEPT_BYTES:
            self._floats = vectors.take(np.arange(len(vectors)))
        self._blas: Any = importlib.import_module("threadpoolctl").ThreadpoolController()
        self._k = k
        self._options = options
        self._allowed = _allowed(index, asked, events.recommendable)
        may = np.zeros(index.manifest.slots, np.bool_)
        may[self._allowed.slots] = True
        self._may = may
        with events.explained():
            self._together = Together.of(events.database, index.manifest.slots)
        slots, popular = events.popularity()
        untouched = np.setdiff1d(self._allowed.slots, slots)
        self._popular = np.concatenate([slots[may[slots]], untouched])
        self._popularity = np.concatenate([popular[may[slots]], np.zeros(len(untouched), np.float32)])
        self.cold = 0

    def choose(self, tastes: Tastes) -> list[Chosen]:
        """Return what each of some users gets."""
        people = list(_people(tastes))
        lists: list[Chosen] = [_nothing()] * len(people)
        warm = [user for user, person in enumerate(people) if len(person.liked)]
        depth = max(self._options.candidates, 2 * self._k)
        while warm:
            depth = min(depth, self._allowed.count)
            size = max(1, _AT_ONCE // max(depth, 1))
            for start in range(0, len(warm), size):
                some = warm[start : start + size]
                for user, chosen in zip(some, self._serve([people[u] for u in some], depth), strict=True):
                    lists[user] = chosen
            if depth >= self._allowed.count:
                break
            # Whoever has seen nearly all that is near, or finds it folded into one, looks further.
            warm = [user for user in warm if len(lists[user].slots) < self._k]
            depth *= _DEEPER
        for user, person in enumerate(people):
            if not len(person.liked):
                lists[user] = self._pick_popular(person)
                self.cold += 1
        return lists

    def _serve(self, people: Sequence[_Person], depth: int) -> list[Chosen]:
        found = list(self._candidates(people, depth))
        # The threads of many small matrix products wait for each other in busy loops: one each for our own.
        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(self._threads) as threads:
            return list(threads.map(lambda one, of: self._pick(one, *of), people, found))

    def _candidates(self, people: Sequence[_Person], depth: int) -> Iterator[tuple[Slots, Floats]]:
        """Yield for each user candidates and their relevance, best first, of equals the lower slot."""
        if not self._allowed.count:
            yield from [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(people)
            return
        profiles = [self._profiles(person) for person in people]
        cosines, slots = self._nearest(np.concatenate([queries for queries, _ in profiles]), depth)
        ends = np.cumsum([0, *(len(factors) for _, factors in profiles)])
        blend = self._options.blend
        for row, (person, (near, strengths)) in enumerate(zip(people, self._behaviour(people), strict=True)):
            mine = slice(ends[row], ends[row + 1])
            looks, likeness = _likeness(person, slots[mine], cosines[mine], profiles[row][1])
            share = blend if len(near) else 0.0
            union = np.union1d(looks, near)
            relevance = np.zeros(len(union), np.float32)
            relevance[np.searchsorted(union, looks)] += (1 - share) * likeness
            relevance[np.searchsorted(union, near)] += share * strengths
            order = np.lexsort((union, -relevance))
            yield union[order], relevance[order]

    def _profiles(self, person: _Person) -> tuple[Floats, Floats]:
        """Return a query for each interest of a user, shape (I, D), and what its likeness counts."""
        liked, disliked = self._take(person.liked), self._take(person.disliked)
        some = liked.any(axis=1)  # a picture without any feature is like none
        if not some.any():
            return np.zeros((1, self._index.vectors.dim), np.float32), np.ones(1, np.float32)
        liked, weights = liked[some], person.weights[some]
        group = split_interests(liked, weights, self._options.interests)
        queries = [
            _query(liked[group == one], disliked, weights[group == one])
            for one in range(int(group.max()) + 1)
        ]
        shares = np.bincount(group, weights=weights)
        return np.concatenate(queries), np.sqrt(shares / shares.max()).astype(np.float32)

    def _behaviour(self, people: Sequence[_Person]) -> Iterator[tuple[Slots, Floats]]:
        """Yield for each user what is liked together with what they like, and how much, in [0, 1]."""
        if not self._options.blend:
            yield from [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(people)
            return
        lengths = [len(one.liked) for one in people]
        users, slots, scores = self._together.scores(
            np.repeat(np.arange(len(people)), lengths),
            np.concatenate([one.liked for one in people]),
            np.concatenate([one.weights for one in people]),
        )
        ends = np.searchsorted(users, np.arange(len(people) + 1))
        for row, person in enumerate(people):
            mine = slice(ends[row], ends[row + 1])
            fresh = self._may[slots[mine]] & ~_contains(person.seen, slots[mine])
            near, strength = slots[mine][fresh], scores[mine][fresh]
            if len(near) > self._options.candidates:
                best = np.sort(np.lexsort((near, -strength))[: self._options.candidates])
                near, strength = near[best], strength[best]
            yield near, strength / strength.max(initial=1e-12)

    def _nearest(self, queries: Floats, k: int) -> tuple[Floats, Slots]:
        """Return the nearest allowed images of each query; slot -1 where there are no more."""
        if self._floats is None and not self._index.is_exact(self._allowed):
            return self._index.nearest(queries, k, self._allowed)
        # One matrix product scores many users at once.
        best = np.empty((len(queries), 0), np.float32)
        found = np.empty((len(queries), 0), np.int64)
        for start in range(0, self._allowed.count, _BLOCK):
            some = self._allowed.slots[start : start + _BLOCK]
            scores = queries @ self._take(some).T
            places = np.broadcast_to(some, scores.shape)
            if len(some) > k:
                top = np.argpartition(scores, -k, axis=1)[:, -k:]
                scores, places = np.take_along_axis(scores, top, axis=1), some[top]
            best, found = np.concatenate([best, scores], axis=1), np.concatenate([found, places], axis=1)
            if best.shape[1] > k:
                top = np.argpartition(best, -k, axis=1)[:, -k:]
                best, found = np.take_along_axis(best, top, axis=1), np.take_along_axis(found, top, axis=1)
        return best, found

    def _pick(self, person: _Person, slots: Slots, relevance: Floats) -> Chosen:
        """Fold and diversify candidates, and name the reason of each that is left."""
        kept, vectors = self._new_to(person, slots, _POOL * self._k)
        slots, relevance = slots[kept], relevance[kept]
        chosen = diversify(relevance, vectors, self._k, self._options.diversity)
        if not chosen:
            return _nothing()
        reasons = (1 - self._options.blend) * (self._take(person.liked) @ vectors[chosen].T)
        strengths = self._together.between(person.liked, slots[chosen])
        reasons += self._options.blend * strengths / max(float(strengths.max()), 1e-12)
        because = person.liked[np.argmax(reasons, axis=0)]
        return Chosen(slots[chosen], relevance[chosen], because)

    def _take(self, slots: Slots) -> Floats:
        return self._index.vectors.take(slots) if self._floats is None else self._floats[slots]

    def _pick_popular(self, person: _Person) -> Chosen:
        places, _ = self._new_to(person, self._popular, self._k)
        return Chosen(self._popular[places], self._popularity[places], np.full(len(places), -1))

    def _new_to(self, person: _Person, slots: Slots, most: int) -> tuple[Slots, Floats]:
        """Return the first places, at most so many, of what a user does not know, and the vectors there.

        One place for each picture, if the options say so. A block of slots is compared with what was kept
        before, so that memory does not grow with the square of what has to be looked through.
        """
        size = min(max(most, _LEAST_FOLDED), _MOST_FOLDED)
        kept, others = np.empty(0, np.int64), person.known
        start, theirs = len(others), self._take(others)
        for first in range(0, len(slots), size):
            some = slots[first : first + size]
            fresh = np.flatnonzero(~_contains(person.seen, some))
            vectors = self._take(some[fresh])
            if self._options.fold:
                new = self._unfolded(some[fresh], vectors, others, theirs)
                fresh, vectors = fresh[new], vectors[new]
            kept = np.concatenate([kept, first + fresh])
            others, theirs = np.concatenate([others, some[fresh]]), np.concatenate([theirs, vectors])
            if len(kept) >= most:
                break
        return kept[:most], theirs[start : start + most]

    def _unfolded(
        self, slots: Slots, vectors: Floats, others: Slots, theirs: Floats
    ) -> npt.NDArray[np.bool_]:
        """Tell which show no picture of others, or of one before; only suspects are compared exactly."""
        ids, n = self._index.ids, len(slots)
        mine, places = ids.places(slots), ids.places(np.concatenate([others, slots]))
        cosine = vectors @ np.concatenate([theirs, vectors]).T
        hashed_alike = np.bitwise_count(ids.phash[mine][:, None] ^ ids.phash[places]) <= HASH_BITS
        near = (cosine >= SAME_COSINE - _ROUNDING) | (hashed_alike & (cosine >= LEAST_COSINE - _ROUNDING))
        near |= (ids.content[mine][:, None] == ids.content[places]) & (ids.content[mine] != 0)[:, None]
        near[np.arange(n), len(others) + np.arange(n)] = False
        new = np.ones(n, np.bool_)
        suspects = np.flatnonzero(near.any(axis=1))
        if len(suspects):
            known = others[near[:, : len(others)].any(axis=0)]
            left = suspects[~same_picture(self._index, slots[suspects], known).any(axis=1)]
            new[suspects] = False
            new[left[fold(self._index, slots[left])[0]]] = True
        return new


def _allowed(index: Index, asked: Filter, recommendable: Slots | None) -> Allowed:
    found = index.allowed(asked)
    slots = np.sort(index.ids.slots) if found is None else found.slots
    if recommendable is not None:
        slots = np.intersect1d(slots, recommendable)
    return Allowed(slots, index.manifest.slots)


def _people(tastes: Tastes) -> Iterator[_Person]:
    ends = np.searchsorted(tastes.users, np.arange(len(tastes.user_ids) + 1))
    for start, end in pairwise(ends):
        slots, weights = tastes.slots[start:end], tastes.weights[start:end]
        order = np.lexsort((slots, -weights))
        liked = order[: min(_MOST_LIKED, int((weights > 0).sum()))]
        disliked = order[::-1][: min(_MOST_LIKED, int((weights < 0).sum()))]
        last = np.lexsort((slots, -tastes.newest[start:end]))[:_MOST_KNOWN]
        known = np.unique(slots[np.concatenate([liked, disliked, last])])
        yield _Person(slots, slots[liked], weights[liked], slots[disliked], known)


def _query(liked: Floats, disliked: Floats, weights: Floats) -> Floats:
    """Return the profile of an interest, shape (1, D); likes that cancel out leave the greatest."""
    try:
        return profile(liked, disliked, weights)
    except QueryError:
        return profile(liked[:1], disliked)


def _likeness(person: _Person, slots: Slots, cosines: Floats, factors: Floats) -> tuple[Slots, Floats]:
    """Return what looks like an interest of a user and was not seen, slots ascending, and how much."""
    found, values = [], []
    for some, cosine, factor in zip(slots, cosines, factors, strict=True):
        there = (some >= 0) & ~_contains(person.seen, some)
        if there.any():
            lowest, highest = cosine[there].min(), cosine[there].max()
            scaled = (cosine[there] - lowest) / (highest - lowest) if highest > lowest else 1.0
            found.append(some[there])
            values.append(np.broadcast_to(factor * scaled, len(found[-1])))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    looks, places = np.unique(np.concatenate(found), return_inverse=True)
    likeness = np.zeros(len(looks), np.float32)
    np.maximum.at(likeness, places, np.concatenate(values))
    return looks, likeness


def _contains(ascending: Slots, wanted: Slots) -> npt.NDArray[np.bool_]:
    """Tell which of some slots are among others."""
    if not len(ascending):
        return np.zeros(len(wanted), np.bool_)
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.asarray(ascending[places] == wanted, np.bool_)


def _nothing() -> Chosen:
    return Chosen(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
