"""Images that are one picture, in groups, each with the copy that is worth keeping.

Three kinds, from sure to likely:

- `bytes`: the files are equal.
- `picture`: the same picture, encoded again, resized, or cut a little: near perceptual hashes, and embeddings
  that do not contradict them.
- `near`: nearly the same picture, cropped, mirrored, recoloured, or the next of a series: near embeddings; or
  near hashes of pictures that look different to the CNN for their colours; or something of both.

Each kind joins the groups of the kind before. Within a kind, the image that most others are like takes those:
everything in a group is like that one, and likeness does not wander from copy to copy. Which image of a group
is its best is another question.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from tagger.errors import QueryError
from tagger.index.vectors import Allowed
from tagger.search.fold import HASH_BITS, LEAST_COSINE
from tagger.search.hashes import Hashes, mirrored
from tagger.search.neighbours import neighbours

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from tagger.index import Index
    from tagger.index.vectors import Floats

    Places = npt.NDArray[np.int64]
    Pairs = tuple[Places, Places, Floats]

Kind = Literal["bytes", "picture", "near"]
KINDS: Final[tuple[Kind, ...]] = ("bytes", "picture", "near")

NEAR_COSINE: Final = 0.95
"""Cosine from which two embeddings are nearly one picture; bench/duplicates.py measures what it finds."""

HASHED_COSINE: Final = 0.6
"""Least cosine of `near` where the hashes are near, or would be if one picture were mirrored: grey copies
have no more. Of 18 million pairs of different pictures in bench/duplicates.py three are as near by both."""

_LEAST_MIN_COSINE: Final = 0.75  # below, everything is like everything

CROPPED_COSINE: Final = 0.85
CROPPED_BITS: Final = 16
"""`near` is also what has such embeddings and hashes: 5 % cut off each side changes both by about this, and
the hashes of two pictures that only look alike to the CNN differ in 32 bits; see bench/duplicates.py."""

_NEIGHBOURS: Final = 16
_MEMBERS: Final = 8  # of the images with one hash that others are compared with: crowds are of blank pictures
_BLOCK: Final = 8192


@dataclass(frozen=True)
class Groups:
    """Which images are one picture. Arrays are by place, the rows of the index's ids.

    Attributes:
        best: Place of the group's best image; an image that is alone is its own.
        kind: Position in `KINDS` of the weakest likeness by which an image is in its group; -1 for the best.
        cosine: Of the embeddings of an image and its best.
    """

    best: Places
    kind: npt.NDArray[np.int8]
    cosine: Floats

    @property
    def grouped(self) -> Places:
        """Places of images in groups of two and more, group by group, the best first, then by likeness."""
        sizes = np.bincount(self.best, minlength=len(self.best))
        places = np.flatnonzero(sizes[self.best] > 1)
        return places[np.lexsort((places, -self.cosine[places], self.kind[places], self.best[places]))]


def find_duplicates(
    index: Index,
    sharpness: Floats,
    *,
    kind: Kind = "near",
    min_cosine: float = NEAR_COSINE,
    say: Callable[[int, int], None] = lambda _, __: None,
) -> Groups:
    """Group the images of an index that are one picture.

    Args:
        index: Which images.
        sharpness: By place; of two copies of one size the sharper is the better.
        kind: The weakest kind that counts; those before it in `KINDS` count, too.
        min_cosine: For `near`: least cosine of two embeddings.
        say: Is called with how many images are done, and how many there are, while neighbours are looked for.

    Raises:
        QueryError: `min_cosine` is no cosine, or `kind` no kind.
    """
    check(kind, min_cosine)
    joining = _Joining(index, _ranks(index, sharpness))
    joining.join_equal(index.ids.content)
    if kind != "bytes":
        hashed = _hashed_pairs(index, joining.centres, joining.rank)
        joining.join(_fitting(index, hashed, 1, min_cosine), kind=1)
    if kind == "near":
        left = joining.centres
        flipped = _hashed_pairs(index, left, joining.rank, mirror=True)
        alike = _alike_pairs(index, left, min(min_cosine, CROPPED_COSINE), say)
        joining.join(_fitting(index, _together(hashed, flipped, alike), 2, min_cosine), kind=2)
    return joining.groups()


def kinds_of(
    same_bytes: npt.NDArray[np.bool_],
    bits: npt.NDArray[np.integer],
    mirrored_bits: npt.NDArray[np.integer],
    cosine: Floats,
    min_cosine: float,
) -> Places:
    """Return which kind of duplicates pairs of images are: the rule of what is a copy. Arrays (N,).

    Args:
        same_bytes: Whether the files are equal.
        bits: In which the perceptual hashes differ; 64 where one has none.
        mirrored_bits: In which they would if one picture were mirrored.
        cosine: Of the embeddings.
        min_cosine: From which embeddings alone are enough.

    Returns:
        Positions in `KINDS`; their number for pairs that are no copies.
    """
    hashed = bits <= HASH_BITS
    near = (
        (cosine >= min_cosine)
        | ((cosine >= HASHED_COSINE) & (hashed | (mirrored_bits <= HASH_BITS + 1)))
        | ((cosine >= CROPPED_COSINE) & (bits <= CROPPED_BITS))
    )
    rules = [same_bytes, hashed & (cosine >= LEAST_COSINE), near]
    return np.select(rules, range(len(KINDS)), default=len(KINDS))


def hash_bits(index: Index, places: Places, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return in how many bits the hashes of places differ from others; 64 for images without one."""
    return np.where(index.ids.has_phash[places], np.bitwise_count(index.ids.phash[places] ^ hashes), 64)


