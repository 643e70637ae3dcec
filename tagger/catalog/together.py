"""Products that the same customers like, from a file of events."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from tagger.index.ranges import ranges, ranks
from tagger.search.events import EventOptions, Events, Items
from tagger.search.together import Together
from tagger.settings import load_settings
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from tagger.catalog.pictures import Assortment
    from tagger.index.vectors import Floats

    Ints = npt.NDArray[np.int64]

_MEMORY_BYTES: Final = 512 << 20


class LikedTogether:
    """For every product those that are liked with it, the strongest first; see `tagger.search.together`.

    Events name products, or images, which stand for the first product that shows them.

    Args:
        assortment: The products.
        path: The events; see `tagger.search.events.Events`.
        eligible: Which products may be recommended, shape (P,).
        say: Takes a line at a time for the person who waits.

    Attributes:
        unknown: Events of products and images that are not in the catalog.

    Raises:
        UsageError: The file cannot be used; the text says why.
        RunError: The disk is full.
    """

    def __init__(
        self,
        assortment: Assortment,
        path: Path,
        eligible: npt.NDArray[np.bool_],
        *,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._eligible = eligible
        settings = load_settings()
        with (
            spill_folder(settings.cache_dir, f"enrich-events-{uuid.uuid4().hex}") as folder,
            Events(
                _items(assortment),
                path,
                options=EventOptions(),
                products=None,
                folder=folder,
                memory_bytes=_MEMORY_BYTES,
                threads=settings.cpus,
            ) as events,
        ):
            say(f"{events.events:,} events of {events.users:,} users")
            self.unknown = events.unknown
            with events.explained():
                self._together = Together.of(events.database, assortment.joined.products)

    def of(self, products: Ints, k: int) -> tuple[Ints, Ints, Floats]:
        """Return the products liked with some others, best first.

        Args:
            products: Shape (N,); -1 has none.
            k: Most for each.

        Returns:
            Positions in `products`, ascending; products; strengths in (0, 1].
        """
        starts = self._together.starts[np.maximum(products, 0)]
        sizes = np.where(products >= 0, self._together.starts[products + 1] - starts, 0)
        row, at = ranges(starts, sizes)
        other = self._together.slots[at].astype(np.int64)
        keep = np.flatnonzero(self._eligible[other])
        row, other, at = row[keep], other[keep], at[keep]
        first = ranks(row) < k
        return row[first], other[first], self._together.strengths[at[first]]


def _items(assortment: Assortment) -> Items:
    joined, pictures, index = assortment.joined, assortment.pictures, assortment.index
    row, image = pictures.images_of(pictures.set_of_product)
    shown, first = np.unique(image, return_index=True)  # products ascend
    names = index.ids.take_ids(index.ids.slots[pictures.places[shown]])
    return Items(
        images=pa.table({"image_id": names, "slot": row[first]}),
        products=pa.table({"product_id": joined.keys, "slot": np.arange(joined.products)}),
    )
