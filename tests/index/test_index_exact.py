"""An exact index answers as NumPy does, whatever is asked."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_kit import Oracle, collection_of, names, rows_of, slots_of, vectors_of

from tagger.errors import IndexUnusable, QueryError, UsageError
from tagger.index import Filter, Index, index

DIM = 24
N = 260


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    vectors = vectors_of(N, dim=DIM, seed=1)
    vectors[40:44] = vectors[39]  # one picture five times
    tables = [
        rows_of(names(0, 100), vectors[:100], seed=1, failed=names(7, 9)),
        rows_of(names(100, N), vectors[100:], seed=2, failed=[names(150, 151)[0]]),
    ]
    collection = collection_of(tmp_path_factory.mktemp("exact") / "c", tables, dim=DIM)
    done = index(collection)
    assert (done.kind, done.count, done.recall_at_10, done.how) == ("flat", N - 3, 1.0, "built")
    return Index.open(collection), Oracle(collection), collection


def answers(opened, query, k, asked=None):
    scores, slots = opened.ranking(np.asarray(query, np.float32).reshape(1, -1), asked or Filter()).first(k)
    return list(zip(opened.ids.image_ids(slots[:k]), scores[:k].tolist(), strict=True))


def same(found, expected):
    """Equal scores at every rank, and the same images up to an exchange of equals."""
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=2e-6)
    for (mine, score), (theirs, _) in zip(found, expected, strict=True):
        if mine != theirs:
            equals = [image_id for image_id, other in expected if abs(other - score) < 4e-6]
            assert len(equals) > 1 or abs(score - expected[-1][1]) < 4e-6, (mine, theirs)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, N + 20))
def test_every_answer_is_numpys(made, seed, k):
    opened, oracle, _ = made
    query = vectors_of(1, dim=DIM, seed=seed)[0]
    same(answers(opened, query, k), oracle.nearest(query, k))


WORDS = st.sampled_from(["tabby", "lynx", "daisy", "bridge", "cat", "flower", "CAT"])
FILTERS = st.builds(
    Filter,
    tags_any=st.lists(WORDS, max_size=2).map(tuple),
    tags_all=st.lists(WORDS, max_size=2).map(tuple),
    tags_none=st.lists(WORDS, max_size=1).map(tuple),
    min_score=st.sampled_from([0.0, 0.3, 0.7]),
    color=st.sampled_from([None, "red", "blue", "navy"]),
    min_width_px=st.sampled_from([0, 700]),
    min_height_px=st.sampled_from([0, 1200]),
)


def keeps(oracle, asked):
    """The rules of a filter, said once more without bitmaps."""

    def keep(row):
        def has(word, least):
            score = np.float32(oracle.word_score(row, word.lower()))
            return score > 0 and score >= np.float32(least)

        tags = [np.float32(tag["score"]) for tag in row["tags"]]
        asked_words = asked.tags_any or asked.tags_all
        covers = [
            color for color in row["colors"] if color["name"] == asked.color and color["fraction"] >= 0.1
        ]
        return (
            (not asked.tags_any or any(has(word, asked.min_score) for word in asked.tags_any))
            and all(has(word, asked.min_score) for word in asked.tags_all)
            and not any(has(word, 0) for word in asked.tags_none)
            and (
                asked_words or not asked.min_score or any(tag >= np.float32(asked.min_score) for tag in tags)
            )
            and (asked.color is None or bool(covers))
            and row["width_px"] >= asked.min_width_px
            and row["height_px"] >= asked.min_height_px
        )

    return keep


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=FILTERS, seed=st.integers(0, 1000))
def test_every_filtered_answer_is_numpys(made, asked, seed):
    opened, oracle, _ = made
    query = vectors_of(1, dim=DIM, seed=seed)[0]
    same(answers(opened, query, N, asked), oracle.nearest(query, N, keeps(oracle, asked)))


def test_many_queries_at_once_are_answered_as_one_by_one(made):
    opened, oracle, _ = made
    queries = vectors_of(7, dim=DIM, seed=5)
    scores, slots = opened.nearest(queries, 12)
    for row, query in enumerate(queries):
        expected = oracle.nearest(query, 12)
        same(
            list(zip(opened.ids.image_ids(slots[row]), np.clip(scores[row], 0, 1).tolist(), strict=True)),
            expected,
        )


@pytest.mark.parametrize("asked", [Filter(), Filter(tags_any=["tabby"])])
def test_bulk_queries_are_answered_as_a_few(made, asked):
    """Hundreds together are multiplied as matrices; the last rows of a table are no exception."""
    opened, _, _ = made
    queries = vectors_of(300, dim=DIM, seed=31)
    allowed = opened.allowed(asked)
    scores, slots = opened.nearest(queries, 40, allowed)
    for start in range(0, 300, 100):
        few, theirs = opened.nearest(queries[start : start + 100], 40, allowed)
        np.testing.assert_allclose(scores[start : start + 100], few, atol=2e-6)
        for mine, other, score in zip(slots[start : start + 100], theirs, few, strict=True):
            apart = np.flatnonzero(mine != other)  # equals may change places
            assert all(np.isclose(score[n], np.delete(score, n), atol=4e-6).any() for n in apart)
    every = opened.nearest(queries, 300, allowed)[1]
    count = len(opened.ids) if allowed is None else allowed.count
    assert (every[:, :count] >= 0).all()
    assert (every[:, count:] == -1).all()


def test_failed_images_are_not_in_it(made):
    opened, _, _ = made
    with pytest.raises(QueryError, match="there is no image"):
        opened.slot(names(7, 8)[0])
    assert opened.ids.find(names(8, 9)[0]) is None
    assert opened.ids.find("") is None
    assert opened.ids.find("zzz") is None


def test_ids_and_slots_lead_to_each_other(made):
    opened, oracle, _ = made
    every = slots_of(opened, oracle.ids)
    assert opened.ids.find("nothing") is None
    assert len(set(every.tolist())) == len(oracle.ids)
    assert opened.ids.image_ids(every) == opened.ids.take_ids(every).to_pylist() == oracle.ids
    assert opened.ids.are_all(every[::-1])
    for other in (every[1:], np.append(every, every[0]), np.append(every[1:], every[1]), every - 1):
        assert not opened.ids.are_all(other)


def test_vectors_are_those_of_the_table_to_the_last_bit(made):
    opened, oracle, _ = made
    np.testing.assert_array_equal(opened.vectors.take(slots_of(opened, oracle.ids)), oracle.vectors)


def test_words_are_those_of_the_table(made):
    opened, oracle, _ = made
    places = opened.ids.places(slots_of(opened, oracle.ids))
    shown = {column: opened.words.of(column, places) for column in ("tags", "categories", "colors")}
    for n, image_id in enumerate(oracle.ids):
        row = oracle.rows[image_id]
        words = {column: shown[column][n] for column in shown}
        for column, word, score in (
            ("tags", "tag", "score"),
            ("categories", "tag", "score"),
            ("colors", "name", "fraction"),
        ):
            assert [one[word] for one in words[column]] == [one[word] for one in row[column]]
            assert [one[score] for one in words[column]] == pytest.approx(
                [one[score] for one in row[column]], abs=5e-5
            )


def test_an_unknown_word_is_named_with_similar_ones(made):
    opened, _, _ = made
    with pytest.raises(QueryError, match="no tag or category 'tabbi'; similar: tabby"):
        opened.allowed(Filter(tags_any=("tabbi",)))
    with pytest.raises(QueryError, match="no colour 'blu'; there are black"):
        opened.allowed(Filter(color="blu"))
    assert opened.allowed(Filter(color="Navy")).count == 0  # a colour that no picture has


@pytest.mark.parametrize(
    ("given_filter", "said"),
    [
        ({"tags_any": "cat"}, "tags_any must be a list of words, got 'cat'"),
        ({"tags_all": [3]}, "tags_all must be a list of words"),
        ({"min_score": 2}, r"min_score must be in \[0, 1\], got 2"),
        ({"min_score": float("nan")}, "min_score must be"),
        ({"min_score": "0.5"}, "min_score must be"),
        ({"min_width_px": -1}, "min_width_px must be a whole number of pixels, got -1"),
        ({"min_height_px": 1.5}, "min_height_px must be"),
        ({"color": 3}, "color must be the name of a colour"),
        ({"tags_any": None}, "tags_any must be a list of words, got None"),
        ({"tags_none": 5}, "tags_none must be a list of words, got 5"),
        ({"tags_none": b""}, "tags_none must be a list of words, got b''"),
        ({"tags_any": "x" * 10_000}, "got 'x{199}…$"),
        (5, "filter must give fields by name .*, got 5"),
        (["color"], "filter must give fields by name"),
        ({5: 1}, "a filter has no field 5"),
        ({"colour": "red"}, "a filter has no field 'colour'; it has tags_any"),
    ],
)
def test_a_filter_says_what_is_wrong_with_it(given_filter, said):
    with pytest.raises(QueryError, match=said):
        Filter.of(given_filter)


def test_a_generator_is_a_list_of_words():
    assert Filter.of({"tags_any": (word for word in ["lynx"])}) == Filter(tags_any=("lynx",))


def test_no_picture_is_that_wide(made):
    assert made[0].allowed(Filter(min_width_px=10**400)).count == 0


@pytest.mark.parametrize(
    "embedding",
    [[], [1.0], np.zeros(DIM), np.full(DIM, np.nan), np.full(DIM, np.inf), np.ones((1, DIM)), ["a"] * DIM, 3,
     "x" * DIM, np.ones(DIM + 1), [None] * DIM],
    ids=str,
)  # fmt: skip
def test_an_embedding_that_is_none_is_refused(made, embedding):
    opened, _, _ = made
    with pytest.raises(QueryError, match="embedding"):
        opened.query(embedding)


def test_a_query_gets_length_one(made):
    opened, _, _ = made
    assert np.linalg.norm(opened.query(np.arange(1, DIM + 1))) == pytest.approx(1)


def test_no_index_yet(tmp_path):
    collection = collection_of(tmp_path / "c", [rows_of(names(0, 3), vectors_of(3, dim=8, seed=0))], dim=8)
    with pytest.raises(IndexUnusable, match=f"has no index yet: `tagger index {collection.uri}` makes one"):
        Index.open(collection)


def test_an_unknown_kind(made):
    _, _, collection = made
    with pytest.raises(UsageError, match="kind must be one of auto, flat, ivf, ivf-pq, got 'hnsw'"):
        index(collection, kind="hnsw")


@pytest.mark.parametrize("failed", [[], names(0, 3)], ids=["no rows", "only failed ones"])
def test_a_collection_without_tagged_images(tmp_path, failed):
    tables = [rows_of(failed, vectors_of(3, dim=8, seed=0), failed=failed)] if failed else []
    collection = collection_of(tmp_path / "c", tables, dim=8)
    for kind in ("auto", "ivf"):
        assert index(collection, kind=kind).count == 0
        opened = Index.open(collection)
        assert opened.ranking(opened.query(np.ones(8))).first(10)[1].tolist() == []


@pytest.mark.parametrize("n", [1, 2, 9, 41])
@pytest.mark.parametrize("kind", ["ivf", "ivf-pq"])
def test_a_few_images_in_lists_are_all_found(tmp_path, n, kind):
    collection = collection_of(tmp_path / "c", [rows_of(names(0, n), vectors_of(n, dim=8, seed=3))], dim=8)
    index(collection, kind=kind)
    opened, oracle = Index.open(collection), Oracle(collection)
    query = vectors_of(1, dim=8, seed=9)[0]
    same(answers(opened, query, 10), oracle.nearest(query, 10))
