"""Recommendations for one customer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_kit import Oracle, collection_of, names, rows_of, vectors_of

from tagger.errors import QueryError
from tagger.index import Index, index
from tagger.search import recommend
from tagger.search.diversity import diversify

DIM = 24
N = 300


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    vectors = vectors_of(N, dim=DIM, seed=1, clusters=6)
    vectors[1] = vectors[0]
    collection = collection_of(
        tmp_path_factory.mktemp("recommend") / "c", [rows_of(names(0, N), vectors, seed=1)], dim=DIM
    )
    index(collection)
    return Index.open(collection), Oracle(collection)


def ids_of(found):
    return [match.image_id for match in found.matches]


IDS = st.lists(st.sampled_from(names(0, N)), min_size=1, max_size=5, unique=True)


@settings(max_examples=40, deadline=None)
@given(
    liked=IDS,
    disliked=IDS,
    how=st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.booleans()),
    k=st.integers(1, 40),
)
def test_what_is_known_is_not_recommended(made, liked, disliked, how, k):
    opened, _ = made
    diversity, fold = how
    disliked = [one for one in disliked if one not in liked]
    found = recommend(opened, liked, disliked, k=k, diversity=diversity, fold=fold)
    assert len(found.matches) == k
    assert len(set(ids_of(found))) == k
    assert set(ids_of(found)).isdisjoint({*liked, *disliked})
    assert all(match.because in liked and 0 <= match.score <= 1 for match in found.matches)
    if diversity == 0:
        scores = [match.score for match in found.matches]
        assert scores == sorted(scores, reverse=True)


@settings(max_examples=30, deadline=None)
@given(liked=IDS)
def test_without_diversity_and_dislikes_it_is_the_nearest_to_the_mean(made, liked):
    opened, oracle = made
    mean = np.mean([oracle.rows[one]["embedding"] for one in liked], axis=0)
    expected = [pair for pair in oracle.nearest(mean / np.linalg.norm(mean)) if pair[0] not in liked][:15]
    found = recommend(opened, liked, k=15, diversity=0, fold=False)
    assert [match.score for match in found.matches] == pytest.approx([s for _, s in expected], abs=3e-6)


@settings(max_examples=30, deadline=None)
@given(liked=st.sampled_from(names(2, N)), disliked=st.sampled_from(names(2, N)))
def test_a_dislike_pushes_away_what_is_like_it(made, liked, disliked):
    """Compared at equal length: the cosine of what is recommended to the disliked image does not rise."""
    opened, oracle = made
    if liked == disliked:
        return
    without = recommend(opened, [liked], k=10, diversity=0, fold=False)
    with_it = recommend(opened, [liked], [disliked], k=10, diversity=0, fold=False)
    bad = np.array(oracle.rows[disliked]["embedding"])

    def nearness(found):
        others = [one for one in ids_of(found) if one != disliked]
        return np.mean([np.dot(oracle.rows[one]["embedding"], bad) for one in others])

    assert nearness(with_it) <= nearness(without) + 1e-6


def test_an_image_that_shows_what_is_known_is_folded_away(made):
    opened, _ = made
    assert names(1, 2)[0] in ids_of(recommend(opened, names(0, 1), k=5, fold=False, diversity=0))
    assert names(1, 2)[0] not in ids_of(recommend(opened, names(0, 1), k=100, diversity=0))


def test_a_filter_narrows_it(made):
    opened, oracle = made
    found = recommend(opened, names(0, 2), k=30, filter={"tags_all": ["cat"]})
    assert found.matches
    assert all(oracle.word_score(oracle.rows[one], "cat") > 0 for one in ids_of(found))


def test_diversity_spreads_what_is_recommended(made):
    opened, oracle = made

    def likeness(diversity):
        found = recommend(opened, [names(0, 1)[0], names(7, 8)[0]], k=10, diversity=diversity)
        vectors = np.array([oracle.rows[one]["embedding"] for one in ids_of(found)])
        return (vectors @ vectors.T)[np.triu_indices(10, 1)].mean()

    assert likeness(0.0) > likeness(0.3) > likeness(0.8)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(0, 12), k=st.integers(1, 12), diversity=st.floats(0, 1))
def test_marginal_relevance_is_what_the_paper_says(seed, n, k, diversity):
    vectors = vectors_of(max(n, 1), dim=4, seed=seed)[:n]
    relevance = np.sort(np.random.default_rng(seed).random(n))[::-1].astype(np.float32)
    chosen = []
    while len(chosen) < min(k, n):
        best, place = -np.inf, -1
        for i in range(n):
            if i in chosen:
                continue
            nearest = max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            gain = (1 - diversity) * float(relevance[i]) - diversity * nearest
            if gain > best + 1e-6:
                best, place = gain, i
        chosen.append(place)
    found = diversify(relevance, vectors, k, diversity)
    assert len(found) == len(set(found)) == len(chosen)
    if n and diversity not in (0.0, 1.0):
        assert found[0] == chosen[0]
        assert sum(a == b for a, b in zip(found, chosen, strict=True)) >= len(chosen) - 2  # ties of floats


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"positive": []}, "at least one liked image"),
        ({"positive": "one"}, "positive must be a list of image ids"),
        ({"positive": ["nothing"]}, "there is no image 'nothing'"),
        ({"positive": names(0, 1), "negative": ["nothing"]}, "there is no image 'nothing'"),
        ({"positive": names(0, 1), "negative": names(0, 1)}, "cannot be liked and disliked at once"),
        ({"positive": names(0, 1), "k": 0}, "k must be"),
        ({"positive": names(0, 1), "diversity": 1.1}, r"diversity must be in \[0, 1\], got 1.1"),
        ({"positive": names(0, 1), "diversity": float("nan")}, "diversity must be"),
        ({"positive": names(0, 1), "diversity": "much"}, "diversity must be"),
    ],
)
def test_wrong_use_is_said(made, asked, said):
    with pytest.raises(QueryError, match=said):
        recommend(made[0], **asked)
