"""Queries: by image, by id, by tag, together; pages, folding, wrong use."""

import os
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_kit import Oracle, collection_of, names, rows_of, vectors_of

from tagger.collection import SCHEMA
from tagger.errors import QueryError
from tagger.index import Filter, Index, index
from tagger.search import Collection, search
from tagger.search.fold import Folded, fold, same_picture

DIM = 24
N = 200


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    vectors = vectors_of(N, dim=DIM, seed=1)
    rows = rows_of(names(0, N), vectors, seed=1).to_pylist()
    for copy in (11, 12):  # the same bytes under other names
        for column in ("sha256", "phash", "embedding"):
            rows[copy][column] = rows[10][column]
    for other, bits in ((21, 0b11), (22, 0b1)):  # the same picture, encoded again
        rows[other]["embedding"] = rows[20]["embedding"]
        rows[other]["phash"] = f"{int(rows[20]['phash'], 16) ^ bits:016x}"
    collection = collection_of(
        tmp_path_factory.mktemp("query") / "c", [pa.Table.from_pylist(rows, SCHEMA)], dim=DIM
    )
    index(collection)
    return Index.open(collection), Oracle(collection), collection


def ids_of(found):
    return [match.image_id for match in found.matches]


def test_an_image_never_finds_itself(made):
    opened, oracle, _ = made
    for image_id in oracle.ids[::17]:
        found = search(opened, image_id=image_id, k=30)
        expected = [
            one for one in oracle.nearest(oracle.rows[image_id]["embedding"], 31) if one[0] != image_id
        ]
        assert image_id not in ids_of(found)
        assert [match.score for match in found.matches] == pytest.approx(
            [s for _, s in expected[:30]], abs=2e-6
        )


def test_the_copies_of_an_image_are_found_unless_folded(made):
    opened, _, _ = made
    copies = set(names(11, 13))
    plain = search(opened, image_id=names(10, 11)[0], k=3)
    assert set(ids_of(plain)[:2]) == copies
    folded = search(opened, image_id=names(10, 11)[0], k=3, fold=True)
    first = folded.matches[0]
    assert {first.image_id, *first.folded} == copies
    assert copies.isdisjoint(ids_of(folded)[1:])


def test_the_same_picture_encoded_again_is_folded_by_its_hash(made):
    opened, oracle, _ = made
    found = search(opened, embedding=oracle.rows[names(20, 21)[0]]["embedding"], k=5, fold=True)
    assert {found.matches[0].image_id, *found.matches[0].folded} == set(names(20, 23))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
       fold=st.booleans(), words=st.sampled_from([(), ("cat",), ("bridge",)]))  # fmt: skip
def test_pages_put_together_are_one_long_answer(made, seed, cuts, fold, words):
    opened, _, _ = made
    query = vectors_of(1, dim=DIM, seed=seed)[0]
    asked = Filter(tags_none=words)
    whole = ids_of(search(opened, embedding=query, k=10_000, filter=asked, fold=fold))
    paged, offset = [], 0
    for k in cuts:
        page = search(opened, embedding=query, k=k, offset=offset, filter=asked, fold=fold)
        paged += ids_of(page)
        assert (page.next_offset is None) == (offset + k >= len(whole))
        offset += k
    assert paged == whole[:offset]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_what_is_folded_is_every_image_once(made, seed):
    opened, oracle, _ = made
    found = search(opened, embedding=vectors_of(1, dim=DIM, seed=seed)[0], k=10_000, fold=True)
    every = [one for match in found.matches for one in (match.image_id, *match.folded)]
    assert sorted(every) == oracle.ids
    assert len(found.matches) == N - 4


@pytest.mark.parametrize("word", ["tabby", "cat", "CAT", "flower", "bridge"])
def test_a_tag_finds_the_images_that_have_it_by_score(made, word):
    opened, oracle, _ = made
    found = search(opened, tag=word, k=10_000)
    expected = {one: oracle.word_score(oracle.rows[one], word.lower()) for one in oracle.ids}
    expected = {one: score for one, score in expected.items() if score}
    assert {match.image_id: pytest.approx(match.score, abs=1e-6) for match in found.matches} == expected
    scores = [match.score for match in found.matches]
    assert scores == sorted(scores, reverse=True)
    strong = search(opened, tag=word, k=10_000, filter={"min_score": 0.6})
    assert set(ids_of(strong)) == {
        one for one, score in expected.items() if np.float32(score) >= np.float32(0.6)
    }


def test_a_tag_beside_a_picture_narrows_the_search(made):
    opened, oracle, _ = made
    query = oracle.vectors[3]
    found = search(opened, embedding=query, tag="cat", k=N)
    expected = oracle.nearest(query, N, lambda row: oracle.word_score(row, "cat") > 0)
    assert ids_of(found) == [one for one, _ in expected]


