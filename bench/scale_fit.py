"""How costs grow: fits through what was measured, and what they say of sizes that were not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

SUPERLINEAR: Final = 1.15
"""Exponent between the last two points above which a cost is called superlinear; noise stays below it."""


@dataclass(frozen=True)
class Fit:
    """A cost as `fixed + each · N`, by least squares of the relative errors.

    One that grows faster than N goes through its last two points instead: the others would flatten it.

    Attributes:
        name: Of the cost.
        fixed: What it costs without any image; negative for a cost that grows faster than N.
        each: What one more image costs.
        exponent: Of N in what was measured beyond `fixed`, between the last two points; None with fewer.
        measured: The points, (N, cost).
    """

    name: str
    fixed: float
    each: float
    exponent: float | None
    measured: tuple[tuple[float, float], ...]

    def at(self, n: float) -> float:
        return self.fixed + self.each * n

    def reaches(self, limit: float) -> float:
        """Return the N at which the cost is `limit`; infinity where it does not grow."""
        return max(0.0, (limit - self.fixed) / self.each) if self.each > 0 else math.inf

    @property
    def superlinear(self) -> bool:
        return self.exponent is not None and self.exponent > SUPERLINEAR


def fit(name: str, points: Sequence[tuple[float, float]]) -> Fit:
    """Fit a line through points.

    Args:
        name: Of the cost.
        points: (N, cost); at least one. One point alone is taken to grow from nothing.

    Raises:
        ValueError: There is no point.
    """
    if not points:
        raise ValueError(f"nothing was measured of {name}")
    found = tuple(sorted((float(n), float(cost)) for n, cost in points))
    ns, costs = np.array(found).T
    # Relative errors count: the smallest size would otherwise have no say in what is fixed.
    weights = 1 / np.maximum(costs, 1e-12)
    rows = np.stack([np.ones_like(ns), ns], axis=1) * weights[:, None]
    if len(found) == 1:
        fixed, each = 0.0, costs[0] / ns[0]
    else:
        (fixed, each), *_ = np.linalg.lstsq(rows, costs * weights, rcond=None)
        if fixed < 0:
            fixed, each = 0.0, float(np.mean(costs / ns))
        if each < 0:
            fixed, each = float(np.mean(costs)), 0.0
    exponent = _exponent(found)
    if exponent is not None and exponent > SUPERLINEAR:
        (before, less), (last, more) = found[-2:]
        each = (more - less) / (last - before)
        fixed = more - each * last
    return Fit(name, float(fixed), float(each), exponent, found)


def _exponent(points: tuple[tuple[float, float], ...]) -> float | None:
    """Return the exponent between the last two points, beyond what the first ones show to be fixed."""
    if len(points) < 3:
        return None
    (n0, c0), (n1, c1) = points[0], points[1]
    fixed = max(0.0, c0 - n0 * (c1 - c0) / (n1 - n0))
    before, last = points[-2][1] - fixed, points[-1][1] - fixed
    if before <= 0 or last <= 0:
        return None
    return math.log(last / before) / math.log(points[-1][0] / points[-2][0])


@dataclass(frozen=True)
class Wall:
    """A cost that somebody has to stop at.

    Attributes:
        name: What it is.
        limit: How much is bearable, in the unit of the fit.
        unit: For people.
        fit: The cost.
        past: How to go past it.
    """

    name: str
    limit: float
    unit: str
    fit: Fit
    past: str

    @property
    def images(self) -> float:
        """Images at which it is reached."""
        return self.fit.reaches(self.limit)


def in_order(walls: Sequence[Wall]) -> list[Wall]:
    """Return walls, the first to be met first."""
    return sorted(walls, key=lambda wall: wall.images)


def compounded(per_commit: Fit, *, images_per_commit: float) -> float:
    """Return c of `c · N²`, what all commits of a run cost together when each costs more than the last.

    Args:
        per_commit: Cost of one commit by the images that are in the table.
        images_per_commit: Images that each adds.

    >>> one = Fit("commit", 0.0, 2.0, None, ())
    >>> compounded(one, images_per_commit=10.0) * 100.0**2, sum(one.at(n) for n in range(0, 100, 10))
    (1000.0, 900.0)
    """
    return per_commit.each / images_per_commit / 2
