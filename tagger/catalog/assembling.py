"""The rows of an enriched catalog: what all parts of this folder say, put together batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from tagger.catalog.describing import Describer, as_lists, rounded
from tagger.catalog.flags import FLAGS, Flagger
from tagger.catalog.pictures import Assortment, likeness, taken, units, used_pictures
from tagger.catalog.schema import PRODUCT, RECOMMENDED, our_columns
from tagger.catalog.similar import Chooser
from tagger.catalog.suggesting import suggest
from tagger.catalog.together import LikedTogether
from tagger.catalog.writing import PRODUCT_PICTURES, ROW_PICTURES, Rows
from tagger.index.ranges import ranges
from tagger.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from tagger.catalog.joining import Joined
    from tagger.catalog.options import EnrichOptions
    from tagger.catalog.pictures import Pictures, Search
    from tagger.catalog.table import CatalogTable
    from tagger.index import Index
    from tagger.index.vectors import Floats
    from tagger.search import Collection

    Ints = npt.NDArray[np.int64]

_NEIGHBOURS: Final = 64
_NONE_JOINED: Final = (
    "products, and none has a picture of this collection: is it the right one, and does --image-column name "
    "the images?"
)


class Assembler:
    """All that is known of the products of a catalog, put behind its rows.

    Args:
        collection: Whose images.
        index: Its index.
        joined: The products with their images.
        options: What is made of them.
        search: Who looks neighbours up: this process, or a cluster.
        say: Takes a line at a time for the person who waits.

    Attributes:
        pictures: The images that the catalog uses.
        done: Rows so far.
        remarks: What is worth knowing, with numbers.
        flagged: Products so far by flag, in the order of `FLAGS`.
    """

    def __init__(
        self,
        collection: Collection,
        index: Index,
        joined: Joined,
        options: EnrichOptions,
        *,
        search: Search,
        say: Callable[[str], None],
    ) -> None:
        self._index = index
        self._joined = joined
        self.done = 0
        self.flagged = np.zeros(len(FLAGS), np.int64)
        self.remarks: dict[str, int] = {}
        self.pictures: Pictures = used_pictures(joined)
        if joined.products and not len(self.pictures.places):
            self.remarks[_NONE_JOINED] = joined.products
        like = likeness(
            index,
            self.pictures,
            max(_NEIGHBOURS, 4 * options.k),
            search=search,
            say=lambda done, of: say(f"{done:,} of {of:,} images compared"),
        )
        seen = Assortment(index, joined, self.pictures, like, units(joined, self.pictures))
        self._units = seen.units
        self._similar = Chooser(seen, options.similar, options.k, threads=load_settings().cpus).choose()
        taxonomy = None if options.taxonomy is None else Path(options.taxonomy)
        self._suggestions = suggest(collection, seen, self._similar, taxonomy=taxonomy)
        self._k = options.k
        self._columns = our_columns(with_events=options.events is not None).names
        self._together = None
        if options.events is not None:
            eligible = joined.stock if options.similar.in_stock else np.ones(joined.products, np.bool_)
            self._together = LikedTogether(seen, Path(options.events), eligible, say=say)
            if self._together.unknown:
                self.remarks["events of products that are not in the catalog"] = self._together.unknown
        self._describer = Describer(index, self.pictures)
        self._alt = self._describer.alt_texts()
        self._flagger = Flagger(seen, self._similar, options.flags)
        category = joined.category
        self._categories = pa.array(joined.categories, pa.string()).take(
            pa.array(category, mask=category < 0)
        )
        # Names that mean an image, by row and by product: positions in the arrays of `joined`.
        self._entries = np.flatnonzero(joined.places >= 0)
        products = joined.product_of_row[joined.rows[self._entries]]
        order = np.argsort(products, kind="stable")
        self._by_product, self._entry_products = self._entries[order], products[order]

    def rows(self, table: CatalogTable) -> Iterator[Rows]:
        """Yield the rows of the catalog with what is said of them."""
        seen = np.zeros(self._joined.products, np.bool_)
        for own in table.batches():
            table.require_unchanged()
            products = self._joined.product_of_row[self.done : self.done + len(own)]
            known = np.flatnonzero(products >= 0)
            is_first = np.zeros(len(own), np.bool_)
            _, first = np.unique(products[known], return_index=True)
            is_first[known[first]] = True
            is_first[known] &= ~seen[products[known]]
            seen[products[known]] = True
            ours = self._ours(products, self.done, is_first)
            self.done += len(own)
            again = pa.array(products, mask=products < 0)
            title = None if self._joined.titles is None else self._joined.titles.take(again)
            yield Rows(own, ours, is_first, self._categories.take(again), title)

    def _ours(self, products: Ints, start: int, is_first: npt.NDArray[np.bool_]) -> dict[str, pa.Array]:
        # Of a product with many rows everything is worked out once.
        different, which = np.unique(products, return_inverse=True)
        sets = taken(self.pictures.set_of_product, different)
        unit = taken(self._units.of_product, products)
        category, score, source = self._suggestions.of(unit)
        flags, has_flag = self._flagger.of(different)
        self.flagged += has_flag[which[is_first]].sum(axis=0)
        again = pa.array(which)
        ours = {
            **self._images(start, len(products)),
            **{name: lists.take(again) for name, lists in self._describer.sets(sets).items()},
            "category_suggestion": category,
            "category_score": score,
            "category_source": source,
            "similar_products": self._similar_products(unit),
            "quality_flags": flags.take(again),
        }
        if self._together is not None:
            row, other, strength = self._together.of(products, self._k)
            ours[RECOMMENDED.name] = self._products(row, other, strength, none=products < 0)
        return {name: ours[name] for name in self._columns} | self._named(products, start)

    def _images(self, start: int, n: int) -> dict[str, pa.Array]:
        begin, end = np.searchsorted(self._joined.rows, [start, start + n])
        row, place = self._joined.rows[begin:end] - start, self._joined.places[begin:end]
        row, place = row[place >= 0], place[place >= 0]
        number = np.searchsorted(self.pictures.places, place)
        names = self._index.ids.take_ids(self._index.ids.slots[place]).cast(pa.string())
        return {
            "image_ids": as_lists(row, names, n),
            "alt_text": as_lists(row, self._alt.take(pa.array(number)).cast(pa.string()), n),
        }

    def _named(self, products: Ints, start: int) -> dict[str, pa.Array]:
        """Return the images by the names that the catalog has for them, of rows and of products."""
        if self._joined.names is None:
            return {}
        begin, end = np.searchsorted(self._joined.rows[self._entries], [start, start + len(products)])
        row = self._joined.rows[self._entries[begin:end]] - start
        firsts, lasts = (np.searchsorted(self._entry_products, products, side) for side in ("left", "right"))
        sizes = np.where(products >= 0, lasts - firsts, 0)
        of_products, at = ranges(firsts, sizes)
        return {
            ROW_PICTURES: as_lists(row, self._pictures_at(self._entries[begin:end]), len(products)),
            PRODUCT_PICTURES: as_lists(of_products, self._pictures_at(self._by_product[at]), len(products)),
        }

    def _pictures_at(self, entries: Ints) -> pa.StructArray:
        number = np.searchsorted(self.pictures.places, self._joined.places[entries])
        assert self._joined.names is not None
        names = self._joined.names.take(pa.array(entries)).cast(pa.string())
        alt = self._alt.take(pa.array(number)).cast(pa.string())
        return pa.StructArray.from_arrays([names, alt], names=["name", "alt"])

    def _similar_products(self, unit: Ints) -> pa.ListArray:
        products = taken(self._similar.products, unit)
        row, column = np.nonzero(products >= 0)
        scores = np.clip(self._similar.cosine[unit[row], column], 0, 1)
        return self._products(row, products[row, column], scores, none=unit < 0)

    def _products(
        self, row: Ints, products: Ints, scores: Floats, *, none: npt.NDArray[np.bool_]
    ) -> pa.ListArray:
        keys = self._joined.keys.take(pa.array(products))
        values = pa.StructArray.from_arrays([keys, rounded(scores)], fields=list(PRODUCT))
        return as_lists(row, values, len(none), none=none)
