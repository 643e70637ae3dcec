"""Images that do not look like their peers.

The measure is the mean cosine distance to the k nearest other images (Ramaswamy, Rastogi and Shim, «Efficient
algorithms for mining outliers from large data sets», 2000; the mean instead of the k-th, as Angiulli and
Pizzuti, 2002), given as a percentile: 0.99 is farther from its neighbours than 99 of 100 images are. Copies
of one picture do not count as each other's neighbours, or a strange picture would be usual once it is there
twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tagger.errors import QueryError
from tagger.index.filters import Filter
from tagger.outfile import out_file
from tagger.search.fold import SAME_COSINE
from tagger.search.neighbours import neighbours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from tagger.index import Index
    from tagger.index.vectors import Allowed, Floats, Slots
    from tagger.search.collection import Collection

SCHEMA: Final = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("percentile", pa.float32(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
        ("nearest", pa.string()),
    ]
)

NEIGHBOURS: Final = 10
SHARE: Final = 0.01
_SPARE: Final = 10  # neighbours more that are asked for, as some may be copies
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers:
    """What was found.

    Attributes:
        images: Images that were looked at.
        outliers: Images in the list: the share that was asked for.
        out: The file that was written, if one was asked for.
        first: Rows of the farthest.
    """

    images: int
    outliers: int
    out: str | None
    first: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger outliers --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Distances:
    """How far images are from their peers; arrays (N,), in one order.

    Attributes:
        slots: Whose.
        distance: Mean cosine distance to the nearest peers, in [0, 2].
        percentile: Share of the images that are nearer to theirs, in [0, 1).
        nearest: Slot of the nearest peer; -1 where there is none.
    """

    slots: Slots
    distance: Floats
    percentile: Floats
    nearest: Slots


def distances(
    index: Index,
    allowed: Allowed | None = None,
    *,
    slots: Slots | None = None,
    k: int = NEIGHBOURS,
    say: Callable[[int, int], None] = lambda _, __: None,
) -> Distances:
    """Measure how far each image is from its nearest peers.

    Args:
        index: Which images.
        allowed: The peers; all images by default.
        slots: Whose distances; every peer's by default. Percentiles are among these.
        k: How many peers count.
        say: Is called with how many images are done, and how many there are.
    """
    if slots is None:
        slots = index.ids.slots if allowed is None else allowed.slots
    distance, nearest = np.full(len(slots), np.nan, np.float32), np.full(len(slots), -1, np.int64)
    done = 0
    for own, found, cosines in neighbours(index, k + _SPARE, slots=slots, allowed=allowed, say=say):
        counts = (found >= 0) & (cosines < SAME_COSINE)
        counts &= np.cumsum(counts, axis=1) <= k
        total = counts.sum(axis=1)
        some = slice(done, done + len(own))
        with np.errstate(invalid="ignore"):
            distance[some] = 1 - np.where(counts, cosines, 0).sum(axis=1) / total
        nearest[some] = np.where(total > 0, found[np.arange(len(own)), counts.argmax(axis=1)], -1)
        done += len(own)
    # An image without any peer is as far as can be told from a list: it is no outlier of anything.
    distance = np.nan_to_num(distance, nan=0.0)
    order = np.argsort(distance, kind="stable")
    below = np.searchsorted(distance[order], distance, "left")
    return Distances(slots, distance, (below / max(1, len(slots))).astype(np.float32), nearest)


def outliers(
    collection: Collection,
    out: str | Path | None = None,
    *,
    within: str | None = None,
    share: float = SHARE,
    say: Callable[[str], None] = lambda _: None,
) -> Outliers:
    """List the images that are farthest from their peers, the farthest first.

    Args:
        collection: With an index.
        out: File to write, `.csv` or `.parquet`.
        within: A tag or category: only its images are looked at, and are each other's peers.
        share: Which share of the images is listed, in (0, 1].
        say: Takes a line at a time for the person who waits.

    Raises:
        UsageError: The output file cannot be used, or `within` is unknown.
        QueryError: `share` is out of its range, or fewer than three images have the tag.
        IndexUnusable: There is no index.
        RunError: The disk is full.
    """
    if not 0 < share <= 1:
        raise QueryError(f"the share of images to list must be above 0 and at most 1, got {share:g}")
    with out_file(out, SCHEMA) as file:
        index = collection.opened_index()
        allowed = None if within is None else index.allowed(Filter(tags_any=(within,)))
        count = index.count if allowed is None else allowed.count
        if count < 3:
            raise QueryError(f"there are {count} images to compare, and outliers need at least 3")
        far = distances(index, allowed, say=lambda done, of: say(f"{done:,} of {of:,} images compared"))
        order = np.lexsort((far.slots, -far.distance))[: max(1, round(share * len(far.slots)))]
        rows = _rows(index, far, order)
        if file is not None:
            file.write(rows)
    return Outliers(
        images=len(far.slots),
        outliers=len(order),
        out=None if out is None else str(out),
        first=rows.slice(0, _SHOWN).to_pylist(),
    )


def _rows(index: Index, far: Distances, order: npt.NDArray[np.int64]) -> pa.Table:
    nearest = far.nearest[order]
    known = nearest >= 0
    names = index.ids.take_ids(np.where(known, nearest, far.slots[order])).cast(pa.string())
    columns = [
        pa.array(np.arange(1, len(order) + 1)),
        index.ids.take_ids(far.slots[order]).cast(pa.string()),
        pa.array(far.percentile[order]),
        pa.array(far.distance[order]),
        pa.array(names.to_pylist(), pa.string(), mask=~known),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