def test_several_pictures_are_searched_by_their_mean(made):
    opened, oracle, _ = made
    some = oracle.ids[3:6]
    found = search(opened, image_id=some, k=20)
    mean = oracle.vectors[3:6].mean(axis=0)
    expected = [one for one in oracle.nearest(mean / np.linalg.norm(mean), N) if one[0] not in some][:20]
    assert ids_of(found) == [one for one, _ in expected]
    assert [match.score for match in found.matches] == pytest.approx([s for _, s in expected], abs=2e-6)


def test_pictures_that_cancel_each_other_out(made):
    opened, oracle, _ = made
    with pytest.raises(QueryError, match="cancel each other out"):
        search(opened, image_id=oracle.ids[0], embedding=-oracle.vectors[0])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "there is nothing to search for: give an image"),
        ({"tag": "dog"}, "no tag or category 'dog'"),
        ({"image_id": "s3://nothing"}, "there is no image 's3://nothing' in the index"),
        ({"tag": "cat", "k": 0}, "k must be a whole number from 1 to 10,000, got 0"),
        ({"tag": "cat", "k": 10**9}, "k must be"),
        ({"tag": "cat", "k": 1.5}, "k must be"),
        ({"tag": "cat", "k": True}, "k must be"),
        ({"tag": "cat", "offset": -1}, "offset must be"),
        ({"tag": "cat", "filter": {"tags_all": ["dgo"]}}, "no tag or category 'dgo'"),
        ({"embedding": [1.0, 2.0]}, "list of 24 numbers"),
        ({"embedding": [10**400] * DIM}, "embedding"),
        ({"image_id": 5}, "image_id must be a list of image ids, got 5"),
        ({"image_id": [5]}, r"image_id must be a list of image ids, got \[5\]"),
        ({"image_id": b"a"}, "image_id must be a list of image ids, got b'a'"),
        ({"image_id": "x" * 10_000}, "there is no image 'x{199}… in the index"),
        ({"tag": 5}, "tag must be a tag or category, got 5"),
        ({"tag": "x" * 10_000}, "no tag or category 'x{199}…$"),
        pytest.param({"tag": "cat", "k": 10**5000}, "got a value too long to show", id="k with 5,001 digits"),
        ({"tag": "cat", "filter": 5}, "filter must give fields by name .*, got 5"),
        ({"tag": "cat", "offset": 10_001, "fold": True}, "offset with fold must be .* to 10,000, got 10001"),
        (
            {"embedding": np.ones(DIM), "model_id": "other"},
            "made by model other, and this index is of 0123456789ab",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_use_is_said(made, asked, said):
    opened, _, _ = made
    with pytest.raises(QueryError, match=said):
        search(opened, **asked)


def test_a_match_has_the_words_of_its_row(made):
    opened, oracle, _ = made
    for match in search(opened, embedding=oracle.vectors[0], k=N).matches:
        row = oracle.rows[match.image_id]
        assert [tag["tag"] for tag in match.tags] == [tag["tag"] for tag in row["tags"]]
        assert [one["tag"] for one in match.categories] == [one["tag"] for one in row["categories"]]


def test_what_a_program_opens(made):
    import tagger

    collection = tagger.open(made[2].uri)
    assert isinstance(collection, Collection)
    image_id = names(5, 6)[0]
    by_query = collection.search(image_id, k=4)
    assert ids_of(by_query) == ids_of(collection.search(image_id=image_id, k=4))
    assert collection.search("Cat").matches
    document = by_query.to_json()
    assert list(document) == ["model_id", "index_version", "matches", "next_offset"]
    assert list(document["matches"][0]) == ["image_id", "score", "tags", "categories"]
    with pytest.raises(
        QueryError, match="'tabbi' is neither an image file, nor an image_id of the index, nor a tag"
    ):
        collection.search("tabbi")
    with pytest.raises(QueryError, match="query cannot go with image"):
        collection.search("cat", tag="cat")
    with pytest.raises(QueryError, match="cannot be read"):
        collection.search(image="/nonexistent.jpg")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"query": 5}, "query must be an image file, an image_id or a tag, got 5"),
        ({"query": "x" * 10_000}, "^'x{199}… is neither an image file"),
        ({"image": 5}, "image must be the name of an image file or its bytes, got 5"),
        ({"image": b""}, "the picture is empty"),
        ({"image": "a\0b"}, "cannot be read"),
        ({"image": "/dev/null"}, "'/dev/null' cannot be read: it is a pipe or a device"),
        ({"image": "/"}, "'/' cannot be read: Is a directory"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_use_of_what_a_program_opens(made, asked, said):
    with pytest.raises(QueryError, match=said):
        Collection.open(made[2].uri).search(**asked)


def test_a_file_is_looked_at_before_the_model_is_loaded(made, tmp_path):
    """The model "tiny" of this collection is none, so that loading it would be another error."""
    opened = Collection.open(made[2].uri)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QueryError, match="it is a pipe or a device"):
        opened.search(image=tmp_path / "pipe")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(QueryError, match=r"huge\.jpg' is too large: .* at most 64 MB"):
        opened.search(image=tmp_path / "huge.jpg")


