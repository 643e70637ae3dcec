import signal

import numpy as np
import pyarrow as pa
import pytest
from collection_kit import (
    DIM,
    LABELS,
    TAXONOMY,
    Child,
    add_rows,
    ids,
    make_collection,
    make_config,
    make_rows,
    put_rows,
)

from tagger.collection import SCHEMA, Collection, Tagging, check, retag
from tagger.collection.retagging import _with_taught
from tagger.errors import CollectionError
from tagger.tags import Entry, Taxonomy, probabilities

WEIGHT = np.random.default_rng(7).normal(size=(len(LABELS), DIM)).astype(np.float32)
BIAS = np.array([0.1, -0.2, 0.3, 0.0], np.float32)
OTHER = Taxonomy(
    tags=(Entry("house cat", ("pet",)), Entry("lynx", hidden=True), Entry("daisy"), Entry("bridge")),
    nodes=(Entry("pet"),),
)


def logits_of(embedding, norm):
    return (embedding * norm[:, None]) @ WEIGHT.T + BIAS


def expected(rows, taxonomy, threshold, top_k):
    """tags and categories by image_id, one image at a time."""
    words = {}
    for row in rows.to_pylist():
        if row["embedding"] is None:
            words[row["image_id"]] = (None, None)
            continue
        vector = np.array([row["embedding"]], np.float32)
        logits = logits_of(vector, np.array([row["embedding_norm"]], np.float32))
        tags, categories = taxonomy.assign(
            probabilities(logits, "softmax"), source="tiny", threshold=threshold, top_k=top_k
        )
        words[row["image_id"]] = (tags.to_pylist()[0], categories.to_pylist()[0])
    return words


def words(collection):
    rows = Collection.open(collection.uri).tags(["image_id", "tags", "categories"]).read_all().to_pylist()
    return {row["image_id"]: (row["tags"], row["categories"]) for row in rows}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for image_id in found:
        for mine, theirs in zip(found[image_id], wanted[image_id], strict=True):
            if theirs is None:
                assert mine is None
                continue
            assert [item["tag"] for item in mine] == [item["tag"] for item in theirs]
            assert [item["score"] for item in mine] == pytest.approx(
                [item["score"] for item in theirs], abs=1e-5
            )


def test_every_row_gets_the_words_of_the_new_settings(place):
    collection = make_collection(place)
    rows = make_rows(ids(0, 40), failed=ids(0, 40)[::6])
    add_rows(collection, rows.slice(0, 25))
    add_rows(collection, rows.slice(25), "run-b")
    before = collection.table.scan().read_all()
    version = collection.table.version
    result = retag(Collection.open(place), logits_of, taxonomy=OTHER, threshold=0.05, top_k=2)
    assert (result.rows, result.tagged, result.table_version) == (40, 33, version + 1)
    opened = Collection.open(place)
    close(words(opened), expected(rows, OTHER, 0.05, 2))
    assert any(len(tags or ()) == 2 for tags, _ in words(opened).values())
    assert opened.config.tagging == Tagging.of(OTHER, threshold=0.05, top_k=2, serial=1)
    assert opened.taxonomy() == OTHER
    after = opened.table.scan().read_all()
    same = [name for name in SCHEMA.names if name not in ("tags", "categories")]
    sort = [("image_id", "ascending")]
    assert after.select(same).sort_by(sort).equals(before.select(same).sort_by(sort))
    assert check(opened).findings == []
    assert b'"next"' not in opened.store.read("collection.json")
    record = list(opened.runs())[-1]
    assert (record["state"], record["settings"]["threshold"]) == ("done", 0.05)
    assert record["result"]["tagged"] == 33


def test_what_is_not_named_stays(tmp_path):
    collection = make_collection(tmp_path)
    rows = make_rows(ids(0, 5))
    add_rows(collection, rows)
    retag(collection, logits_of, threshold=0.3)
    assert collection.config.tagging == Tagging.of(TAXONOMY, threshold=0.3, top_k=3, serial=1)
    close(words(collection), expected(rows, TAXONOMY, 0.3, 3))
    retag(collection, logits_of, top_k=1)
    assert collection.config.tagging == Tagging.of(TAXONOMY, threshold=0.3, top_k=1, serial=2)
    close(words(collection), expected(rows, TAXONOMY, 0.3, 1))


def test_an_empty_collection_changes_its_settings(tmp_path):
    result = retag(make_collection(tmp_path), logits_of, threshold=0.3)
    assert (result.rows, result.tagged) == (0, 0)
    assert Collection.open(str(tmp_path)).config.tagging.threshold == 0.3


def test_a_collection_with_failures_only(tmp_path):
    collection = make_collection(tmp_path)
    add_rows(collection, make_rows(ids(0, 3), failed=ids(0, 3)))
    assert retag(collection, logits_of, threshold=0.3).tagged == 0
    assert check(collection).findings == []


def test_wrong_settings_change_nothing(tmp_path):
    collection = make_collection(tmp_path)
    add_rows(collection, make_rows(ids(0, 3)))
    version = collection.table.version
    with pytest.raises(ValueError, match="threshold must be in"):
        retag(collection, logits_of, threshold=2)
    opened = Collection.open(str(tmp_path))
    assert (opened.table.version, opened.config.tagging) == (
        version,
        make_collection(tmp_path).config.tagging,
    )


