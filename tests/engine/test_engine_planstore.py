"""The stored plan, written and read through a real local store."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tagger.collection.schema import PLAN_SCHEMA
from tagger.engine.planstore import SEGMENT_CHUNKS, SEGMENT_SCHEMA, PlanReader, PlanWriter
from tagger.errors import RunError
from tagger.storage import Store, open_store

NEVER = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "run").mkdir()
    return open_store(str(tmp_path / "run"))


def chunk(number: int, rows: int = 3) -> pa.Table:
    ids = [f"s3://b/{number}//é\t{i}" for i in range(rows)]
    return pa.table(
        {
            "image_id": ids,
            "uri": ids,
            "etag": pa.array(["e", None, "f"][:rows], pa.string()),
            "size_bytes": pa.array([1, None, 3][:rows], pa.int64()),
            "old_part": pa.array([None, "tags/p", None][:rows], pa.string()),
            "old_error": pa.array([None, "timeout", None][:rows], pa.string()),
        },
        schema=PLAN_SCHEMA,
    )


def segments(store: Store) -> list[str]:
    return sorted(info.name for page in store.list("plan/") for info in page if info.name.endswith(".arrow"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.01)


def test_what_was_written_comes_back_in_order_and_again_the_same(store: Store) -> None:
    writer = PlanWriter(store)
    assert [writer.add(chunk(n)) for n in range(100)] == list(range(100))
    writer.close(listed=300)
    for _ in range(2):
        read = list(PlanReader(store).chunks())
        assert [number for number, _ in read] == list(range(100))
        assert all(rows.equals(chunk(number)) for number, rows in read)
    assert PlanReader(store).end() == {"chunks": 100, "images": 300, "listed": 300}


def test_an_empty_plan_ends_at_once(store: Store) -> None:
    PlanWriter(store).close()
    assert list(PlanReader(store).chunks()) == []


def test_a_chunk_must_hold_a_row(store: Store) -> None:
    with pytest.raises(ValueError, match="at least 1 row"):
        PlanWriter(store).add(chunk(0, rows=0))


def test_segments_hold_at_most_32_chunks_and_the_first_one_appears_alone(store: Store) -> None:
    writer = PlanWriter(store, flush_s=NEVER)
    for n in range(1 + SEGMENT_CHUNKS + 5):
        writer.add(chunk(n))
    assert segments(store) == ["plan/chunk-000000000.arrow", "plan/chunk-000000001.arrow"]
    writer.close()
    assert segments(store)[-1] == "plan/chunk-000000033.arrow"
    assert len(list(PlanReader(store).chunks())) == 38


def test_a_segment_is_a_plain_arrow_file(store: Store) -> None:
    writer = PlanWriter(store)
    writer.add(chunk(0))
    table = pa.ipc.open_file(pa.BufferReader(store.read("plan/chunk-000000000.arrow"))).read_all()
    assert table.schema == SEGMENT_SCHEMA
    assert table["chunk"].to_pylist() == [0, 0, 0]


def test_a_chunk_is_stored_even_when_no_other_follows(store: Store) -> None:
    writer = PlanWriter(store, flush_s=0.05)
    writer.add(chunk(0))
    writer.add(chunk(1))
    reader = PlanReader(store)
    wait_until(lambda: len(segments(store)) == 2)
    assert reader.read_chunk(1).equals(chunk(1))


def test_a_reader_follows_the_writer(store: Store) -> None:
    read: list[int] = []
    thread = threading.Thread(
        target=lambda: read.extend(number for number, _ in PlanReader(store).chunks(poll_s=0.005))
    )
    thread.start()
    writer = PlanWriter(store, flush_s=0.01)
    for n in range(70):
        writer.add(chunk(n))
    writer.close()
    thread.join(30)
    assert read == list(range(70))


def test_chunks_arrive_before_the_plan_ends(store: Store) -> None:
    writer = PlanWriter(store)
    writer.add(chunk(0))
    chunks = PlanReader(store).chunks(poll_s=0.005)
    assert next(chunks)[0] == 0
    writer.add(chunk(1))
    writer.close()
    assert [number for number, _ in chunks] == [1]


def test_one_chunk_can_be_read_by_number_in_any_order(store: Store) -> None:
    writer = PlanWriter(store, flush_s=NEVER)
    reader = PlanReader(store)
    for n in range(100):
        writer.add(chunk(n))
        if n == 40:
            assert reader.read_chunk(20).equals(chunk(20))
    writer.close()
    for n in (99, 0, 33, 32, 1, 98, 64, 65):
        assert reader.read_chunk(n).equals(chunk(n))
    for n in (100, -1):
        with pytest.raises(RunError, match=f"no chunk {n}"):
            reader.read_chunk(n)


def test_a_writer_that_is_gone_ends_the_reader(store: Store) -> None:
    PlanWriter(store).add(chunk(0))
    chunks = PlanReader(store).chunks(poll_s=0.005, no_progress_s=0.02)
    assert next(chunks)[0] == 0
    with pytest.raises(RunError, match="no chunk of the plan appeared"):
        next(chunks)


def test_a_reader_waits_as_long_as_the_run_is_alive(store: Store) -> None:
    writer = PlanWriter(store)
    asked: list[bool] = []

    def alive() -> bool:
        asked.append(True)
        if len(asked) == 3:
            writer.add(chunk(0))
            writer.close()
        return True

    chunks = PlanReader(store).chunks(poll_s=0.001, no_progress_s=0.005, alive=alive)
    assert [number for number, _ in chunks] == [0]


def test_a_failed_planning_gives_its_reason_after_the_stored_chunks(store: Store) -> None:
    writer = PlanWriter(store, flush_s=NEVER)
    writer.add(chunk(0))
    writer.add(chunk(1))  # waits for others, and is lost
    writer.fail("the store does not answer")
    chunks = PlanReader(store).chunks()
    assert next(chunks)[0] == 0
    with pytest.raises(RunError, match="does not answer"):
        next(chunks)


def test_a_missing_segment_is_an_error_not_a_wait(store: Store) -> None:
    writer = PlanWriter(store, flush_s=NEVER)
    for n in range(1 + 2 * SEGMENT_CHUNKS):
        writer.add(chunk(n))
    writer.close()
    store.delete(["plan/chunk-000000001.arrow"])
    with pytest.raises(RunError, match="chunk 1 of 65 of the plan is missing"):
        list(PlanReader(store).chunks())


def test_a_repeated_request_is_fine_and_another_run_is_not(store: Store) -> None:
    first, again, other = PlanWriter(store), PlanWriter(store), PlanWriter(store)
    first.add(chunk(0))
    again.add(chunk(0))  # same name, same bytes: our own request, answered twice
    with pytest.raises(RunError, match="another run writes under the same name"):
        other.add(chunk(7))


def test_an_error_of_the_timer_is_shown_by_the_next_call(store: Store) -> None:
    PlanWriter(store, flush_s=NEVER).add(chunk(0))
    blocker = PlanWriter(store, flush_s=NEVER)
    blocker.add(chunk(0))
    for n in range(1, 1 + SEGMENT_CHUNKS):
        blocker.add(chunk(n))  # chunk-000000001 is taken now
    writer = PlanWriter(store, flush_s=0.01)
    writer.add(chunk(0))
    writer.add(chunk(99))
    wait_until(lambda: writer._error is not None)
    with pytest.raises(RunError, match="same name"):
        writer.close()
