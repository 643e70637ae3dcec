"""Images that the same people like: which ones, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.index.ranges import ranges

if TYPE_CHECKING:
    import duckdb
    import numpy.typing as npt

    from tagger.index.vectors import Floats, Slots

MOST_RECENT: Final = 50
"""Images of a user that are paired with each other: 1,225 pairs, however much somebody has clicked on."""

NEIGHBOURS: Final = 50
"""Images kept for each image."""

SHRINKAGE: Final = 10.0
"""Users whom an image must share with another before half of their likeness is believed."""


@dataclass(frozen=True, slots=True)
class Together:
    """For every image those that are liked with it, the strongest first.

    The strength of a pair is the cosine of the two columns of the matrix of users and images (whether, not
    how often: implicit feedback), shrunk where few users made it: c / sqrt(a b) · c / (c + `SHRINKAGE`), for
    a and b users of the two images and c of both. Sources: Deshpande and Karypis, Item-Based Top-N
    Recommendation Algorithms (ACM TOIS 22, 2004) for the cosine, and Bell and Koren, Scalable Collaborative
    Filtering with Jointly Derived Neighborhood Interpolation Weights (ICDM 2007) for shrinking by the number
    of users.

    Attributes:
        starts: Where the neighbours of a slot begin, shape (slots + 1,).
        slots: Their slots.
        strengths: Their strengths, in [0, 1].
    """

    starts: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int32]
    strengths: Floats

    @classmethod
    def of(
        cls,
        database: duckdb.DuckDBPyConnection,
        n_slots: int,
        *,
        most_recent: int = MOST_RECENT,
        neighbours: int = NEIGHBOURS,
        shrinkage: float = SHRINKAGE,
    ) -> Together:
        """Count the pairs in the table `tastes` (u, slot, weight, newest); those liked have a weight above 0.

        Of equal strength the lower slot goes first. DuckDB does it, on disk where memory ends.
        """
        database.execute(_RECENT, {"most": most_recent})
        database.execute(_PAIRS)
        found = database.sql(_STRONGEST, params={"shrinkage": shrinkage, "neighbours": neighbours})
        table = found.to_arrow_table()
        database.execute("DROP TABLE pairs")
        database.execute("DROP TABLE recent")
        one = table.column("one").to_numpy()
        starts = np.zeros(n_slots + 1, np.int64)
        np.cumsum(np.bincount(one, minlength=n_slots), out=starts[1:])
        return cls(starts, table.column("other").to_numpy(), table.column(2).to_numpy())

    def scores(self, users: Slots, slots: Slots, weights: Floats) -> tuple[Slots, Slots, Floats]:
        """Add up, for each user, the strengths of all that is liked with what they like.

        Args:
            users: Numbers from 0, shape (N,).
            slots: What they like.
            weights: How much.

        Returns:
            Users, slots and scores: the weighted sums, ordered by user and slot, each pair once.
        """
        lengths = self.starts[slots + 1] - self.starts[slots]
        total = int(lengths.sum())
        if not total:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        row, places = ranges(self.starts[slots], lengths)
        n_slots = len(self.starts) - 1
        keys = users[row] * n_slots + self.slots[places]
        values = np.repeat(weights, lengths) * self.strengths[places]
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        keys = keys[first]
        return keys // n_slots, keys % n_slots, np.add.reduceat(values, first).astype(np.float32)

    def between(self, ones: Slots, others: Slots) -> Floats:
        """Return the strength of each pair, shape (len(ones), len(others)); 0 for those that are not kept."""
        found = np.zeros((len(ones), len(others)), np.float32)
        for row, slot in enumerate(ones.tolist()):
            near = slice(self.starts[slot], self.starts[slot + 1])
            equal = self.slots[near, None] == others[None, :]
            found[row] = (equal * self.strengths[near, None]).max(axis=0, initial=0)
        return found


_RECENT: Final = """
    CREATE OR REPLACE TABLE recent AS
    SELECT u, slot::INTEGER AS slot FROM tastes WHERE weight > 0
    QUALIFY row_number() OVER (PARTITION BY u ORDER BY newest DESC, slot) <= $most
"""

_PAIRS: Final = """
    CREATE OR REPLACE TABLE pairs AS
    SELECT a.slot AS one, b.slot AS other, count(*)::INTEGER AS users
    FROM recent a JOIN recent b ON a.u = b.u AND a.slot < b.slot GROUP BY a.slot, b.slot
"""

_STRONGEST: Final = """
    WITH users AS (SELECT slot, count(*) AS n FROM recent GROUP BY slot),
    ways AS (SELECT one, other, users FROM pairs UNION ALL SELECT other, one, users FROM pairs),
    strong AS (
        SELECT one, other, users / sqrt(a.n * b.n) * users / (users + $shrinkage) AS strength
        FROM ways JOIN users a ON a.slot = one JOIN users b ON b.slot = other
    )
    SELECT one, other, strength::FLOAT AS strength FROM strong
    QUALIFY row_number() OVER (PARTITION BY one ORDER BY strong.strength DESC, other) <= $neighbours
    ORDER BY one, strong.strength DESC, other
"""