def test_index_waits_for_the_search_that_opens_the_one_before(made):
    opened = Collection.open(made[2].uri)
    thread = threading.Thread(target=opened.index)
    with opened._opening:
        opened._index = before = Index.open(made[2])
        thread.start()
        thread.join(0.7)
        assert opened._index is before
    thread.join()
    assert opened._index is None


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Pictures 0 and 1 are blank; the others are tagged Turkey, turkey, Turkey and Owl."""
    vectors = vectors_of(6, dim=8, seed=1)
    vectors[:2] = 0
    rows = rows_of(names(0, 6), vectors).to_pylist()
    for row, word in zip(rows[2:], ["Turkey", "turkey", "Turkey", "Owl"], strict=True):
        row["tags"], row["categories"] = [{"tag": word, "score": 0.9, "source": "tiny"}], []
    for row in rows[:2]:
        row["tags"] = row["categories"] = []
    collection = collection_of(
        tmp_path_factory.mktemp("odd") / "c", [pa.Table.from_pylist(rows, SCHEMA)], dim=8
    )
    index(collection)
    return Index.open(collection)


@pytest.mark.parametrize(
    "asked",
    [{"image_id": names(0, 1)[0]}, {"image_id": names(0, 2)}, {"embedding": np.zeros(8)}],
    ids=["one", "two", "embedding"],
)
def test_a_blank_picture_is_refused(odd, asked):
    with pytest.raises(QueryError, match=r"blank|nothing but zeros"):
        search(odd, **asked)


@pytest.mark.parametrize(
    ("word", "found"),
    [("Turkey", [2, 4]), ("turkey", [3]), ("TURKEY", [2, 3, 4]), ("owl", [5]), ("Owl", [5])],
)
def test_words_that_differ_only_in_case(odd, word, found):
    expected = [names(n, n + 1)[0] for n in found]
    assert sorted(ids_of(search(odd, tag=word))) == expected
    asked = {"embedding": np.ones(8), "filter": {"tags_any": [word]}}
    assert sorted(ids_of(search(odd, **asked))) == expected
    assert len(search(odd, embedding=np.ones(8), filter={"tags_none": [word]}).matches) == 6 - len(found)


def test_folding_stops_when_there_is_enough(made):
    opened, oracle, _ = made
    _, slots = opened.ranking(opened.query(oracle.vectors[3])).first(N)
    whole, some = Folded(opened), Folded(opened)
    every = whole.extend(slots)
    assert some.extend(slots[:10], need=1).tolist() == every[every < 10].tolist()
    assert some.extend(slots, need=5).tolist() == every[every < 10].tolist()  # there are enough
    assert some.extend(slots).tolist() == every.tolist()
    assert some.groups == whole.groups


@pytest.mark.parametrize("seed", range(3))
def test_a_long_list_is_folded_as_one_by_one(long, seed):
    slots = np.random.default_rng(seed).permutation(len(long.vectors))
    one = same_picture(long, slots, slots)
    kept, groups = [], {}
    for row in range(len(slots)):
        hits = np.flatnonzero(one[row, kept])
        if len(hits):
            groups.setdefault(int(slots[kept[hits[0]]]), []).append(int(slots[row]))
        else:
            kept.append(row)
    assert fold(long, slots) == (kept, groups)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """700 pictures, more than two blocks of folding, many of which show what others show."""
    vectors = vectors_of(700, dim=4, seed=2)
    collection = collection_of(
        tmp_path_factory.mktemp("long") / "c", [rows_of(names(0, 700), vectors)], dim=4
    )
    index(collection)
    return Index.open(collection)


def test_threads_get_the_answers_of_one(made):
    from concurrent.futures import ThreadPoolExecutor

    opened, oracle, _ = made

    def ask(n):
        return ids_of(
            search(opened, image_id=oracle.ids[n % N], k=20, filter={"tags_none": ["cat"]} if n % 3 else None)
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(400))) == [ask(n) for n in range(400)]
