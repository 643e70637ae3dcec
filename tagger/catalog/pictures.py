"""The images that a catalog uses: which products show them, what they are like, which are one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.index.ranges import ranges
from tagger.index.vectors import Allowed
from tagger.search.fold import HASH_BITS, LEAST_COSINE, SAME_COSINE
from tagger.search.neighbours import neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from tagger.catalog.joining import Joined
    from tagger.index import Index
    from tagger.index.vectors import Floats, Slots

    Ints = npt.NDArray[np.int64]
    # Finds neighbours, as `tagger.search.neighbours.neighbours` does; blocks may come in any order.
    Search = Callable[..., Iterator[tuple[Slots, Slots, Floats]]]

MOST_IMAGES: Final = 8
"""Of a product, so many of its images are compared with those of others; all are described."""


def taken(values: npt.NDArray[Any], at: Ints, none: Any = -1) -> npt.NDArray[Any]:
    """Return the values at some positions, and `none` where the position is -1."""
    if not len(values):
        return np.full((*at.shape, *values.shape[1:]), none, values.dtype)
    found = values[np.maximum(at, 0)]
    found[at < 0] = none
    return found


@dataclass(frozen=True)
class Pictures:
    """The images that the catalog uses, by number, and which product shows which.

    Attributes:
        places: Place in the index of each, ascending, shape (U,).
        starts: Where the images of each set begin in `members`, shape (S + 1,).
        members: Numbers of images, set by set, in the order of the catalog.
        set_of_product: Which images a product has, shape (P,); -1 for none.
    """

    places: Ints
    starts: Ints
    members: Ints
    set_of_product: Ints

    @property
    def sets(self) -> int:
        """Different sets of images: products with the same images share one."""
        return len(self.starts) - 1

    def images_of(self, sets: Ints) -> tuple[Ints, Ints]:
        """Return all images of some sets: of each the position of its set in `sets`, and its number.

        Args:
            sets: Shape (N,); -1 has no images.
        """
        starts = self.starts[np.maximum(sets, 0)]
        sizes = np.where(sets >= 0, self.starts[sets + 1] - starts, 0)
        row, at = ranges(starts, sizes)
        return row, self.members[at]

    def padded(self, sets: Ints, most: int = MOST_IMAGES) -> Ints:
        """Return the first images of some sets, shape (N, at most `most`), -1 where a set has fewer."""
        sizes = np.minimum(self.starts[sets + 1] - self.starts[sets], most)
        columns = np.arange(max(1, int(sizes.max(initial=1))))
        at = np.minimum(self.starts[sets][:, None] + columns, max(0, len(self.members) - 1))
        return np.where(columns < sizes[:, None], self.members[at], -1)


def used_pictures(joined: Joined) -> Pictures:
    """Return the images of a catalog. An image that a product names twice counts once."""
    known = joined.places >= 0
    product = joined.product_of_row[joined.rows[known]]
    places, number = np.unique(joined.places[known], return_inverse=True)
    _, first = np.unique(product * (len(places) + 1) + number, return_index=True)
    first = np.sort(first)
    order = first[np.argsort(product[first], kind="stable")]
    product, number = product[order], number[order].astype(np.int64)
    begins = np.flatnonzero(np.r_[True, product[1:] != product[:-1]][: len(product)])
    ends = np.append(begins[1:], len(product))

    set_of_product = np.full(joined.products, -1, np.int64)
    single = ends - begins == 1
    set_of_product[product[begins[single]]] = number[begins[single]]
    # Sets of one image are those images; of more, each different list gets a number behind them.
    lists: dict[tuple[int, ...], int] = {}
    for begin, end in zip(begins[~single].tolist(), ends[~single].tolist(), strict=True):
        members = tuple(number[begin:end].tolist())
        set_of_product[product[begin]] = len(places) + lists.setdefault(members, len(lists))
    sizes = np.r_[np.ones(len(places), np.int64), np.array([len(one) for one in lists], np.int64)]
    members = np.r_[np.arange(len(places)), np.array([one for some in lists for one in some], np.int64)]
    return Pictures(places, np.r_[0, np.cumsum(sizes)], members, set_of_product)


@dataclass(frozen=True)
class Likeness:
    """The nearest other images of each, among those that the catalog uses.

    Attributes:
        near: Their numbers, best first, shape (U, K); -1 where there are no more.
        cosine: Of the embeddings.
        picture: A number that images which show one picture share, shape (U,).
    """

    near: npt.NDArray[np.int32]
    cosine: Floats
    picture: Ints


@dataclass(frozen=True)
class Units:
    """Products that get the same answers: those with the same images and the same category.

    Attributes:
        of_product: Unit of each product, shape (P,); -1 for one without images.
        set: Images of each unit, shape (N,).
        category: Its category; -1 for none.
    """

    of_product: Ints
    set: Ints
    category: Ints


def units(joined: Joined, pictures: Pictures) -> Units:
    """Group products by images and category."""
    has = pictures.set_of_product >= 0
    many = len(joined.categories) + 1
    key = pictures.set_of_product[has] * many + joined.category[has] + 1
    values, number = np.unique(key, return_inverse=True)
    of_product = np.full(joined.products, -1, np.int64)
    of_product[has] = number
    return Units(of_product, values // many, values % many - 1)


@dataclass(frozen=True)
class Assortment:
    """What a catalog shows, and how alike it is.

    Attributes:
        index: What knows the images.
        joined: The products.
        pictures: Their images.
        likeness: The images' neighbours.
        units: Products by images and category.
    """

    index: Index
    joined: Joined
    pictures: Pictures
    likeness: Likeness
    units: Units


def likeness(
    index: Index,
    pictures: Pictures,
    k: int,
    *,
    search: Search = neighbours,
    say: Callable[[int, int], None] = lambda _, __: None,
) -> Likeness:
    """Look up the neighbours of every image that is used, once.

    Args:
        index: Where.
        pictures: Which images.
        k: Neighbours of each.
        search: Who looks: this process, or a cluster.
        say: Is called with how many images are done, and how many there are.
    """
    n = len(pictures.places)
    k = max(1, min(k, n - 1))
    near = np.full((n, k), -1, np.int32)
    cosine = np.full((n, k), -np.inf, np.float32)
    slots = index.ids.slots[pictures.places]
    number_of = np.full(len(index.ids), -1, np.int64)
    number_of[pictures.places] = np.arange(n)
    allowed = None if n == len(index.ids) else Allowed(np.sort(slots), index.manifest.slots)
    if n > 1:
        for own, found, scores in search(index, k, slots=slots, allowed=allowed, say=say):
            mine = number_of[index.ids.places(own)]
            near[mine] = np.where(found >= 0, number_of[index.ids.places(np.maximum(found, 0))], -1)
            cosine[mine] = scores
    return Likeness(near, cosine, _pictures(index, pictures, near, cosine))


def _pictures(index: Index, pictures: Pictures, near: npt.NDArray[np.int32], cosine: Floats) -> Ints:
    """Number the pictures: of images that show one, by the rule that folds results, the lowest number.

    Copies of copies show the picture, too.
    """
    phash, hashed = index.ids.phash[pictures.places], index.ids.has_phash[pictures.places]
    pairs = [np.empty((0, 2), np.int64)]
    for column in range(near.shape[1]):
        other = near[:, column].astype(np.int64)
        row = np.flatnonzero((other >= 0) & (cosine[:, column] >= LEAST_COSINE))
        if not len(row):
            break  # they are in order: no later one is alike
        other = other[row]
        same = (np.bitwise_count(phash[row] ^ phash[other]) <= HASH_BITS) & hashed[row] & hashed[other]
        same |= cosine[row, column] >= SAME_COSINE
        pairs.append(np.stack([row[same], other[same]], axis=1))
    one, other = np.concatenate(pairs).T
    label = np.arange(len(near))
    while True:
        before = label.copy()
        least = np.minimum(label[one], label[other])
        np.minimum.at(label, one, least)
        np.minimum.at(label, other, least)
        label = label[label]
        if (label == before).all():
            return label
