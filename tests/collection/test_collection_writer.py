import signal
import tempfile

import pyarrow as pa
import pytest
from collection_kit import (
    Child,
    add_rows,
    contents,
    ids,
    make_collection,
    make_rows,
    put_rows,
    raises,
    wait_for,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tagger.collection import Collection, Receipt, check, part_name, rewrite_part
from tagger.errors import RunError, TakenOver


def test_replaced_rows_are_exact(place):
    collection = make_collection(place)
    one = add_rows(collection, make_rows(ids(0, 10), failed=ids(0, 2)))
    two = add_rows(collection, make_rows(ids(10, 20)))
    with collection.writer("run-b", "tagger tag") as writer:
        new = make_rows([*ids(3, 5), *ids(12, 13), *ids(30, 32)], run_id="run-b", mark="new")
        receipt = Receipt(put_rows(collection, new, "run-b"), ((0, 5),), tagged=5)
        before = collection.table.version
        version = writer.commit([receipt], replaced={one.path: set(ids(3, 5)), two.path: set(ids(12, 13))})
        assert version == before + 1 == writer.version
    expected = dict.fromkeys([*ids(0, 20)], "x") | dict.fromkeys(new.column("image_id").to_pylist(), "new")
    assert contents(collection) == expected
    old = collection.table.read_rows(ids(0, 3)).sort_by("image_id")
    assert old.equals(make_rows(ids(0, 10), failed=ids(0, 2)).slice(0, 3))  # survivors are as they were
    assert check(collection).findings == []


def test_a_part_rewritten_before_is_followed(place):
    collection = make_collection(place)
    old = add_rows(collection, make_rows(ids(0, 6)))
    with collection.writer("run-b", "tagger tag") as writer:
        for i in range(3):
            new = put_rows(collection, make_rows(ids(2 * i, 2 * i + 2), mark=f"m{i}"))
            writer.commit([new], replaced={old.path: set(ids(2 * i, 2 * i + 2))})
            assert (writer.current(old.path) is None) == (i == 2)
        assert writer.current(new.path) == new.path
        with pytest.raises(ValueError, match="have been replaced already"):
            writer.commit([put_rows(collection, make_rows(ids(0, 1)))], replaced={old.path: set(ids(0, 1))})
    assert contents(collection) == {image_id: f"m{i // 2}" for i, image_id in enumerate(ids(0, 6))}
    assert len(collection.table.parts()) == 3


def test_survivors_may_be_written_elsewhere(place):
    collection = make_collection(place)
    old = add_rows(collection, make_rows(ids(0, 6)))
    gone = add_rows(collection, make_rows(ids(6, 8)))
    with collection.writer("run-b", "tagger tag") as writer:
        drop = {old.path: set(ids(0, 2)), gone.path: set(ids(6, 8))}
        survivors = {
            path: rewrite_part(collection.store, path, image_ids, name=part_name("run-b"))
            for path, image_ids in drop.items()
        }
        assert survivors[gone.path] is None
        with pytest.raises(ValueError, match="keeps 4 rows instead of 5"):
            writer.commit([], replaced={old.path: set(ids(0, 1))}, rewritten={old.path: survivors[old.path]})
        writer.commit([], replaced=drop, rewritten=survivors)
        assert writer.current(old.path) == survivors[old.path].path
    assert contents(collection).keys() == set(ids(2, 6))


def test_rows_that_are_not_where_the_plan_says_stop_the_commit(place):
    collection = make_collection(place)
    old = add_rows(collection, make_rows(ids(0, 6)))
    with collection.writer("run-b", "tagger tag") as writer:
        new = put_rows(collection, make_rows(ids(9, 10)))
        with pytest.raises(ValueError, match="holds 0 of the 1 rows"):
            writer.commit([new], replaced={old.path: set(ids(9, 10))})
        with pytest.raises(ValueError, match="is not a live part"):
            writer.commit([new], replaced={"nowhere.parquet": set(ids(9, 10))})
        collection.store.delete([f"tags/{new.path}"])
        with pytest.raises(RunError, match="is missing"):
            writer.commit([new], replaced={old.path: set(ids(0, 1))})
        assert writer.current(old.path) == old.path  # a commit that failed moves nothing
        writer.commit([], replaced={old.path: set(ids(0, 1))})
    assert contents(collection).keys() == set(ids(1, 6))


def test_nothing_to_commit_makes_no_version(place):
    collection = make_collection(place)
    with collection.writer("run-b", "tagger tag") as writer:
        assert writer.commit([]) == writer.commit([], replaced={"p": set()}) == 0
        assert not writer.took_over
    assert not collection.store.exists("lease.json")


def test_rows_are_removed_in_groups_of_parts(place):
    collection = make_collection(place)
    for i in range(5):
        add_rows(collection, make_rows(ids(10 * i, 10 * i + 10)))
    before = collection.table.version
    gone = [*ids(3, 15), *ids(22, 23), *ids(40, 50)]
    with collection.writer("run-b", "tagger tag") as writer:
        listed = collection.table.scan(["image_id"], part_column=True).read_all()
        vanished = listed.filter(pa.compute.is_in(listed["image_id"], pa.array(gone)))
        assert writer.remove_rows([vanished.slice(0, 4), vanished.slice(4)], group_parts=2) == len(gone)
        assert writer.remove_rows([]) == 0
    assert contents(collection).keys() == set(ids(0, 50)) - set(gone)
    assert collection.table.version == before + 2  # four touched parts, two a commit
    assert check(collection).findings == []


def test_images_are_removed_by_id(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 10)))
    add_rows(collection, make_rows(ids(10, 20)))
    with collection.writer("run-b", "tagger remove") as writer:
        assert writer.remove_ids([*ids(8, 12), "s3://unknown"]) == 4
        assert writer.remove_ids(ids(8, 12)) == 0
    assert contents(collection).keys() == set(ids(0, 8)) | set(ids(12, 20))


