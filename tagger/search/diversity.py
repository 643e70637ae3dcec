"""Diversity: a list of recommendations in which each says something the ones before did not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tagger.index.vectors import Floats


def diversify(relevance: Floats, vectors: Floats, k: int, diversity: float) -> list[int]:
    """Choose `k` candidates by maximal marginal relevance.

    Each next one has the greatest (1 - diversity) · relevance - diversity · (its greatest cosine to one that
    was chosen before). Of equals the first is chosen. Source: Carbonell and Goldstein, The Use of MMR,
    Diversity-Based Reranking (SIGIR 1998).

    Args:
        relevance: Of each candidate, best first, shape (N,).
        vectors: Their embeddings, L2-normalised, shape (N, D).
        k: How many to choose.
        diversity: In [0, 1]; 0 keeps the order of relevance.

    Returns:
        Positions of the chosen, in the order they were chosen.
    """
    n = len(relevance)
    if diversity <= 0:
        return list(range(min(k, n)))
    chosen: list[int] = []
    nearest = np.full(n, -np.inf, np.float32)
    left = np.ones(n, np.bool_)
    while len(chosen) < min(k, n):
        penalty = nearest if chosen else np.zeros(n, np.float32)
        gain = np.where(left, (1 - diversity) * relevance - diversity * penalty, -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return chosen
