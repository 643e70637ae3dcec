"""k-means, and the nearest centre of many vectors, as matrix products of NumPy's BLAS.

FAISS's own took 3 to 5 times as long on 2 cores of a Xeon, because of the BLAS in its wheel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from tagger.index.vectors import Floats, Slots

_BLOCK: Final = 4096
_NUDGE: Final = 1 / 1024  # between the two halves of a centre that is split


def assign(vectors: Floats, centres: Floats) -> tuple[Slots, Floats]:
    """Return the nearest centre of each vector, and the squared distance to it.

    Args:
        vectors: Shape (N, D).
        centres: Shape (K, D).
    """
    nearest = np.empty(len(vectors), np.int64)
    distances = np.empty(len(vectors), np.float32)
    half = np.einsum("kd,kd->k", centres, centres) / 2
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        closeness = block @ centres.T  # |v - c|² = |v|² - 2 (v·c - |c|² / 2)
        closeness -= half
        best = closeness.argmax(axis=1)
        nearest[start : start + _BLOCK] = best
        lengths = np.einsum("nd,nd->n", block, block)
        distances[start : start + _BLOCK] = lengths - 2 * closeness[np.arange(len(block)), best]
    return nearest, np.maximum(distances, 0)


def kmeans(vectors: Floats, k: int, *, rounds: int, seed: int) -> Floats:
    """Return `k` centres of some vectors, shape (k, D).

    Lloyd's algorithm from random vectors; the centre of an empty cluster is put beside that of a large one,
    as FAISS does it.

    Args:
        vectors: Shape (N, D), N at least `k`.
        k: How many.
        rounds: How often centres are moved.
        seed: Of the random choices.
    """
    rng = np.random.default_rng(seed)
    centres = vectors[np.sort(rng.permutation(len(vectors))[:k])].copy()
    for _ in range(rounds):
        nearest, _ = assign(vectors, centres)
        counts = np.bincount(nearest, minlength=k)
        full = np.flatnonzero(counts)
        order = np.argsort(nearest, kind="stable")
        starts = (np.cumsum(counts) - counts)[full]
        centres[full] = np.add.reduceat(vectors[order], starts) / counts[full, None]
        _split(centres, counts, rng)
    return centres


def _split(centres: Floats, counts: Slots, rng: np.random.Generator) -> None:
    """Give every empty cluster half of a large one."""
    for empty in np.flatnonzero(counts == 0):
        weights = np.maximum(counts - 1, 0).astype(np.float64)
        if not weights.sum():
            return
        large = rng.choice(len(counts), p=weights / weights.sum())
        nudge = np.where(np.arange(centres.shape[1]) % 2, 1 + _NUDGE, 1 - _NUDGE).astype(np.float32)
        centres[empty], centres[large] = centres[large] * nudge, centres[large] / nudge
        counts[empty] = counts[large] // 2
        counts[large] -= counts[empty]