def test_rows_are_swapped_only_for_as_many(place):
    collection = make_collection(place)
    old = add_rows(collection, make_rows(ids(0, 4)))
    with collection.writer("run-b", "tagger retag") as writer:
        with pytest.raises(ValueError, match="has 3 rows instead of the 4"):
            writer.swap({old.path: put_rows(collection, make_rows(ids(0, 3)))}, operation="retag")
        writer.swap({old.path: put_rows(collection, make_rows(ids(0, 4), mark="y"))}, operation="retag")
    assert set(contents(collection).values()) == {"y"}


def test_a_writer_is_entered_first(tmp_path):
    with pytest.raises(RuntimeError, match="enter the writer"):
        make_collection(tmp_path).writer("r", "c").commit([])


def test_a_writer_whose_lease_was_taken_stops(place):
    collection = make_collection(place)
    with collection.writer("run-a", "tagger tag", ttl_s=1) as writer:
        collection.store.delete(["lease.json"])
        wait_for(lambda: raises(TakenOver, writer.check), "the lost lease to be noticed")
        with pytest.raises(TakenOver, match="committed nothing more"):
            writer.commit([put_rows(collection, make_rows(ids(0, 1)))])
    assert contents(collection) == {}


COMMIT_LOOP = """
collection = Collection.open(sys.argv[1])
with collection.writer(sys.argv[2], "tagger tag", ttl_s=2) as writer:
    rows = {p.path: p for p in collection.table.parts()}
    done = len(contents(collection)) // 4
    last = None
    for i in range(done, 200):
        # every commit replaces the rows of the one before, and adds four
        new = make_rows(ids(4 * i, 4 * i + 4), mark="first")
        replaced = {}
        if last:
            part, numbers = last
            new = pa.concat_tables([new, make_rows(numbers, mark="again")])
            replaced = {part.path: set(numbers)}
        part = put_rows(collection, new, sys.argv[2])
        writer.commit([part], replaced=replaced)
        last = part, ids(4 * i, 4 * i + 4)
        say(i)
"""


def test_killed_writers_leave_whole_commits_and_the_next_one_goes_on(place):
    collection = make_collection(place)
    after = 0
    for kill in range(4):
        with Child(COMMIT_LOOP, place, f"run-{kill}") as child:
            for _ in range(3 + 2 * kill):
                said = int(child.line())
            child.signal(signal.SIGKILL)
            child.process.wait()
        found = contents(collection)
        assert len(found) % 4 == 0
        assert len(found) // 4 > said  # whatever was said to be committed is there
        assert found.keys() == set(ids(0, len(found)))
        assert len(found) > after
        after = len(found)
        assert check(Collection.open(place)).findings == []


class Commits(RuleBasedStateMachine):
    """Random adds, replacements and removals by one writer after another, against a dict."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.collection = make_collection(self.folder.name)
        self.oracle = {}
        self.writer = None
        self.planned = {}
        self.count = 0
        self.enter()

    def enter(self):
        self.writer = self.collection.writer(f"run-{self.count}", "test").__enter__()
        pairs = self.collection.table.scan(["image_id"], part_column=True).read_all().to_pylist()
        self.planned = {pair["image_id"]: pair["part"] for pair in pairs}  # where rows were at the start

    @rule()
    def next_run(self):
        self.writer.__exit__(None, None, None)
        self.collection = Collection.open(self.folder.name)
        self.enter()

    @rule(numbers=st.sets(st.integers(0, 11), min_size=1, max_size=6))
    def tag(self, numbers):
        """Adds new images, and replaces those that were there when the run began."""
        wanted = [
            i for n in sorted(numbers) for i in ids(n, n + 1) if i in self.planned or i not in self.oracle
        ]
        if not wanted:
            return
        self.count += 1
        mark = f"m{self.count}"
        replaced = {}
        for image_id in wanted:
            if image_id in self.planned and image_id in self.oracle:
                replaced.setdefault(self.planned[image_id], set()).add(image_id)
        part = put_rows(self.collection, make_rows(wanted, mark=mark))
        self.writer.commit([part], replaced=replaced)
        for image_id in wanted:
            self.planned.pop(image_id, None)  # a run tags an image once
            self.oracle[image_id] = mark

    @rule(numbers=st.sets(st.integers(0, 11), max_size=4))
    def remove(self, numbers):
        gone = {i for n in numbers for i in ids(n, n + 1)}
        assert self.writer.remove_ids(gone) == len(gone & self.oracle.keys())
        for image_id in gone:
            self.oracle.pop(image_id, None)
            self.planned.pop(image_id, None)

    @invariant()
    def table_is_the_oracle(self):
        assert contents(self.collection) == self.oracle

    def teardown(self):
        self.writer.__exit__(None, None, None)
        assert check(self.collection).findings == []
        self.folder.cleanup()


TestCommits = Commits.TestCase
TestCommits.settings = settings(
    max_examples=8, stateful_step_count=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
