"""Together: every strength is what plain Python counts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import combinations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.search.together import Together

N_SLOTS = 12

tastes = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.integers(0, N_SLOTS - 1),
        st.sampled_from([-1.0, 0.0, 1.0, 2.5]),
        st.integers(0, 5),
    ),
    unique_by=lambda row: row[:2],
)


def together(rows, **options):
    names = ("u", "slot", "weight", "newest")
    kinds = (pa.int64(), pa.int64(), pa.float64(), pa.int64())
    columns = list(zip(*rows, strict=True)) or [[]] * 4
    with duckdb.connect(":memory:") as database:
        database.register(
            "given", pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})
        )
        database.execute("CREATE TABLE tastes AS SELECT * FROM given")
        return Together.of(database, N_SLOTS, **options)


def oracle(rows, most_recent, neighbours, shrinkage):
    """{slot: [(other, strength)]} with dictionaries and loops."""
    of_user = defaultdict(list)
    for user, slot, weight, newest in rows:
        if weight > 0:
            of_user[user].append((-newest, slot))
    alone, both = Counter(), Counter()
    for liked in of_user.values():
        recent = [slot for _, slot in sorted(liked)[:most_recent]]
        alone.update(recent)
        both.update((a, b) for one, other in combinations(recent, 2) for a, b in ((one, other), (other, one)))
    found = defaultdict(list)
    for (one, other), users in both.items():
        strength = users / math.sqrt(alone[one] * alone[other]) * users / (users + shrinkage)
        found[one].append((other, strength))
    return {
        one: sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:neighbours] for one, pairs in found.items()
    }


@given(tastes, st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.0, 3.0]))
@settings(max_examples=15, deadline=None)
def test_strengths(rows, most_recent, neighbours, shrinkage):
    found = together(rows, most_recent=most_recent, neighbours=neighbours, shrinkage=shrinkage)
    expected = oracle(rows, most_recent, neighbours, shrinkage)
    for slot in range(N_SLOTS):
        near = slice(found.starts[slot], found.starts[slot + 1])
        pairs = expected.get(slot, [])
        assert found.slots[near].tolist() == [other for other, _ in pairs]
        np.testing.assert_allclose(found.strengths[near], [strength for _, strength in pairs], rtol=1e-6)


@given(tastes, tastes)
@settings(max_examples=15, deadline=None)
def test_scores_are_weighted_sums(rows, likes):
    found = together(rows)
    likes = sorted((user, slot, abs(weight)) for user, slot, weight, _ in likes)
    users, slots, weights = (
        (np.array(column) for column in zip(*likes, strict=True)) if likes else ([], [], [])
    )
    table = found.between(np.arange(N_SLOTS), np.arange(N_SLOTS))
    expected = np.zeros((7, N_SLOTS))
    for user, slot, weight in likes:
        expected[user] += weight * table[slot]
    who, what, score = found.scores(
        np.asarray(users, np.int64), np.asarray(slots, np.int64), np.asarray(weights, np.float32)
    )
    assert list(zip(who, what, strict=True)) == sorted(set(zip(who, what, strict=True)))
    dense = np.zeros((7, N_SLOTS))
    dense[who, what] = score
    np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-6)


def test_somebody_who_clicks_on_everything_costs_pairs_of_the_newest_only():
    found = together([(0, slot, 1.0, slot) for slot in range(N_SLOTS)], most_recent=3)
    assert np.flatnonzero(np.diff(found.starts)).tolist() == [9, 10, 11]


def test_one_shared_user_is_believed_less_than_many():
    rows = [(0, 0, 1.0, 0), (0, 1, 1.0, 0)]
    rows += [(user, slot, 1.0, 0) for user in range(1, 6) for slot in (2, 3)]
    found = together(rows)
    assert found.between(np.array([0, 2]), np.array([1, 3])).diagonal() == pytest.approx([1 / 11, 5 / 15])
