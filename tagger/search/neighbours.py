"""Every image's nearest others, block by block: for duplicates, outliers and similar products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tagger.index import Index
    from tagger.index.vectors import Allowed, Floats, Slots

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


def _without_itself(own: Slots, found: Slots, scores: Floats) -> tuple[Slots, Floats]:
    """Drop each image from its own row; the last neighbour where it is not in it, behind equal ones."""
    itself = found == own[:, None]
    itself[~itself.any(axis=1), -1] = True
    shape = (len(own), found.shape[1] - 1)
    return found[~itself].reshape(shape), scores[~itself].reshape(shape)
