"""The sheet of outliers: images that look least like their peers, for a person who checks quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from tagger.errors import IndexUnusable, RunError
from tagger.index import Index
from tagger.index.manifest import read_manifest, read_pointer
from tagger.report.samples import Picture
from tagger.search.fold import Folded
from tagger.search.outliers import distances

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tagger.collection import Collection
    from tagger.index.vectors import Slots

MOST_MEASURED: Final = 10_000
"""Images whose peers are looked for: all of a small collection, of a larger one so many at random.

On 2 cores these took 1.3 s at 200,000 images and 2.9 s at 1,000,000, where all would take five minutes.
"""

MOST_COMPARED: Final = 100_000_000
"""Pairs compared where every search looks at every image, 60 to 130 ns each: 5,000 of 20,000 images are
measured, in 6 s."""

MOST_BYTES: Final = 4_000_000_000
"""Size of the largest index that is opened for a report: about 1.4 million images of 1280 values. All its
files are read, to see that they are whole, and are fetched first from object storage. At 1,000,000 images
opening took 6 s and 650 MB of memory."""

_FEWEST: Final = 3
_OF_ALL: Final = 4  # one image in so many is shown at most: more would be the usual ones
_SEED: Final = 1  # any, but always the same one: equal collections give equal reports


@dataclass(frozen=True, slots=True)
class Outlier(Picture):
    """An image that is far from its peers.

    Attributes:
        percentile: Share of the measured images that are nearer to theirs, in [0, 1).
        nearest: Its nearest peer.
    """

    percentile: float
    nearest: Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierSheet:
    """What the report shows of outliers.

    Attributes:
        outliers: The farthest from their peers first; of several that show one picture the first.
        measured: Images whose peers were looked for.
        images: Images in the index, which all were looked at as peers.
        lacking: What is missing where nothing could be measured: an index, one that can be used, one that is
            small enough to be opened for a report, three images in it, or images that differ.
        detail: Why the index cannot be used and what to do, without a full stop.
        behind: How the index is older than the table, if it is.
    """

    outliers: tuple[Outlier, ...] = ()
    measured: int = 0
    images: int = 0
    lacking: Literal["index", "usable", "small", "images", "different"] | None = None
    detail: str = ""
    behind: str | None = None

    @property
    def pictures(self) -> list[Picture]:
        """Every picture on the sheet."""
        return [picture for one in self.outliers for picture in (one, one.nearest)]


def outlier_sheet(
    collection: Collection,
    n: int,
    *,
    most_measured: int = MOST_MEASURED,
    most_compared: int = MOST_COMPARED,
    most_bytes: int = MOST_BYTES,
) -> OutlierSheet:
    """Find the images that are farthest from their peers; a missing index is no reason to fail.

    Args:
        collection: With or without an index.
        n: Most outliers; of a small collection at most a quarter of its images.
        most_measured: Most images whose peers are looked for: where there are more, as many at random, always
            the same ones.
        most_compared: Most pairs to compare where the index looks at every image.
        most_bytes: Size of the largest index to open.
    """
    try:
        pointer = read_pointer(collection.store)
        if pointer is None:
            return OutlierSheet(lacking="index")
        manifest = read_manifest(collection.store, pointer)
        if manifest.count < _FEWEST:
            return OutlierSheet(lacking="images", images=manifest.count)
        if sum(file.size_bytes for file in manifest.files) > most_bytes:
            return OutlierSheet(lacking="small", images=manifest.count)
        index = Index.open(collection)
    except (IndexUnusable, RunError) as error:  # a RunError: the files could not be fetched
        return OutlierSheet(lacking="usable", detail=str(error))
    most = min(most_measured, most_compared // index.count) if index.is_exact(None) else most_measured
    return _measured(collection, index, n, max(_FEWEST, most))


def _measured(collection: Collection, index: Index, n: int, most: int) -> OutlierSheet:
    """Return the sheet of an index with images enough, of which `most` are measured."""
    slots = _some(index.ids.slots, most)
    far = distances(index, slots=slots)
    order = np.lexsort((slots, -far.distance))
    order = order[far.nearest[order] >= 0]
    n = min(n, max(1, len(slots) // _OF_ALL))
    order = order[Folded(index).extend(slots[order], need=n)[:n]]
    shown, nearest, percentiles = slots[order], far.nearest[order], far.percentile[order]
    behind = index.manifest.behind(collection.table.version)
    pictures = _pictures(collection, index, np.concatenate([shown, nearest]), stale=behind is not None)
    outliers = []
    for slot, peer, percentile in zip(shown.tolist(), nearest.tolist(), percentiles.tolist(), strict=True):
        if slot in pictures and peer in pictures:
            one = pictures[slot]
            outliers.append(Outlier(one.image_id, one.uri, one.etag, percentile, pictures[peer]))
    if len(order) and not outliers:
        return OutlierSheet(
            lacking="usable", detail=f"{behind}: run `tagger index COLLECTION` to see outliers"
        )
    return OutlierSheet(
        outliers=tuple(outliers),
        measured=len(slots),
        images=index.count,
        lacking=None if outliers else "different",
        behind=behind,
    )


def _some(slots: Slots, most: int) -> Slots:
    """Return all slots, or `most` of them at random, ascending: vectors are read from mapped files."""
    if len(slots) > most:
        slots = np.random.default_rng(_SEED).choice(slots, most, replace=False)
    return np.sort(slots)


def _pictures(collection: Collection, index: Index, slots: Slots, *, stale: bool) -> Mapping[int, Picture]:
    """Return the images of slots; where the index is older than the table, those still as they were."""
    found = {}
    for slot, place in zip(slots.tolist(), index.ids.places(slots).tolist(), strict=True):
        facts = index.ids.facts(place)
        image_id = facts["image_id"]
        found[slot] = Picture(image_id, image_id if facts["uri"] is None else facts["uri"], facts["etag"])
    if stale:
        rows = collection.table.read_rows([one.image_id for one in found.values()], ["image_id", "etag"])
        now = {(row["image_id"], row["etag"]) for row in rows.to_pylist()}
        found = {slot: one for slot, one in found.items() if (one.image_id, one.etag) in now}
    return found
