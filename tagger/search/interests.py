"""Several interests of one user: groups of liked images that look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.index.vectors import Floats

_LEAST: Final = 3  # liked images for each interest, on average: fewer say little about one
_ROUNDS: Final = 8


def split_interests(vectors: Floats, weights: Floats, most: int) -> npt.NDArray[np.int64]:
    """Put liked images into groups.

    Spherical k-means (Dhillon and Modha, Concept Decompositions for Large Sparse Text Data Using Clustering,
    2001) from the first image and those farthest from what was taken before (Gonzalez, Clustering to Minimize
    the Maximum Intercluster Distance, 1985): nothing is drawn by chance.

    Args:
        vectors: Embeddings, L2-normalised, shape (N, D), N at least 1.
        weights: How much each is liked, shape (N,).
        most: Groups at most; there is one for every three images, too.

    Returns:
        The group of each image, numbered from 0 without a gap, shape (N,).
    """
    count = min(most, max(1, len(vectors) // _LEAST))
    group = np.zeros(len(vectors), np.int64)
    if count == 1:
        return group
    cosine = vectors @ vectors.T
    first = [0]
    while len(first) < count:
        first.append(int(np.argmin(cosine[:, first].max(axis=1))))
    likeness = cosine[:, first]
    # The cosine to a weighted sum of images is the sum of theirs: no vector is needed again.
    for _ in range(_ROUNDS):
        before, group = group, np.argmax(likeness, axis=1)
        if np.array_equal(before, group):
            break
        member = (group[:, None] == np.arange(count)) * weights[:, None]
        lengths = np.sqrt(np.maximum(np.einsum("nk,nm,mk->k", member, cosine, member, optimize=True), 1e-12))
        likeness = np.where(member.any(axis=0), cosine @ member / lengths, -np.inf)
    return np.unique(group, return_inverse=True)[1].astype(np.int64)