def test_a_retag_that_fails_leaves_everything_and_says_so(tmp_path):
    collection = make_collection(tmp_path)
    add_rows(collection, make_rows(ids(0, 3)))
    old = words(collection)
    with pytest.raises(ValueError, match="shape"):
        retag(collection, lambda embedding, _norm: np.zeros((len(embedding), 3), np.float32), threshold=0.2)
    assert words(collection) == old
    assert Collection.open(str(tmp_path)).config.tagging.threshold == 0.1
    assert next(iter(collection.runs()))["state"] == "failed"
    assert not (tmp_path / "lease.json").exists()


def test_tags_of_taught_heads_are_kept():
    def lists(*rows):
        return pa.array(rows, SCHEMA.field("tags").type)

    def tag(name, score, source="tiny"):
        return {"tag": name, "score": np.float32(score).item(), "source": source}

    old = lists([tag("old", 0.9), tag("logo", 0.6, "h")], None, [tag("old", 0.9)], [tag("logo", 0.2, "h")])
    new = lists([tag("a", 0.7), tag("b", 0.5)], None, [tag("c", 0.4)], [])
    merged = _with_taught(new, old, "tiny")
    assert merged.to_pylist() == [
        [tag("a", 0.7), tag("logo", 0.6, "h"), tag("b", 0.5)],
        None,
        [tag("c", 0.4)],
        [tag("logo", 0.2, "h")],
    ]
    assert _with_taught(new, lists(None, None, [tag("x", 1)], None), "tiny") is new


RETAG = """
import os, signal
calls = 0
def logits_of(embedding, norm):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.zeros((len(norm), 4), np.float32)
from tagger.collection import retag
retag(Collection.open(sys.argv[1]), logits_of, threshold=0.2, top_k=1)
say("done")
"""


def test_a_killed_retag_leaves_the_old_state_and_the_next_one_finishes(place):
    collection = make_collection(place)
    rows = make_rows(ids(0, 20))
    for i in range(4):
        add_rows(collection, rows.slice(5 * i, 5))
    old = words(collection)
    version = collection.table.version
    for call in (1, 3):
        with Child(RETAG, place, call) as child:
            assert child.line() == ""
            assert child.process.wait() == -signal.SIGKILL
        opened = Collection.open(place)
        assert words(opened) == old
        assert opened.config == collection.config
        assert check(opened).findings == []
    assert Collection.open(place).table.version <= version + 1  # the second took over from the first: a fence
    retag(Collection.open(place), logits_of, threshold=0.2)
    close(words(collection), expected(rows, TAXONOMY, 0.2, 3))
    assert Collection.open(place).config.tagging.threshold == 0.2


@pytest.mark.parametrize("reached", ["announced", "committed"])
def test_settings_and_rows_agree_wherever_a_retag_is_cut_short(place, reached):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 4)))
    new = Tagging.of(TAXONOMY, threshold=0.7, top_k=1, serial=1)
    with collection.writer("run-r", "tagger retag") as writer:
        collection.announce(new)
        if reached == "committed":
            part = collection.table.parts()[0]
            again = put_rows(collection, make_rows(ids(0, 4), mark="retagged"))
            writer.swap({part.path: again}, operation="retag", serial=1)
    # here the process dies: nothing of the last step is written
    holds = new if reached == "committed" else make_config().tagging
    opened = Collection.open(place)
    assert opened.config.tagging == holds
    assert opened.config.next is None
    assert b'"next"' in opened.store.read("collection.json")
    assert make_collection(place).config.tagging == holds
    with opened.writer("run-s", "tagger tag"):
        assert opened.config.tagging == holds
    assert b'"next"' not in opened.store.read("collection.json")
    assert Collection.open(place).config.tagging == holds
    retag(Collection.open(place), logits_of, threshold=0.3)
    assert Collection.open(place).config.tagging.threshold == 0.3
    assert Collection.open(place).table.serial == holds.serial + 1


def test_a_collection_without_a_taxonomy_needs_one_named(tmp_path):
    collection = make_collection(tmp_path, tagging=Tagging(0.1, 3))
    with pytest.raises(CollectionError, match="name one with --taxonomy"):
        retag(collection, logits_of, threshold=0.2)
    retag(collection, logits_of, taxonomy=OTHER)
    assert collection.taxonomy() == OTHER


def test_words_of_several_parts_are_renewed(tmp_path):
    collection = make_collection(tmp_path, dim=64)
    rows = make_rows(ids(0, 64), dim=64)
    for part in range(4):
        names = pa.array([f"s3://photos/{part}/{i}" for i in range(64 * 64)])
        many = pa.concat_tables([rows] * 64).combine_chunks().set_column(0, SCHEMA.field("image_id"), names)
        add_rows(collection, many)
    weight = np.zeros((4, 64), np.float32)
    result = retag(collection, lambda e, n: (e * n[:, None]) @ weight.T, threshold=0.1)
    assert result.tagged == 4 * 64 * 64