def check(kind: str, min_cosine: float) -> None:
    """Check the options of duplicates.

    Raises:
        QueryError: One is wrong.
    """
    if kind not in KINDS:
        raise QueryError(f"the kind of duplicates must be one of {', '.join(KINDS)}, got {kind}")
    if not _LEAST_MIN_COSINE <= min_cosine <= 1:
        raise QueryError(f"the least cosine must be from {_LEAST_MIN_COSINE} to 1, got {min_cosine:g}")


class _Joining:
    """Groups as they grow."""

    def __init__(self, index: Index, rank: Places) -> None:
        n = len(index.ids)
        self._index = index
        self.rank = rank
        self._centre = np.arange(n)
        self._kind = np.full(n, -1, np.int8)

    @property
    def centres(self) -> Places:
        """Places of the images that no other stands for, ascending."""
        return np.flatnonzero(self._centre == np.arange(len(self._centre)))

    def join_equal(self, values: npt.NDArray[np.uint64]) -> None:
        """Join images with one value; 0 is none."""
        order = np.lexsort((self.rank, values))
        order = order[values[order] != 0]
        first = np.r_[True, values[order][1:] != values[order][:-1]][: len(order)]
        leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
        self._take(order[~first], leader[~first], kind=0)

    def join(self, pairs: Pairs, *, kind: int) -> None:
        """Let the images that most others are like take those, the best first where they are as many."""
        left, right, _ = pairs
        alone = self._centre == np.arange(len(self._centre))
        usable = alone[left] & alone[right] & (left != right)
        left, right = np.r_[left[usable], right[usable]], np.r_[right[usable], left[usable]]
        left, right = np.unique(np.stack([left, right], axis=1), axis=0).T
        degree = np.bincount(left, minlength=len(alone))
        order = np.lexsort((self.rank[right], self.rank[left], -degree[left]))
        left, right = left[order], right[order]
        edges = [*np.flatnonzero(np.r_[True, left[1:] != left[:-1]][: len(left)]).tolist(), len(left)]
        taken: dict[int, int] = {}
        leads: set[int] = set()
        for start, end in pairwise(edges):
            leader = int(left[start])
            if leader in taken:
                continue
            leads.add(leader)
            for other in right[start:end].tolist():
                if other not in taken and other not in leads:
                    taken[other] = leader
        self._take(np.fromiter(taken, np.int64), np.fromiter(taken.values(), np.int64), kind=kind)

    def _take(self, others: Places, leaders: Places, *, kind: int) -> None:
        """Put others, and whatever they stand for, under their leaders."""
        centre = self._centre.copy()
        centre[others] = leaders
        centre = centre[centre]
        self._kind[centre != self._centre] = kind  # from sure to likely: the weakest is the last
        self._centre = centre

    def groups(self) -> Groups:
        """Return what was grouped, each group with its best."""
        order = np.argsort(self.rank)
        centres, first = np.unique(self._centre[order], return_index=True)
        best_of = np.empty(len(self._centre), np.int64)
        best_of[centres] = order[first]
        best, kind = best_of[self._centre], self._kind.copy()
        moved = centres[best_of[centres] != centres]
        kind[moved], kind[best_of[moved]] = self._kind[best_of[moved]], -1
        cosine = np.ones(len(best), np.float32)
        others = np.flatnonzero(best != np.arange(len(best)))
        cosine[others] = _cosines(self._index, others, best[others])
        return Groups(best, kind, cosine)


