import threading
import time

import duckdb
import pyarrow as pa
import pytest
from collection_kit import (
    FaultyProxy,
    add_rows,
    contents,
    ids,
    make_collection,
    make_rows,
    put_rows,
)

from tagger.collection import Collection, Part
from tagger.errors import RunError, StoreUnavailable, TaggerError, TakenOver


def commit(table, add=(), remove=(), **options):
    """A commit by whoever holds the newest counter, without a lease."""
    table.refresh()
    return table.commit(list(add), list(remove), counter=table.counter, run_id="run-a", **options)


def test_commits_add_and_remove_parts(place):
    collection = make_collection(place)
    table = collection.table
    first, second = put_rows(collection, make_rows(ids(0, 5))), put_rows(collection, make_rows(ids(5, 9)))
    assert commit(table, [first]) == 1
    assert commit(table, [second], [first.path]) == 2
    assert (table.version, table.counter, table.rows) == (2, 2, 4)
    assert [(p.path, p.rows, p.size_bytes) for p in table.parts()] == [(second.path, 4, second.size_bytes)]
    assert (table.parts()[0].least_id, table.parts()[0].greatest_id) == (ids(5, 6)[0], ids(8, 9)[0])
    assert contents(collection).keys() == set(ids(5, 9))


def test_a_handle_knows_what_it_committed_as_a_fresh_one_reads_it(place):
    collection = make_collection(place)
    table = collection.table
    first, second, third = (put_rows(collection, make_rows(ids(i, i + 3))) for i in (0, 3, 6))
    for add, remove in (([first], []), ([second, third], [first.path]), ([], [second.path])):
        commit(table, add, remove)
        assert table.parts() == Collection.open(place).table.parts()
    other = Collection.open(place).table
    commit(other, [first])
    commit(other, [], [third.path])
    commit(table, [second])  # after two commits that this handle did not make
    assert table.parts() == Collection.open(place).table.parts()
    assert {part.path for part in table.parts()} == {first.path, second.path}


def test_a_scan_gives_the_columns_asked_for_in_a_fixed_order(place):
    collection = make_collection(place)
    parts = [put_rows(collection, make_rows(ids(i, i + 5000))) for i in (0, 5000, 10000)]
    commit(collection.table, parts)
    table = Collection.open(place).table
    expected = [path for path in sorted(p.path for p in parts) for _ in range(5000)]
    batches = list(table.scan(["etag", "image_id"], batch_rows=1000, part_column=True))
    assert batches[0].schema.names == ["etag", "image_id", "part"]
    assert max(batch.num_rows for batch in batches) == 1000
    whole = pa.Table.from_batches(batches)
    assert whole.column("part").to_pylist() == expected
    assert sorted(whole.column("image_id").to_pylist()) == ids(0, 15000)
    again = pa.Table.from_batches(table.scan(["etag", "image_id"], batch_rows=1000, part_column=True))
    assert again.equals(whole)
    one = table.scan(["image_id"], parts=[parts[1].path]).read_all()
    assert one.column("image_id").to_pylist() == ids(5000, 10000)
    with pytest.raises(KeyError):
        table.scan(parts=["elsewhere.parquet"])


def test_a_scan_may_be_left_early(tmp_path):
    collection = make_collection(tmp_path)
    commit(collection.table, [put_rows(collection, make_rows(ids(i, i + 300))) for i in range(0, 9000, 300)])
    before = threading.active_count()
    reader = collection.table.scan()
    assert reader.read_next_batch().num_rows == 300
    del reader
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_scan_stays_at_its_version(place):
    collection = make_collection(place)
    first = put_rows(collection, make_rows(ids(0, 5)))
    commit(collection.table, [first])
    reader = collection.table.scan(["image_id"])
    commit(collection.table, [put_rows(collection, make_rows(ids(5, 9)))], [first.path])
    assert reader.read_all().column("image_id").to_pylist() == ids(0, 5)


def test_rows_of_some_images(place):
    collection = make_collection(place)
    commit(collection.table, [put_rows(collection, make_rows(ids(i, i + 10))) for i in range(0, 40, 10)])
    wanted = [*ids(3, 5), *ids(25, 26), "s3://unknown"]
    found = collection.table.read_rows(wanted, ["etag", "image_id"])
    assert found.column_names == ["etag", "image_id"]
    assert sorted(found.column("image_id").to_pylist()) == [*ids(3, 5), *ids(25, 26)]
    assert collection.table.read_rows([], ["etag"]).num_rows == 0
    assert collection.table.read_rows(ids(3, 4)).equals(make_rows(ids(3, 4)))


def test_other_programs_read_the_table(tmp_path):
    collection = make_collection(tmp_path)
    old = add_rows(collection, make_rows(ids(0, 50), failed=ids(0, 5)))
    with collection.writer("run-b", "tagger tag") as writer:
        writer.commit(
            [put_rows(collection, make_rows(ids(3, 5), mark="y"))], replaced={old.path: set(ids(3, 5))}
        )
    dataset = collection.table.handle.to_pyarrow_dataset()
    assert dataset.count_rows() == 50
    found = duckdb.sql("SELECT status, count(*), sum(len(tags)) FROM dataset GROUP BY status ORDER BY status")
    assert found.fetchall() == [("failed", 3, None), ("tagged", 47, 47)]


