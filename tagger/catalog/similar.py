"""Similar products and what peers say of a product's category: from the neighbours of its images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.catalog.pictures import MOST_IMAGES, taken
from tagger.errors import UsageError
from tagger.index.vectors import Allowed

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.catalog.joining import Joined
    from tagger.catalog.pictures import Assortment, Pictures
    from tagger.index.vectors import Floats

    Ints = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

PEERS: Final = 20
"""Other pictures whose products vote on the category of a product."""

_BLOCK: Final = 2048
_SPARE: Final = 16  # products beyond k, for those that turn out to be the same thing again
_LEAST_DEPTH: Final = 64  # neighbours of those who are looked up again, among what may be shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which products may be similar ones.

    Attributes:
        in_stock: Only those that can be bought.
        category: `any`, `same` or `other` than the product's own; one without a category has all.
        min_cosine: Least likeness of a similar product; none by default.
        peer_cosine: Least likeness of a picture whose products vote on a product's category. Photos that have
            nothing in common have about 0.2; lower it where all pictures are as different as that.
    """

    in_stock: bool = False
    category: str = "any"
    min_cosine: float = -1.0
    peer_cosine: float = 0.35

    def __post_init__(self) -> None:
        for name in ("min_cosine", "peer_cosine"):
            if not -1 <= getattr(self, name) <= 1:  # also nan
                raise UsageError(f"{name} must be from -1 to 1, got {getattr(self, name)}")


class Shelf:
    """Which product stands for an image: the first in the catalog that shows it and may be shown.

    Of the products with one image at most one is similar to another product: they look the same.

    Args:
        joined: The products.
        pictures: Their images.
        eligible: Which products may be shown, shape (P,).
    """

    def __init__(self, joined: Joined, pictures: Pictures, eligible: Flags) -> None:
        has = np.flatnonzero((pictures.set_of_product >= 0) & eligible)
        row, image = pictures.images_of(pictures.set_of_product[has])
        product = has[row]
        order = np.lexsort((product, image))
        product, image = product[order], image[order]
        category = joined.category[product]
        n, self._many = len(pictures.places), len(joined.categories) + 1
        self.first = _first_of(image, product, n)
        # The first product of another category than the first one's.
        differs = category != taken(joined.category, self.first)[image]
        self.other = _first_of(image[differs], product[differs], n)
        key, where = np.unique(image * self._many + category + 1, return_index=True)
        self._keys, self._firsts = key, product[where]
        self._category = joined.category

    def product(self, images: Ints, category: Ints, rule: str) -> Ints:
        """Return the product that stands for each image, -1 for none.

        Args:
            images: Numbers of images, any shape; -1 gives -1.
            category: The category it is asked for, of the same shape.
            rule: As in `Rules.category`.
        """
        found = taken(self.first, images)
        if rule == "other":
            same = (category >= 0) & (taken(self._category, found) == category)
            found = np.where(same, taken(self.other, images), found)
        elif rule == "same" and len(self._keys):
            key = images * self._many + category + 1
            at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            own = np.where(self._keys[at] == key, self._firsts[at], -1)
            found = np.where(category >= 0, own, found)
        return np.where(images >= 0, found, -1)


def _first_of(image: Ints, product: Ints, n: int) -> Ints:
    found = np.full(n, -1, np.int64)
    found[image[::-1]] = product[::-1]  # the first is written last
    return found


@dataclass(frozen=True)
class Similar:
    """Similar products by unit.

    Attributes:
        products: Shape (N, k), best first; -1 where there are no more.
        cosine: Of the nearest two images of the two products.
        peer_category: What the peers' categories say: the one with the most weight; -1 where there are none.
        peer_share: Its share of the weight, in [0, 1].
        own_share: The share of the product's own category.
        peers: How many peers voted.
    """

    products: npt.NDArray[np.int32]
    cosine: Floats
    peer_category: Ints
    peer_share: Floats
    own_share: Floats
    peers: Ints


