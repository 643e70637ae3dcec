"""Every image's nearest others, block by block: for duplicates, outliers and similar products."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tagger.collection import Collection
    from tagger.index import Index
    from tagger.index.vectors import Allowed, Floats, Slots
    from tagger.settings import Settings
    from tagger.storage import Store

BLOCK: Final = 1024
"""Images whose neighbours are looked for together: 5 MB of queries."""


def neighbours(
    index: Index,
    k: int,
    *,
    slots: Slots | None = None,
    allowed: Allowed | None = None,
    say: Callable[[int, int], None] = lambda _, __: None,
) -> Iterator[tuple[Slots, Slots, Floats]]:
    """Find the images most like each image, itself left out.

    Args:
        index: Where.
        k: Neighbours an image.
        slots: Whose; every image's by default.
        allowed: Which images count as neighbours; all by default.
        say: Is called with how many images are done, and how many there are.

    Yields:
        Slots (N,), the slots of their neighbours (N, k), best first, and the cosines (N, k). Where there are
        fewer, a slot is -1 and its cosine -inf.
    """
    if slots is None:
        slots = index.ids.slots
    for start in range(0, len(slots), BLOCK):
        some = slots[start : start + BLOCK]
        scores, found = index.nearest(index.vectors.take(some), k + 1, allowed)
        yield some, *_without_itself(some, found, scores)
        say(min(start + BLOCK, len(slots)), len(slots))


def neighbours_on_cluster(
    collection: Collection,
    index: Index,
    k: int,
    *,
    slots: Slots,
    allowed: Allowed | None,
    address: str | None,
    settings: Settings,
    say: Callable[[int, int], None] = lambda _, __: None,
) -> Iterator[tuple[Slots, Slots, Floats]]:
    """Do as `neighbours` does on a Ray cluster, whose machines each open the index; blocks come in any order.

    Args:
        collection: Whose index.
        index: As it is open here.
        k: Neighbours an image.
        slots: Whose.
        allowed: Which images count as neighbours; all by default.
        address: Of the cluster; None starts one on this machine.
        settings: What the environment says.
        say: Is called with how many images are done, and how many there are.

    Raises:
        UsageError: The cluster is beyond loopback and no token is set.
        RunError: It does not answer, or another index is served by now.
    """
    from tagger.engine.pieces import in_pieces

    only = None if allowed is None else allowed.slots
    make = partial(_Block, collection.store, index.manifest.version, k, slots, only)
    done = 0
    pieces = -(-len(slots) // BLOCK)
    for piece, data in in_pieces(make, pieces, address=address, settings=settings):
        own = slots[piece * BLOCK : (piece + 1) * BLOCK]
        found = np.frombuffer(data, np.int32, len(own) * k).reshape(len(own), k).astype(np.int64)
        cosines = np.frombuffer(data, np.float32, len(own) * k, len(own) * k * 4).reshape(len(own), k)
        done += len(own)
        yield own, found, cosines
        say(done, len(slots))


class _Block:
    """Finds the neighbours of a block of images, in a worker: slots as int32, then cosines as float32."""

    def __init__(self, store: Store, version: str, k: int, slots: Slots, allowed: Slots | None) -> None:
        from tagger.collection import Collection
        from tagger.index import Index
        from tagger.index.vectors import Allowed

        self._index = Index.open(Collection.open(store.uri, store.options))
        if self._index.manifest.version != version:
            raise RunError("another index is served since this began: run the same command again")
        self._k = k
        self._slots = slots
        self._allowed = None if allowed is None else Allowed(allowed, self._index.manifest.slots)

    def __call__(self, piece: int) -> bytes:
        slots = self._slots[piece * BLOCK : (piece + 1) * BLOCK]
        ((_, found, cosines),) = neighbours(self._index, self._k, slots=slots, allowed=self._allowed)
        return found.astype(np.int32).tobytes() + cosines.astype(np.float32).tobytes()


def _without_itself(own: Slots, found: Slots, scores: Floats) -> tuple[Slots, Floats]:
    """Drop each image from its own row; the last neighbour where it is not in it, behind equal ones."""
    itself = found == own[:, None]
    itself[~itself.any(axis=1), -1] = True
    shape = (len(own), found.shape[1] - 1)
    return found[~itself].reshape(shape), scores[~itself].reshape(shape)