def test_the_log_gets_checkpoints_and_says_the_same_afterwards(place):
    collection = make_collection(place)
    part = put_rows(collection, make_rows(ids(0, 3)))
    commit(collection.table, [part])
    for _ in range(104):
        commit(collection.table)
    names = [info.name for page in collection.store.list("tags/_delta_log/") for info in page]
    assert any(name.endswith(".checkpoint.parquet") for name in names)
    opened = Collection.open(place).table
    assert (opened.version, opened.counter, opened.serial, opened.rows) == (105, 105, 0, 3)
    assert opened.parts()[0].least_id == ids(0, 1)[0]
    assert contents(collection).keys() == set(ids(0, 3))


def test_a_missing_or_changed_part_is_refused(place):
    collection = make_collection(place)
    part = put_rows(collection, make_rows(ids(0, 3)))
    there = put_rows(collection, make_rows(ids(3, 6)))
    for wrong, message in (
        (Part("nowhere.parquet", 10, 3, part.stats), "is missing, so its 3 rows are not committed"),
        (Part(part.path, part.size_bytes + 1, 3, part.stats), "bytes instead of"),
    ):
        with pytest.raises(RunError, match=message):
            commit(collection.table, [there, wrong])
    assert contents(collection) == {}
    with pytest.raises(ValueError, match="added twice"):
        commit(collection.table, [part, part])
    commit(collection.table, [part])
    with pytest.raises(ValueError, match="in the table already"):
        commit(collection.table, [part])
    assert contents(collection).keys() == set(ids(0, 3))


def test_only_live_parts_can_be_removed(place):
    collection = make_collection(place)
    part = put_rows(collection, make_rows(ids(0, 3)))
    commit(collection.table, [part])
    commit(collection.table, [], [part.path])
    for path in (part.path, "never.parquet"):
        with pytest.raises(RunError, match="no longer part of the table"):
            commit(collection.table, [], [path])
    assert Collection.open(place).table.version == 2


def test_a_stale_counter_commits_nothing(place):
    collection = make_collection(place)
    stale = Collection.open(place).table
    part, other = put_rows(collection, make_rows(ids(0, 3))), put_rows(collection, make_rows(ids(3, 6)))
    commit(collection.table, [part])
    with pytest.raises(TakenOver, match=r"another run took over .*\(run-a\)"):
        stale.commit([other], [], counter=0, run_id="run-old")
    assert contents(collection).keys() == set(ids(0, 3))


def test_of_racing_writers_exactly_one_wins(place):
    made = make_collection(place)
    tables = [Collection.open(place).table for _ in range(6)]
    parts = [put_rows(made, make_rows(ids(10 * i, 10 * i + 3))) for i in range(6)]
    start = threading.Barrier(6)
    outcomes = [None] * 6

    def race(i):
        start.wait()
        try:
            tables[i].commit([parts[i]], [], counter=0, run_id=f"run-{i}")
            outcomes[i] = "won"
        except TakenOver:
            outcomes[i] = "taken over"

    threads = [threading.Thread(target=race, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["taken over"] * 5 + ["won"]
    winner = outcomes.index("won")
    assert contents(made).keys() == set(ids(10 * winner, 10 * winner + 3))
    assert Collection.open(place).table.version == 1


@pytest.mark.s3
@pytest.mark.parametrize("action", ["lost", 503])
def test_a_commit_is_made_once_whatever_the_store_answers(bucket, s3, monkeypatch, action):
    faults = {"left": 2}

    def fault(method, path, headers):
        if method == "PUT" and "/_delta_log/" in path and faults["left"] > 0 and "00000.json" not in path:
            faults["left"] -= 1
            return action
        return ""

    with FaultyProxy(s3, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        collection = make_collection(bucket.uri + "/c")
        part = put_rows(collection, make_rows(ids(0, 3)))
        assert commit(collection.table, [part]) == 1
        assert faults["left"] <= 0 or action == "lost"
        more = put_rows(collection, make_rows(ids(3, 6)))
        assert commit(collection.table, [more]) == 2
        assert (collection.table.version, collection.table.counter) == (2, 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert contents(collection).keys() == set(ids(0, 6))


@pytest.mark.s3
@pytest.mark.parametrize("status", [507, 403])
def test_a_store_that_takes_no_commit_is_one_sentence(bucket, s3, monkeypatch, status):
    error, message = {507: (RunError, "no space left at .* make room"), 403: (StoreUnavailable, "refuses")}[
        status
    ]
    broken = {"on": False}

    def fault(method, path, headers):
        return status if broken["on"] and method == "PUT" and "/_delta_log/" in path else ""

    with FaultyProxy(s3, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        collection = make_collection(bucket.uri + "/c")
        part = put_rows(collection, make_rows(ids(0, 3)))
        broken["on"] = True
        with pytest.raises(error, match=message) as caught:
            commit(collection.table, [part], retry_s=1)
        assert s3.secret_key not in str(caught.value)
        broken["on"] = False
        assert commit(collection.table, [part]) == 1  # nothing is lost: the same commit works later
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert contents(collection).keys() == set(ids(0, 3))


@pytest.mark.s3
def test_refused_credentials_are_one_sentence_without_them(bucket, s3, monkeypatch):
    collection = make_collection(bucket.uri + "/c")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-but-secret")
    with pytest.raises(TaggerError, match="refuses") as caught:
        Collection.open(collection.uri)
    assert "secret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    assert Collection.open(collection.uri).table.version == 0
