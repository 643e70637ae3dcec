"""What is the matter with a product's pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.catalog.describing import as_lists
from tagger.catalog.joining import FAILED
from tagger.catalog.pictures import taken
from tagger.errors import UsageError
from tagger.index.ranges import ranges, ranks

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.catalog.pictures import Assortment
    from tagger.catalog.similar import Similar

    Ints = npt.NDArray[np.int64]
    # Positions of products, flags (positions in `FLAGS`), images and details.
    _Found = tuple[Ints, Ints, pa.Array, pa.Array]

FLAG: Final = pa.struct([("flag", pa.string()), ("image", pa.string()), ("detail", pa.string())])

BLURRED, TOO_SMALL, TOO_DARK, DUPLICATE_OF, UNLIKE, MISSING, BROKEN = range(7)
FLAGS: Final = (
    "blurred",
    "too_small",
    "too_dark",
    "duplicate_of",
    "looks_unlike_its_category",
    "image_missing",
    "image_failed",
)


MOST_FLAGS: Final = 50
"""That are listed of a product: an id that stands for thousands of rows would fill the file with them."""

_LIGHT: Final = 0.4  # brightness below which a picture is taken for dark


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagRules:
    """When a picture is flagged. bench/catalog.py states what these find.

    Attributes:
        min_sharpness: Below it a picture is blurred; see `tagger.vision.measure.sharpness`. Of dark ones,
            whose edges are fainter, less is asked, by the square of their brightness.
        min_side_px: Least width and height. 500 is what Google Merchant Center asks of every image from
            31 January 2027 on.
        min_brightness: Mean luma in [0, 1] below which a picture is too dark.
        min_peers: Other pictures that must have a category before they say that a product is not like it.
        most_own_share: A product is not like its category if at most this share of the weight of its peers
            is of its own, and
        least_other_share: at least this of one other.
    """

    min_sharpness: float = 100.0
    min_side_px: int = 500
    min_brightness: float = 0.15
    min_peers: int = 8
    most_own_share: float = 0.15
    least_other_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("min_sharpness", "min_side_px", "min_brightness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("most_own_share", "least_other_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be from 0 to 1, got {getattr(self, name)}")


class Flagger:
    """Finds the flags of products.

    Args:
        assortment: Which products.
        similar: What their peers say.
        rules: When a picture is flagged.
    """

    def __init__(self, assortment: Assortment, similar: Similar, rules: FlagRules) -> None:
        index, joined, pictures = assortment.index, assortment.joined, assortment.pictures
        units = assortment.units
        self._index = index
        self._joined = joined
        self._pictures = pictures
        self._units = units
        self._similar = similar
        self._sharpness, self._brightness = (
            joined.measures.column(name).to_numpy() for name in ("sharpness", "brightness")
        )
        self._sizes = np.stack(
            [
                index.ids.column(name).take(pa.array(pictures.places)).fill_null(0).to_numpy()
                for name in ("width_px", "height_px")
            ],
            axis=1,
        )
        with np.errstate(invalid="ignore"):
            light = np.minimum(self._brightness / _LIGHT, 1)
            self._bad = {
                BLURRED: self._sharpness < rules.min_sharpness * light**2,
                TOO_SMALL: self._sizes.min(axis=1, initial=1 << 30) < rules.min_side_px,
                TOO_DARK: self._brightness < rules.min_brightness,
            }
        self._unlike = (
            (units.category >= 0)
            & (similar.peer_category != units.category)
            & (similar.peers >= rules.min_peers)
            & (similar.own_share <= rules.most_own_share)
            & (similar.peer_share >= rules.least_other_share)
        )
        self._named = np.bincount(joined.product_of_row[joined.rows], minlength=joined.products) > 0
        self._picture = assortment.likeness.picture
        self._first = self._first_products()
        problem_rows = joined.rows[joined.problems.column("position").to_numpy()]
        self._problem_products = joined.product_of_row[problem_rows]
        self._problem_order = np.argsort(self._problem_products, kind="stable")
        self._problem_products = self._problem_products[self._problem_order]

    def _first_products(self) -> Ints:
        """Return the first product that shows each picture, by the number of the picture."""
        pictures = self._pictures
        first = np.full(len(pictures.places), self._joined.products, np.int64)
        products = np.flatnonzero(pictures.set_of_product >= 0)
        row, image = self._images_of(products)
        np.minimum.at(first, self._picture[image], products[row])
        return first

    def _images_of(self, products: Ints) -> tuple[Ints, Ints]:
        """Return the images of products: positions in `products`, and numbers of images."""
        return self._pictures.images_of(taken(self._pictures.set_of_product, products))

    def of(self, products: Ints) -> tuple[pa.ListArray, npt.NDArray[np.bool_]]:
        """Return the flags of products as lists of `FLAG`, and which flags each has, shape (N, flags).

        Args:
            products: Shape (N,); -1 has none.
        """
        row, image = self._images_of(products)
        found = [
            *(self._measured(flag, bad, row, image) for flag, bad in self._bad.items()),
            self._copies(products, row, image),
            self._strangers(products),
            self._problems(products),
            self._without_names(products),
        ]
        owner = np.concatenate([one[0] for one in found])
        flag = np.concatenate([one[1] for one in found])
        order = np.argsort(owner, kind="stable")
        order = order[ranks(owner[order]) < MOST_FLAGS]
        values = pa.StructArray.from_arrays(
            [
                pa.array(FLAGS).take(pa.array(flag)),
                pa.concat_arrays([one[2] for one in found]),
                pa.concat_arrays([one[3] for one in found]),
            ],
            fields=list(FLAG),
        )
        has = np.zeros((len(products), len(FLAGS)), np.bool_)
        has[owner, flag] = True
        return as_lists(owner[order], values.take(pa.array(order)), len(products)), has

    def _measured(self, flag: int, bad: npt.NDArray[np.bool_], row: Ints, image: Ints) -> _Found:
        at = np.flatnonzero(bad[image])
        image = image[at]
        if flag == TOO_SMALL:
            told = [f"{width} x {height} pixels" for width, height in self._sizes[image].tolist()]
        elif flag == BLURRED:
            told = [f"sharpness {value:.0f}" for value in self._sharpness[image].tolist()]
        else:
            told = [f"brightness {value:.2f}" for value in self._brightness[image].tolist()]
        return row[at], np.full(len(at), flag), self._names(image), pa.array(told, pa.string())

    def _copies(self, products: Ints, row: Ints, image: Ints) -> _Found:
        first = self._first[self._picture[image]]
        at = np.flatnonzero(first < products[row])
        at = at[np.unique(row[at] * (self._joined.products + 1) + first[at], return_index=True)[1]]
        keys = self._joined.keys.take(pa.array(first[at])).cast(pa.string())
        return row[at], np.full(len(at), DUPLICATE_OF), self._names(image[at]), keys

    def _strangers(self, products: Ints) -> _Found:
        unit = taken(self._units.of_product, products)
        at = np.flatnonzero(taken(self._unlike, unit, none=False))
        theirs = self._similar.peer_category[unit[at]]
        share = self._similar.peer_share[unit[at]]
        told = [
            f"looks like {self._joined.categories[category]} ({part:.0%} of those like it)"
            for category, part in zip(theirs.tolist(), share.tolist(), strict=True)
        ]
        return at, np.full(len(at), UNLIKE), pa.nulls(len(at), pa.string()), pa.array(told, pa.string())

    def _problems(self, products: Ints) -> _Found:
        begin = np.searchsorted(self._problem_products, products)
        size = np.where(products >= 0, np.searchsorted(self._problem_products, products, "right") - begin, 0)
        row, at = ranges(begin, size)
        told = self._joined.problems.take(pa.array(self._problem_order[at]))
        failed = pc.equal(told.column("problem"), FAILED).to_numpy(zero_copy_only=False)
        return (
            row,
            np.where(failed, BROKEN, MISSING),
            told.column("name").combine_chunks(),
            told.column("detail").combine_chunks(),
        )

    def _without_names(self, products: Ints) -> _Found:
        at = np.flatnonzero(~taken(self._named, products, none=True))
        told = pa.array(["the catalog names no image"] * len(at), pa.string())
        return at, np.full(len(at), MISSING), pa.nulls(len(at), pa.string()), told

    def _names(self, images: Ints) -> pa.Array:
        slots = self._index.ids.slots[self._pictures.places[images]]
        return self._index.ids.take_ids(slots).cast(pa.string())
