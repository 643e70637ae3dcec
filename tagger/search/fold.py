"""Folding: of images that show one picture, a list of matches keeps the best and names the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from tagger.index import Index
    from tagger.index.vectors import Slots

HASH_BITS: Final = 6
"""Bits of 64 in which the perceptual hashes of one picture differ after resizing and re-encoding; two pictures
differ in about 32, and what lies between is decided by `LEAST_COSINE`."""

LEAST_COSINE: Final = 0.9
SAME_COSINE: Final = 0.98
"""Cosine of two embeddings above which the pictures are one, whatever their hashes say (a crop, a mirror)."""


def fold(index: Index, slots: Slots) -> tuple[list[int], dict[int, list[int]]]:
    """Keep the first of every group of images that show one picture.

    Two images show one picture if their bytes are equal, if their perceptual hashes are near and their
    embeddings similar, or if their embeddings are all but equal.

    Args:
        index: Where they are from.
        slots: Matches, best first.

    Returns:
        Positions in `slots` that are kept, ascending, and for each that stands for others theirs.
    """
    places = index.ids.places(slots)
    content, phash, hashed = index.ids.content[places], index.ids.phash[places], index.ids.has_phash[places]
    vectors = index.vectors.take(slots)
    cosine = vectors @ vectors.T
    near = np.bitwise_count(phash[:, None] ^ phash[None, :]) <= HASH_BITS
    near &= hashed[:, None] & hashed[None, :] & (cosine >= LEAST_COSINE)
    known = content != 0
    same = (content[:, None] == content[None, :]) & known[:, None] & known[None, :]
    one = same | near | (cosine >= SAME_COSINE)
    kept: list[int] = []
    folded: dict[int, list[int]] = {}
    for position in range(len(slots)):
        first = next((keep for keep in kept if one[position, keep]), None)
        if first is None:
            kept.append(position)
        else:
            folded.setdefault(first, []).append(position)
    return kept, folded
