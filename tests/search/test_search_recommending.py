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
from tagger.search.recommending import profile

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
    found = diversify(relevance, vectors, k, diversity)
    assert len(found) == len(set(found)) == min(k, n)
    for rank, chosen in enumerate(found):
        before = found[:rank]
        gains = {
            i: (1 - diversity) * float(relevance[i])
            - diversity * max((float(vectors[i] @ vectors[j]) for j in before), default=0.0)
            for i in range(n)
            if i not in before
        }
        assert gains[chosen] >= max(gains.values()) - 1e-5  # other than the best only by rounding


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Image 0 300 times, and 100 others; the last three lie 0, 10 and 20 degrees apart."""
    vectors = vectors_of(400, dim=16, seed=3)
    vectors[:300] = vectors[0]
    vectors[:, -2:] = 0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for place, degrees in ((397, 0), (398, 10), (399, 20)):
        vectors[place] = 0
        vectors[place, -2:] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    collection = collection_of(
        tmp_path_factory.mktemp("crowded") / "c", [rows_of(names(0, 400), vectors)], dim=16
    )
    index(collection)
    return Index.open(collection)


def test_copies_of_what_is_liked_do_not_use_up_the_candidates(crowded):
    found = recommend(crowded, names(0, 1), k=10)
    assert len(found.matches) == 10
    assert set(ids_of(found)).isdisjoint(names(0, 300))
    assert len(recommend(crowded, names(0, 1), k=1000, diversity=0).matches) <= 100


def test_liked_images_that_show_each_others_picture_are_both_known(crowded):
    near, middle, far = names(397, 400)
    for liked in ([middle], [near, middle]):
        assert far not in ids_of(recommend(crowded, liked, k=300))
    assert far in ids_of(recommend(crowded, [near], k=300))
    assert far not in ids_of(recommend(crowded, names(0, 1), [near, middle], k=300))


def test_ids_may_be_a_generator(made):
    liked = names(0, 2)
    assert recommend(made[0], (one for one in liked), k=3) == recommend(made[0], liked, k=3)


def test_likes_that_all_but_cancel_each_other_out():
    vector = vectors_of(1, dim=8, seed=1)
    with pytest.raises(QueryError, match="cancel each other out"):
        profile(np.concatenate([vector, 1e-4 - vector]), np.empty((0, 8), np.float32))
    np.testing.assert_allclose(profile(vector, vector), vector, atol=1e-3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"positive": []}, "at least one liked image"),
        ({"positive": "one"}, "positive must be a list of image ids"),
        ({"positive": None}, "positive must be a list of image ids, got None"),
        ({"positive": 5}, "positive must be a list of image ids, got 5"),
        ({"positive": [5]}, "positive must be a list of image ids"),
        ({"positive": names(0, 1), "negative": 5}, "negative must be a list of image ids, got 5"),
        ({"positive": ["x" * 10_000]}, "there is no image 'x{199}… in the index"),
        ({"positive": names(0, 1), "k": 1001}, "k must be a whole number from 1 to 1,000, got 1001"),
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
