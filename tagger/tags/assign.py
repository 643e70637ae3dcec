"""Probabilities → the `tags` and `categories` columns, for a whole batch at once.

Every decision (threshold, order, top k) is made on the score as it is stored, in ticks of 0.0001: what a
row says is what was compared, and the last bit of a sum cannot turn one tag into another. Sums over
descendants are exact (see `sum_scores`), so neither batch size, threads nor CPU changes a stored value.
"""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Activation = Literal["softmax", "sigmoid"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# The element types of the two columns. The collection's schema has the same ones (tested); tags/ comes
# before collection/ in the layers, so it cannot borrow them from there.
TAG: Final = pa.struct([("tag", pa.string()), ("score", pa.float32()), ("source", pa.string())])
CATEGORY: Final = pa.struct([("tag", pa.string()), ("score", pa.float32())])

TICKS: Final = 10_000
"""Scores are stored to 4 decimals."""

_GRID: Final = np.float32(1 << 23)
"""Probabilities are put on a grid of 2^-23 before they are summed; sums up to 2 are then exact in float32."""


def probabilities(logits: npt.NDArray[np.floating], activation: Activation) -> Floats:
    """Turn raw model outputs into probabilities.

    Row by row: a row's values do not depend on the rows around it.

    Args:
        logits: Raw model outputs, shape (N, L).
        activation: `softmax`, classes exclude each other; `sigmoid`, each class is its own question.

    Returns:
        Shape (N, L), in [0, 1]. A NaN stays one, and an infinite logit becomes one; `assign` refuses both.

    Raises:
        ValueError: `logits` is not (N, L), or the activation is unknown.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (N, L), got {logits.shape}")
    if activation == "sigmoid":
        with np.errstate(over="ignore"):  # exp(+inf) gives the 0 it should
            out: Floats = np.negative(logits, dtype=np.float32)
            np.exp(out, out=out)
            out += 1
            return np.reciprocal(out, out=out)
    if activation != "softmax":
        raise ValueError(f"activation must be softmax or sigmoid, got {activation!r}")
    with np.errstate(invalid="ignore"):
        out = np.array(logits, dtype=np.float32, order="C")  # a copy: worked on in place
        if out.size:
            out -= out.max(axis=1, keepdims=True)
            np.exp(out, out=out)
            out /= out.sum(axis=1, keepdims=True)
    return out


def check_probabilities(values: Floats, labels: int) -> None:
    """Refuse what cannot be probabilities of these labels.

    Raises:
        ValueError: The shape is not (N, `labels`), or a value is a NaN or outside [0, 1].
    """
    if values.ndim != 2 or values.shape[1] != labels:
        raise ValueError(f"probabilities must have shape (N, {labels}), got {values.shape}")
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())  # either is a NaN if any value is
    if not (low >= 0 and high <= 1.0001):  # a float32 softmax can sum to a hair more than 1
        raise ValueError(f"probabilities must lie in [0, 1], got {low} to {high}")


def sum_scores(values: Floats, members: Floats) -> Floats:
    """Sum the probabilities of each category's labels, capped at 1.

    The inputs are rounded to multiples of 2^-23 and the sums of a softmax stay below 2, so every partial
    sum is an integer below 2^24 times that step: exact in float32, whatever the order BLAS adds in. Each
    value moves by at most 6e-8.

    Args:
        values: Probabilities, shape (N, L).
        members: 1 where label l belongs to category c, else 0, shape (L, C).

    Returns:
        Shape (N, C).
    """
    on_grid = np.rint(values * _GRID)
    sums: Floats = on_grid @ members
    sums /= _GRID
    return np.minimum(sums, 1, out=sums)


def max_scores(values: Floats, columns: Ints, starts: Ints) -> Floats:
    """Return the greatest probability among each category's labels.

    Args:
        values: Probabilities, shape (N, L).
        columns: The labels of the first category, then of the second, and so on; none is empty.
        starts: Where each category begins in `columns`, shape (C,).

    Returns:
        Shape (N, C).
    """
    return np.maximum.reduceat(values.take(columns, axis=1), starts, axis=1)


def select(values: Floats, thresholds: Floats, limit: int) -> tuple[npt.NDArray[np.int32], Ints, Floats]:
    """Pick each row's best columns; ties keep the order of the columns.

    A score of 0.0000 is never picked, whatever the threshold.

    Args:
        values: Scores, shape (N, K).
        thresholds: Least score of each column, shape (K,); infinite to leave a column out.
        limit: Most columns a row may keep.

    Returns:
        (offsets, columns, scores): row n owns `offsets[n]:offsets[n + 1]` of the two flat arrays, best
        first; scores are rounded to 4 decimals.
    """
    rows_count = len(values)
    least = np.maximum(thresholds, np.float32(1 / TICKS))
    # Rounding moves a score by at most half a tick: look a tick below, round only what was found.
    near = values >= least - np.float32(1 / TICKS)
    if limit and np.count_nonzero(near) > 16 * limit * rows_count:
        near = _best(values, least, limit)
    rows, columns = np.divmod(np.flatnonzero(near), values.shape[1])  # np.nonzero takes 10 times as long
    ticks = np.rint(values[rows, columns] * np.float32(TICKS))
    scores = ticks / np.float32(TICKS)
    enough = np.flatnonzero(scores >= least[columns])
    rows, columns, scores = rows[enough], columns[enough], scores[enough]
    order = np.lexsort((columns, -scores, rows))
    rows, columns, scores = rows[order], columns[order], scores[order]
    first = np.searchsorted(rows, np.arange(rows_count))
    kept = np.flatnonzero(np.arange(len(rows)) - first[rows] < limit)
    offsets = np.zeros(rows_count + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows[kept], minlength=rows_count), out=offsets[1:])
    return offsets, columns[kept], scores[kept]


def _best(values: Floats, least: Floats, limit: int) -> npt.NDArray[np.bool_]:
    """Mark each row's `limit` best columns, for a low threshold that lets hundreds of columns pass.

    Sorting all of those costs ten times more than this one partition over (score, column) keys.
    """
    width = values.shape[1]
    ticks = np.rint(values * np.float32(TICKS))
    key = ticks.astype(np.int64) * width + np.arange(width - 1, -1, -1)
    key[ticks / np.float32(TICKS) < least] = -1
    worst = np.partition(key, width - limit, axis=1)[:, width - limit, None] if limit < width else 0
    best: npt.NDArray[np.bool_] = key >= np.maximum(worst, 0)
    return best


def tag_lists(
    picked: tuple[npt.NDArray[np.int32], Ints, Floats], names: pa.Array, source: str | None
) -> pa.ListArray:
    """Build a column of lists from what `select` picked.

    Args:
        picked: Offsets, columns, scores.
        names: Name of each column.
        source: The model's name, for `tags`; None for `categories`, which have no source.
    """
    offsets, columns, scores = picked
    words = names.take(pa.array(columns))
    fields = [words, pa.array(scores)]
    if source is not None:
        fields.append(pa.repeat(pa.scalar(source, pa.string()), len(words)))
    struct = pa.StructArray.from_arrays(fields, fields=list(CATEGORY if source is None else TAG))
    return pa.ListArray.from_arrays(pa.array(offsets), struct)