class Chooser:
    """Chooses similar products.

    Args:
        assortment: What there is to choose from.
        rules: Which products may be chosen.
        k: How many.
        threads: To work with; NumPy lets go of the interpreter while it sorts.
    """

    def __init__(self, assortment: Assortment, rules: Rules, k: int, *, threads: int = 1) -> None:
        joined, pictures = assortment.joined, assortment.pictures
        self._index = assortment.index
        self._joined = joined
        self._pictures = pictures
        self._like = assortment.likeness
        self._many = len(pictures.places) + 1
        self._units = assortment.units
        self._rules = rules
        self._k = k
        self._threads = threads
        self._number_of = np.full(len(assortment.index.ids), -1, np.int64)
        self._number_of[pictures.places] = np.arange(len(pictures.places))
        everything = np.ones(joined.products, np.bool_)
        self._shelf = Shelf(joined, pictures, joined.stock if rules.in_stock else everything)
        self._all = Shelf(joined, pictures, everything)

    def choose(self) -> Similar:
        """Choose for all units."""
        some = self._units
        n = len(some.set)
        made = Similar(
            np.full((n, self._k), -1, np.int32),
            np.full((n, self._k), -np.inf, np.float32),
            np.full(n, -1, np.int64),
            np.zeros(n, np.float32),
            np.zeros(n, np.float32),
            np.zeros(n, np.int64),
        )
        sizes = np.minimum(self._pictures.starts[some.set + 1] - self._pictures.starts[some.set], 64)
        # So that the rows of a block are about as long, and where categories are looked up again, of few.
        first = some.category if self._rules.category == "same" else np.zeros(n, np.int64)
        order = np.lexsort((sizes, first))
        blocks = [order[start : start + _BLOCK] for start in range(0, n, _BLOCK)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="tagger-similar") as threads:
            list(threads.map(lambda rows: self._block(rows, made), blocks))  # each writes its own rows
        return made

    def _block(self, rows: Ints, made: Similar) -> None:
        own = self._pictures.padded(self._units.set[rows])
        near = taken(self._like.near, own).reshape(len(rows), -1)
        cosine = taken(self._like.cosine, own, none=-np.inf).reshape(len(rows), -1)
        near, cosine = _best_first(near, cosine)
        sets = self._units.set[rows]
        mine = self._own(sets)
        near, picture = self._others(mine, near)
        category = self._units.category[rows]
        self._vote(rows, np.where(_repeated(picture), -1, near), cosine, category, made)
        products, scores = self._picked(mine, near, picture, cosine, category)
        short = np.flatnonzero(products[:, -1] < 0)
        if len(short) and self._like.near.shape[1] < len(self._pictures.places) - 1:
            self._look_again(own[short], sets[short], category[short], short, (products, scores))
        made.products[rows], made.cosine[rows] = products, scores

    def _own(self, sets: Ints) -> Ints:
        """Return the pictures of sets as keys, ascending: the row times `_many`, and the picture."""
        row, image = self._pictures.images_of(sets)
        own: Ints = np.unique(row * self._many + self._like.picture[image])
        return own

    def _others(self, mine: Ints, near: Ints) -> tuple[Ints, Ints]:
        """Leave out images of the product itself and copies of them; return also which picture each shows."""
        picture = taken(self._like.picture, near)
        known = np.isin(np.arange(len(near))[:, None] * self._many + picture, mine)
        return np.where(known, -1, near), np.where(known, -1, picture)

    def _picked(
        self, mine: Ints, near: Ints, picture: Ints, cosine: Floats, category: Ints
    ) -> tuple[Ints, Floats]:
        """Return the products that stand for images, one for each picture and none twice.

        A product that has any picture in common with the one it would be similar to is the same thing again.
        """
        asked = np.broadcast_to(category[:, None], near.shape)
        near = np.where(cosine >= self._rules.min_cosine, near, -1)
        products = self._shelf.product(near, asked, self._rules.category)
        products = np.where(_repeated(np.where(products >= 0, picture, -1)), -1, products)
        products = np.where(_repeated(products), -1, products)
        products, cosine = _packed(products, cosine, self._k + _SPARE)
        return _packed(np.where(self._shares(mine, products), -1, products), cosine, self._k)

    def _shares(self, mine: Ints, products: Ints) -> Flags:
        """Tell which products, shape (N, any), show a picture that their row's own keys have, too."""
        flat = taken(self._pictures.set_of_product, products.reshape(-1))
        other, shown = self._pictures.images_of(flat)
        key = other // products.shape[1] * self._many + self._like.picture[shown]
        found = np.zeros(products.size, np.bool_)
        found[other[np.isin(key, mine)]] = True
        return found.reshape(products.shape)

    def _vote(self, rows: Ints, near: Ints, cosine: Floats, category: Ints, made: Similar) -> None:
        theirs = taken(self._joined.category, taken(self._all.first, near))
        theirs, weight = _packed(np.where(cosine >= self._rules.peer_cosine, theirs, -1), cosine, PEERS)
        weight = np.where(theirs >= 0, weight, 0)
        total = np.maximum(weight.sum(axis=1), 1e-9)
        votes = (weight[:, None, :] * (theirs[:, :, None] == theirs[:, None, :])).sum(axis=2)
        best = votes.argmax(axis=1)
        made.peer_category[rows] = theirs[np.arange(len(rows)), best]
        made.peer_share[rows] = votes[np.arange(len(rows)), best] / total
        made.own_share[rows] = (weight * (theirs == category[:, None])).sum(axis=1) / total
        made.peers[rows] = (theirs >= 0).sum(axis=1)

    def _look_again(
        self, own: Ints, sets: Ints, category: Ints, short: Ints, made: tuple[Ints, Floats]
    ) -> None:
        """Look farther, among images of products that may be shown only."""
        n = len(self._pictures.places)
        by_category = np.unique(category) if self._rules.category == "same" else np.array([-1])
        for one in by_category.tolist():
            mine = (
                np.flatnonzero(category == one) if self._rules.category == "same" else np.arange(len(short))
            )
            stands = self._shelf.product(np.arange(n), np.full(n, one), self._rules.category)
            fits = np.flatnonzero(stands >= 0)
            # Of copies one will do: a crowd of them would leave no room for others.
            fits = fits[np.unique(self._like.picture[fits], return_index=True)[1]]
            found = (made[0][short[mine]] >= 0).sum(axis=1)
            mine = mine[found < min(self._k, len(fits))]
            if not len(mine):
                continue
            products, scores = self._search(own[mine], sets[mine], category[mine], fits)
            made[0][short[mine]], made[1][short[mine]] = products, scores

    def _search(self, own: Ints, sets: Ints, category: Ints, fits: Ints) -> tuple[Ints, Floats]:
        index, places = self._index, self._pictures.places
        slots = np.sort(index.ids.slots[places[fits]])
        depth = min(len(fits), max(_LEAST_DEPTH, MOST_IMAGES * (self._k + 2)))
        has = own >= 0
        asked, which = np.unique(own[has], return_inverse=True)
        queries = index.vectors.take(index.ids.slots[places[asked]])
        cosine, found = index.nearest(queries, depth, Allowed(slots, index.manifest.slots))
        near = np.full((*own.shape, depth), -1, np.int64)
        near[has] = np.where(found >= 0, self._number_of[index.ids.places(np.maximum(found, 0))], -1)[which]
        far = np.full((*own.shape, depth), -np.inf, np.float32)
        far[has] = cosine[which]
        ordered, weights = _best_first(near.reshape(len(own), -1), far.reshape(len(own), -1))
        mine = self._own(sets)
        return self._picked(mine, *self._others(mine, ordered), weights, category)


def _best_first(near: Ints, cosine: Floats) -> tuple[Ints, Floats]:
    order = np.argsort(-cosine, axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(cosine, order, axis=1)


def _repeated(values: Ints) -> Flags:
    """Tell which values of a row are there before; -1 never is."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, np.bool_)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    found = np.empty_like(again)
    np.put_along_axis(found, order, again, axis=1)
    return found


def _packed(values: Ints, weight: Floats, k: int) -> tuple[Ints, Floats]:
    """Return the first `k` values of each row that are not -1."""
    nth = np.cumsum(values >= 0, axis=1) - 1
    keep = (values >= 0) & (nth < k)
    row, column = np.nonzero(keep)
    found = np.full((len(values), k), -1, np.int64)
    weights = np.full((len(values), k), -np.inf, np.float32)
    found[row, nth[row, column]] = values[row, column]
    weights[row, nth[row, column]] = weight[row, column]
    return found, weights