def _ranks(index: Index, sharpness: Floats) -> Places:
    """Return of each place how many images are better: the largest is best, then the sharpest."""
    width, height = (
        index.ids.column(name).fill_null(0).to_numpy().astype(np.int64) for name in ("width_px", "height_px")
    )
    places = np.arange(len(width))
    order = np.lexsort((places, -np.nan_to_num(sharpness, nan=-1.0), -(width * height)))
    rank = np.empty_like(places)
    rank[order] = places
    return rank


def _hashed_pairs(index: Index, places: Places, rank: Places, *, mirror: bool = False) -> Pairs:
    """Return pairs of near hashes, or of those that are near with one picture mirrored, and their cosines.

    Of many images with one hash, each is compared with the best few of them only.
    """
    places = places[index.ids.has_phash[places]]
    places = places[np.argsort(rank[places], kind="stable")]
    values, number = np.unique(index.ids.phash[places], return_inverse=True)
    order = np.argsort(number, kind="stable")  # of each hash the best first
    sizes = np.bincount(number, minlength=len(values))
    starts = np.cumsum(sizes) - sizes
    one, other = Hashes(values).near(mirrored(values) if mirror else values, HASH_BITS + mirror)
    few = np.minimum(sizes, _MEMBERS)[other]
    count = sizes[one] * few
    pair = np.repeat(np.arange(len(one)), count)
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
    left = places[order[starts[one[pair]] + nth // few[pair]]]
    right = places[order[starts[other[pair]] + nth % few[pair]]]
    pairs = np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1)[left != right]
    left, right = np.unique(pairs, axis=0).T
    return left, right, _cosines(index, left, right)


def _alike_pairs(index: Index, places: Places, min_cosine: float, say: Callable[[int, int], None]) -> Pairs:
    """Return pairs of near embeddings."""
    slots = index.ids.slots[places]
    allowed = None if len(places) == len(index.ids) else Allowed(np.sort(slots), index.manifest.slots)
    found: list[Pairs] = [_none()]
    for own, others, cosines in neighbours(index, _NEIGHBOURS, slots=slots, allowed=allowed, say=say):
        row, column = np.nonzero((others >= 0) & (cosines >= min_cosine))
        if len(row):
            near = index.ids.places(others[row, column])
            found.append((index.ids.places(own[row]), near, cosines[row, column]))
    return _together(*found)


def _cosines(index: Index, left: Places, right: Places) -> Floats:
    cosine = np.empty(len(left), np.float32)
    slots = index.ids.slots
    for start in range(0, len(left), _BLOCK):
        some = slice(start, start + _BLOCK)
        mine, theirs = index.vectors.take(slots[left[some]]), index.vectors.take(slots[right[some]])
        cosine[some] = np.einsum("nd,nd->n", mine, theirs)
    return cosine


def _fitting(index: Index, pairs: Pairs, kind: int, min_cosine: float) -> Pairs:
    """Return the pairs that are of a kind, or of one before it."""
    left, right, cosine = pairs
    theirs = np.where(index.ids.has_phash[right], index.ids.phash[right], ~index.ids.phash[left])
    fits = (
        kinds_of(
            np.zeros(len(left), np.bool_),  # equal files are joined by then
            hash_bits(index, left, theirs),
            hash_bits(index, left, mirrored(theirs)),
            cosine,
            min_cosine,
        )
        <= kind
    )
    return left[fits], right[fits], cosine[fits]


def _together(*pairs: Pairs) -> Pairs:
    left, right, cosine = zip(*pairs, strict=True)
    return np.concatenate(left), np.concatenate(right), np.concatenate(cosine)


def _none() -> Pairs:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
