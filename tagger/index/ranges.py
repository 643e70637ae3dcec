"""Lists of different lengths behind each other in one array, and what is often asked of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]


def ranges(starts: Ints, sizes: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return every place of some ranges: of which range it is, and where it is.

    Args:
        starts: Where each range begins, shape (N,).
        sizes: How long it is.

    >>> ranges(np.array([7, 2]), np.array([2, 1]))
    (array([0, 0, 1]), array([7, 8, 2]))
    """
    before = np.cumsum(sizes) - sizes
    at = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    return np.repeat(np.arange(len(sizes)), sizes), at


def ranks(owner: Ints) -> Ints:
    """Return which of its owner's entries each one is, from 0; `owner` ascends.

    >>> ranks(np.array([3, 3, 5, 5, 5]))
    array([0, 1, 0, 1, 2])
    """
    return np.arange(len(owner)) - np.searchsorted(owner, owner)
