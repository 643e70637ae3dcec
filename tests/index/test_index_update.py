"""An index follows its table: what is new is found, what is gone never again, and only that is read."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_kit import Oracle, add, collection_of, names, remove, replace, rows_of, slots_of, vectors_of

from tagger.collection import Collection
from tagger.index import Filter, Index, index
from tagger.index.manifest import read_manifest, read_pointer

DIM = 8


def manifest_of(collection):
    return read_manifest(collection.store, read_pointer(collection.store))


def files_of(collection):
    return {entry.name: (entry.version, entry.sha256) for entry in manifest_of(collection).files}


def agrees(collection, seed=0):
    """The whole order of a query, words and ids are those of the table."""
    opened, oracle = Index.open(collection), Oracle(collection)
    assert opened.count == len(oracle.ids)
    assert sorted(opened.ids.image_ids(np.sort(opened.ids.slots))) == oracle.ids
    query = vectors_of(1, dim=oracle.vectors.shape[1] if oracle.ids else DIM, seed=seed)[0]
    scores, slots = opened.ranking(query.reshape(1, -1)).first(len(oracle.ids))
    expected = dict(oracle.nearest(query))
    found = dict(zip(opened.ids.image_ids(slots), scores.tolist(), strict=True))
    assert found.keys() == expected.keys()
    assert [found[one] for one in oracle.ids] == pytest.approx(
        [expected[one] for one in oracle.ids], abs=2e-6
    )
    every = slots_of(opened, oracle.ids)
    for image_id, tags in zip(oracle.ids, opened.words.of("tags", opened.ids.places(every)), strict=True):
        assert [tag["tag"] for tag in tags] == [tag["tag"] for tag in oracle.rows[image_id]["tags"]]
    for word in ("tabby", "cat"):
        bitmap = opened.vocabulary.images(word)
        mine = {one for one in oracle.ids if oracle.word_score(oracle.rows[one], word) > 0}
        assert set(opened.ids.image_ids(np.array(sorted(bitmap), np.int64))) == mine


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_after_any_changes_it_is_as_if_built_anew(tmp_path_factory, kind, data):
    place = tmp_path_factory.mktemp("update") / "c"
    collection = collection_of(place, [rows_of(names(0, 60), vectors_of(60, dim=DIM, seed=0))], dim=DIM)
    index(collection, kind=kind)
    alive, mark = set(names(0, 60)), 0
    for _ in range(data.draw(st.integers(1, 3))):
        for action in data.draw(st.lists(st.sampled_from("ARXF"), min_size=1, max_size=3)):
            mark += 1
            some = data.draw(st.lists(st.sampled_from(sorted(alive)), min_size=1, max_size=6, unique=True))
            if action == "A":
                fresh = names(1000 * mark, 1000 * mark + data.draw(st.integers(1, 9)))
                add(collection, rows_of(fresh, vectors_of(len(fresh), dim=DIM, seed=mark)))
                alive |= set(fresh)
            elif action == "X":
                remove(collection, some)
                alive -= set(some)
            else:  # tagged again, with another outcome
                bad = some[:1] if action == "F" else []
                new = rows_of(some, vectors_of(len(some), dim=DIM, seed=mark), failed=bad, mark=str(mark))
                replace(collection, new)
                alive -= set(bad)
        done = index(collection)
        assert done.how in ("updated", "built")
        agrees(collection, seed=mark)
    assert index(collection).how == "unchanged"


def test_slots_are_stable_and_never_given_twice(tmp_path):
    collection = collection_of(
        tmp_path / "c", [rows_of(names(0, 40), vectors_of(40, dim=DIM, seed=0))], dim=DIM
    )
    index(collection, kind="ivf")
    before = {one: Index.open(collection).slot(one) for one in names(0, 40)}
    replace(collection, rows_of(names(0, 2), vectors_of(2, dim=DIM, seed=7), mark="new"))
    remove(collection, names(3, 4))
    add(collection, rows_of(names(50, 53), vectors_of(3, dim=DIM, seed=8)))
    index(collection)
    after = Index.open(collection)
    assert [after.slot(one) for one in names(4, 40)] == [before[one] for one in names(4, 40)]
    new = {after.slot(one) for one in [*names(0, 2), *names(50, 53)]}
    assert new.isdisjoint(before.values())
    assert after.ids.find(names(3, 4)[0]) is None


def test_nothing_new_writes_nothing(tmp_path):
    collection = collection_of(
        tmp_path / "c", [rows_of(names(0, 9), vectors_of(9, dim=DIM, seed=0))], dim=DIM
    )
    first = index(collection)
    assert index(collection).version == first.version
    assert len(list((tmp_path / "c" / "index").iterdir())) == 2  # the version and CURRENT


def test_after_a_retag_only_the_words_are_made_again(tmp_path):
    from tagger.collection import retag

    collection = collection_of(
        tmp_path / "c", [rows_of(names(0, 300), vectors_of(300, dim=DIM, seed=0))], dim=DIM
    )
    index(collection, kind="ivf")
    before = files_of(collection)
    weights = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32) * 4
    retag(Collection.open(collection.uri), lambda vectors, norm: norm[:, None] * (vectors @ weights.T))
    done = index(collection)
    assert done.how == "updated"
    after = files_of(collection)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"words.arrow", "postings.arrow"}
    agrees(collection)


def test_an_update_keeps_the_vector_files_of_older_versions(tmp_path):
    collection = collection_of(
        tmp_path / "c", [rows_of(names(0, 40), vectors_of(40, dim=DIM, seed=0))], dim=DIM
    )
    first = index(collection)
    add(collection, rows_of(names(40, 44), vectors_of(4, dim=DIM, seed=1)))
    second = index(collection)
    segments = manifest_of(collection).segments
    assert [files_of(collection)[segment.file][0] for segment in segments] == [first.version, second.version]
    agrees(collection)


def test_a_reader_of_the_old_version_is_not_disturbed(tmp_path):
    collection = collection_of(
        tmp_path / "c", [rows_of(names(0, 40), vectors_of(40, dim=DIM, seed=0))], dim=DIM
    )
    index(collection)
    old = Index.open(collection)
    remove(collection, names(0, 5))
    index(collection)
    assert old.count == 40
    assert len(old.ranking(old.query(np.ones(DIM))).first(40)[1]) == 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("grow", "there were 120 images when it was trained, and there are 260 now"),
        ("shrink", "there were 120 images when it was trained, and there are 20 now"),
        ("drift", "times as far from the centres of their lists"),
    ],
)
def test_it_is_built_anew_when_it_has_changed_too_much(tmp_path, change, said):
    n = 400 if change == "drift" else 120
    flock = vectors_of(n, dim=DIM, seed=0, clusters=3)
    collection = collection_of(tmp_path / "c", [rows_of(names(0, n), flock)], dim=DIM)
    index(collection, kind="ivf")
    if change == "grow":
        add(collection, rows_of(names(200, 340), vectors_of(140, dim=DIM, seed=1)))
    elif change == "shrink":
        remove(collection, names(0, 100))
    else:
        add(collection, rows_of(names(500, 700), -flock[:200]))
    told = []
    done = index(collection, say=told.append)
    assert done.how == "built"
    assert any(said in line for line in told), told
    agrees(collection)


def test_a_slower_builder_does_not_undo_a_newer_index(tmp_path):
    """Two at once: the one that shows an older table gives way to the one that shows a newer."""
    from tagger.index.publish import publish

    collection = collection_of(
        tmp_path / "c", [rows_of(names(0, 9), vectors_of(9, dim=DIM, seed=0))], dim=DIM
    )
    index(collection)
    older, before = manifest_of(collection), read_pointer(collection.store)
    add(collection, rows_of(names(9, 12), vectors_of(3, dim=DIM, seed=1)))
    newer = index(collection)
    assert publish(collection.store, older, before).version == newer.version
    assert Index.open(collection).count == 12


def test_filters_follow_the_table(tmp_path):
    rows = rows_of(names(0, 50), vectors_of(50, dim=DIM, seed=0))
    collection = collection_of(tmp_path / "c", [rows], dim=DIM)
    index(collection)
    remove(
        collection,
        [row["image_id"] for row in rows.to_pylist() if any(t["tag"] == "tabby" for t in row["tags"])],
    )
    index(collection)
    opened = Index.open(collection)
    assert opened.allowed(Filter(tags_any=("tabby",))).count == 0
    agrees(collection)
