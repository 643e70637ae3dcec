"""The plan against a plain-Python oracle, and its promises one by one."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagger.collection.schema import PLAN_SCHEMA
from tagger.engine.plan import Plan, plan_chunks
from tagger.engine.plan_repeats import RecentIds
from tagger.errors import ERROR_CODES, SETTLED_CODES, RunError

ROWS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image_id", "uri", "etag", "status", "error", "model_id", "part")]
)
Listed = tuple[str, str | None]  # image_id, etag
Row = tuple[str, str | None, str, str | None, str, str]  # image_id, etag, status, error, model_id, part


def listing(images: Sequence[Listed], page: int = 1000) -> Iterator[pa.Table]:
    for start in range(0, len(images), page):
        ids, etags = zip(*images[start : start + page], strict=True)
        yield pa.table(
            {
                "image_id": pa.array(ids, pa.string()),
                "uri": pa.array(ids, pa.string()),
                "etag": pa.array(etags, pa.string()),
                "size_bytes": pa.array([10] * len(ids), pa.int64()),
            }
        )


def rows_reader(rows: Sequence[Row], page: int = 100) -> pa.RecordBatchReader:
    batches = [
        pa.RecordBatch.from_pylist(
            [
                dict(zip(ROWS_SCHEMA.names, (i, i, e, status, error, model, part), strict=True))
                for i, e, status, error, model, part in rows[start : start + page]
            ],
            schema=ROWS_SCHEMA,
        )
        for start in range(0, len(rows), page)
    ]
    return pa.RecordBatchReader.from_batches(ROWS_SCHEMA, batches)


def tagged(image_id: str, etag: str | None = "1", part: str = "p0") -> Row:
    return (image_id, etag, "tagged", None, "m", part)


def failed(image_id: str, error: str, etag: str | None = "1") -> Row:
    return (image_id, etag, "failed", error, "m", "p0")


def planned(plan: Plan) -> list[dict[str, Any]]:
    return [row for chunk in plan for row in chunk.to_pylist()]


def ids(plan: Plan) -> list[str]:
    return [row["image_id"] for row in planned(plan)]


def check_counts(plan: Plan, listed: int, skipped: int, planned: int, deferred: int = 0) -> None:
    counts = plan.counts
    assert (counts.listed, counts.skipped, counts.planned, counts.deferred) == (
        listed,
        skipped,
        planned,
        deferred,
    )


def test_a_new_collection_flows_from_the_first_page_in_growing_chunks(tmp_path: Path) -> None:
    taken: list[int] = []

    def pages() -> Iterator[pa.Table]:
        for number, page in enumerate(listing([(f"{i:05d}", "1") for i in range(3000)])):
            taken.append(number)
            yield page

    plan = plan_chunks(pages(), None, spill_dir=tmp_path / "spill")
    first = next(plan)
    assert first.num_rows == 32
    assert first.schema == PLAN_SCHEMA
    assert taken == [0]
    sizes = [32] + [chunk.num_rows for chunk in plan]
    assert sizes == [32, 64, 128, 256, 512, 512, 512, 512, 472]
    check_counts(plan, 3000, 0, 3000)
    assert plan.counts.planned_bytes == 30_000
    assert not (tmp_path / "spill").exists(), "a new collection needs no database"


def test_rows_keep_listing_order_and_chunk_rows_can_be_chosen(tmp_path: Path) -> None:
    images = [(f"{i:04d}", "1") for i in range(1001)]
    plan = plan_chunks(listing(images, page=7), None, spill_dir=tmp_path, chunk_rows=[100])
    chunks = list(plan)
    assert [chunk.num_rows for chunk in chunks] == [100] * 10 + [1]
    assert [i for chunk in chunks for i in chunk["image_id"].to_pylist()] == [i for i, _ in images]


@pytest.mark.parametrize("bad", [[], [0], [513], [32, 1000]])
def test_chunk_rows_out_of_range_are_refused(tmp_path: Path, bad: list[int]) -> None:
    with pytest.raises(ValueError, match="from 1 to 512"):
        plan_chunks([], None, spill_dir=tmp_path, chunk_rows=bad)


def test_settled_rows_are_left_out(tmp_path: Path) -> None:
    rows = [tagged("same"), tagged("altered"), *(failed(code, code) for code in ERROR_CODES)]
    images = [("new", "1"), ("same", "1"), ("altered", "2"), *((code, "1") for code in ERROR_CODES)]
    plan = plan_chunks(listing(images), rows_reader(rows), spill_dir=tmp_path)
    with plan:
        assert set(ids(plan)) == {"new", "altered", *(set(ERROR_CODES) - SETTLED_CODES)}
        check_counts(plan, len(images), 1 + len(SETTLED_CODES), 2 + len(ERROR_CODES) - len(SETTLED_CODES))


def test_retry_failed_brings_back_every_failed_image_and_no_tagged_one(tmp_path: Path) -> None:
    rows = [tagged("good"), *(failed(code, code) for code in ERROR_CODES)]
    images = [("good", "1"), *((code, "1") for code in ERROR_CODES)]
    with plan_chunks(listing(images), rows_reader(rows), spill_dir=tmp_path, retry_failed=True) as plan:
        assert set(ids(plan)) == set(ERROR_CODES)


def test_a_settled_failure_comes_back_with_another_etag(tmp_path: Path) -> None:
    with plan_chunks(
        listing([("a", "2")]), rows_reader([failed("a", "corrupt")]), spill_dir=tmp_path
    ) as plan:
        assert ids(plan) == ["a"]


def test_without_an_etag_the_image_id_alone_is_compared(tmp_path: Path) -> None:
    rows = [tagged("a", "read at the time"), tagged("b", None), tagged("c", None)]
    images = [("a", None), ("b", None), ("c", "now it has one")]
    with plan_chunks(listing(images), rows_reader(rows), spill_dir=tmp_path) as plan:
        assert ids(plan) == ["c"]


def test_the_plan_knows_why_an_image_could_not_be_read_before(tmp_path: Path) -> None:
    rows = [failed("a", "forbidden"), failed("b", "corrupt"), tagged("c", "old")]
    images = [("a", "1"), ("b", "2"), ("c", "1"), ("d", "1")]
    with plan_chunks(listing(images), rows_reader(rows), spill_dir=tmp_path) as plan:
        found = {row["image_id"]: row["old_error"] for row in planned(plan)}
    assert found == {"a": "forbidden", "b": None, "c": None, "d": None}


def test_rows_of_another_model_are_not_settled(tmp_path: Path) -> None:
    rows = [("a", "1", "tagged", None, "other", "p7"), tagged("b")]
    images = [("a", "1"), ("b", "1")]
    with plan_chunks(listing(images), rows_reader(rows), spill_dir=tmp_path, model_id="m") as plan:
        assert [(row["image_id"], row["old_part"]) for row in planned(plan)] == [("a", "p7")]


def test_new_images_come_first_then_the_known_ones_part_by_part(tmp_path: Path) -> None:
    rows = [tagged(f"{i:03d}", "old", part=f"p{i % 5}") for i in range(100)]
    images = [(f"{i:03d}", "new") for i in range(120)]
    with plan_chunks(listing(images, page=50), rows_reader(rows), spill_dir=tmp_path) as plan:
        result = planned(plan)
    assert [row["image_id"] for row in result[:20]] == [f"{i:03d}" for i in range(100, 120)]
    assert all(row["old_part"] is None for row in result[:20])
    parts = [row["old_part"] for row in result[20:]]
    assert parts == sorted(parts)
    assert set(parts) == {"p0", "p1", "p2", "p3", "p4"}


def test_an_unchanged_source_plans_nothing(tmp_path: Path) -> None:
    images = [(f"{i}", "1") for i in range(5000)]
    with plan_chunks(
        listing(images), rows_reader([tagged(i) for i, _ in images]), spill_dir=tmp_path
    ) as plan:
        assert list(plan) == []
        check_counts(plan, 5000, 5000, 0)
        assert list(plan.vanished(lambda _: True)) == []


def test_tagging_starts_before_the_listing_ends(tmp_path: Path) -> None:
    ended = False

    def pages() -> Iterator[pa.Table]:
        nonlocal ended
        yield from listing([(f"{i}", "1") for i in range(10_000)])
        ended = True

    plan = Plan(pages(), rows_reader([tagged("1")]), spill_dir=tmp_path, first_window=2000)
    with plan:
        next(plan)
        assert not ended
        assert len(ids(plan)) == 9999 - 32
        check_counts(plan, 10_000, 1, 9999)


@pytest.mark.parametrize("rows", [0, 500])
def test_limit_defers_the_rest_and_the_sum_holds(tmp_path: Path, rows: int) -> None:
    images = [(f"{i}", "1") for i in range(2500)]
    reader = rows_reader([tagged(str(i)) for i in range(rows)])
    with plan_chunks(listing(images), reader, spill_dir=tmp_path, limit=700) as plan:
        assert len(ids(plan)) == 700
        check_counts(plan, 2500, rows, 700, 1800 - rows)
        with pytest.raises(RuntimeError, match="without a limit"):
            plan.vanished(lambda _: True)


def test_limit_zero_plans_nothing(tmp_path: Path) -> None:
    with plan_chunks(listing([("a", "1")]), None, spill_dir=tmp_path, limit=0) as plan:
        assert list(plan) == []
        check_counts(plan, 1, 0, 0, 1)


def test_vanished_names_unlisted_rows_under_the_source_only(tmp_path: Path) -> None:
    rows = [tagged(f"a/{i}", part="pa") for i in range(30)] + [tagged(f"b/{i}", part="pb") for i in range(30)]
    images = [(f"a/{i}", "1") for i in range(25)] + [("a/new", "1")]
    with plan_chunks(listing(images), rows_reader(rows), spill_dir=tmp_path) as plan:
        with pytest.raises(RuntimeError, match="whole listing"):
            plan.vanished(lambda _: True)
        assert ids(plan) == ["a/new"]
        gone = [row for table in plan.vanished(lambda uri: uri.startswith("a/")) for row in table.to_pylist()]
    assert gone == [{"image_id": f"a/{i}", "uri": f"a/{i}", "part": "pa"} for i in range(25, 30)]


def test_vanished_of_an_emptied_source_is_every_row_under_it(tmp_path: Path) -> None:
    rows = [tagged(f"{i}") for i in range(2000)]
    with plan_chunks([], rows_reader(rows), spill_dir=tmp_path) as plan:
        assert list(plan) == []
        assert sum(table.num_rows for table in plan.vanished(lambda _: True)) == 2000


def test_vanished_asks_with_the_uri_and_gives_the_image_id(tmp_path: Path) -> None:
    row = dict(zip(ROWS_SCHEMA.names, ("id-1", "s3://b/k", "1", "tagged", None, "m", "p"), strict=True))
    reader = pa.RecordBatchReader.from_batches(
        ROWS_SCHEMA, [pa.RecordBatch.from_pylist([row], schema=ROWS_SCHEMA)]
    )
    with plan_chunks([], reader, spill_dir=tmp_path) as plan:
        assert list(plan) == []
        gone = [r for t in plan.vanished(lambda uri: uri == "s3://b/k") for r in t.to_pylist()]
    assert gone == [{"image_id": "id-1", "uri": "s3://b/k", "part": "p"}]


ODD = [
    "a//b",
    "a/../b",
    "/a",
    "a\tb",
    "a\nb",
    "a\x00b",
    "a%2Fb",
    "é",
    "e\u0301",
    "É",
    "🖼",
    "=1+1",
    "",
    "x" * 1000,
]


@pytest.mark.parametrize("known", [[], ODD[::2], ODD], ids=["none", "half", "all"])
def test_odd_names_stay_distinct_and_unchanged(tmp_path: Path, known: list[str]) -> None:
    images = [(name, "1") for name in ODD]
    with plan_chunks(listing(images), rows_reader([tagged(i) for i in known]), spill_dir=tmp_path) as plan:
        assert ids(plan) == [name for name in ODD if name not in known]


def test_an_id_listed_twice_is_planned_once(tmp_path: Path) -> None:
    images = [(f"{i}", "1") for i in range(200)] + [("5", "2"), ("7", "1"), ("7", "1")]
    for reader in (None, rows_reader([tagged("9"), tagged("gone")])):
        with plan_chunks(listing(images, page=51), reader, spill_dir=tmp_path) as plan:
            result = planned(plan)
            assert len(result) == len({row["image_id"] for row in result})
            assert [row["etag"] for row in result if row["image_id"] == "5"] == ["1"]
            assert plan.counts.repeats == 3
            assert plan.counts.listed == 200 == plan.counts.skipped + plan.counts.planned


def test_a_table_that_holds_an_image_twice_still_plans_it_once(tmp_path: Path) -> None:
    rows = [tagged("a", "old", "p1"), tagged("a", "old", "p0"), tagged("b", "1"), tagged("b", "old", "p2")]
    with plan_chunks(listing([("a", "1"), ("b", "1")]), rows_reader(rows), spill_dir=tmp_path) as plan:
        assert [(row["image_id"], row["old_part"]) for row in planned(plan)] == [("a", "p0")]
        check_counts(plan, 2, 1, 1)


def test_the_database_is_removed(tmp_path: Path) -> None:
    plan = plan_chunks(listing([("a", "1")]), rows_reader([tagged("b")]), spill_dir=tmp_path)
    assert ids(plan) == ["a"]
    assert list(tmp_path.iterdir())
    plan.close()
    plan.close()
    assert list(tmp_path.iterdir()) == []


def test_close_from_another_thread_ends_the_plan_at_the_next_page(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def pages() -> Iterator[pa.Table]:
        yield from listing([(f"{i}", "1") for i in range(1000)])
        inside.set()
        assert go_on.wait(30)
        yield from listing([("late", "1")])

    plan = plan_chunks(pages(), rows_reader([tagged("x")]), spill_dir=tmp_path)
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.extend(ids(plan)))
    thread.start()
    assert inside.wait(30)
    plan.close()
    go_on.set()
    thread.join(30)
    assert "late" not in result
    assert not plan.complete
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_listing_passes_through(tmp_path: Path) -> None:
    def pages() -> Iterator[pa.Table]:
        yield from listing([("a", "1")])
        raise RunError("the store does not answer")

    for reader in (None, rows_reader([tagged("x")])):
        plan = plan_chunks(pages(), reader, spill_dir=tmp_path)
        with plan, pytest.raises(RunError, match="does not answer"):
            list(plan)
        assert not plan.complete


def test_a_spill_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    plan = plan_chunks(
        listing([("a", "1")]), rows_reader([tagged("x")]), spill_dir=tmp_path / "file" / "spill"
    )
    with plan, pytest.raises(RunError, match=r"needs room to work in .*spill"):
        list(plan)


def test_an_image_that_is_listed_under_its_address_is_not_gone(tmp_path: Path) -> None:
    """A manifest named it `sku-1`; a later listing of its prefix, with --prune, must not take its row."""
    columns = {name: ["tagged", "tagged"] for name in ROWS_SCHEMA.names} | {
        "image_id": ["sku-1", "sku-2"],
        "uri": ["s3://b/1.jpg", "s3://b/2.jpg"],
    }
    rows = pa.table({name: pa.array(columns[name], pa.string()) for name in ROWS_SCHEMA.names})
    reader = pa.RecordBatchReader.from_batches(ROWS_SCHEMA, rows.to_batches())
    with plan_chunks(listing([("s3://b/1.jpg", "1")]), reader, spill_dir=tmp_path) as plan:
        assert ids(plan) == ["s3://b/1.jpg"]
        gone = [row for table in plan.vanished(lambda _: True) for row in table.to_pylist()]
    assert [row["image_id"] for row in gone] == ["sku-2"]


def test_memory_far_below_the_data_only_spills(tmp_path: Path) -> None:
    n_images = 60_000
    images = [(f"s3://bucket/{'x' * 200}/{i:06d}", "1") for i in range(n_images)]
    rows = [tagged(i, "1" if n % 3 else "old", part=f"p{n // 1000}") for n, (i, _) in enumerate(images)]
    with plan_chunks(
        listing(images, 5000), rows_reader(rows, 5000), spill_dir=tmp_path, memory_limit_bytes=1
    ) as plan:
        assert len(ids(plan)) == n_images // 3
        check_counts(plan, n_images, 2 * n_images // 3, n_images // 3)


_NAMES = st.sampled_from([f"k{i}" for i in range(12)])
_ETAGS = st.sampled_from(["1", "2", None])
_ROWS = st.dictionaries(
    _NAMES,
    st.tuples(
        _ETAGS, st.sampled_from([None, *ERROR_CODES]), st.sampled_from(["m", "n"]), st.sampled_from("pqr")
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.dictionaries(_NAMES, _ETAGS, max_size=12),
    table=_ROWS,
    retry=st.booleans(),
    limit=st.none() | st.integers(0, 12),
    page=st.integers(1, 5),
    window=st.integers(1, 6),
    chunk=st.integers(1, 5),
)
def test_any_listing_and_table_against_the_oracle(
    tmp_path: Path,
    *,
    images: dict[str, str | None],
    table: dict[str, tuple[str | None, str | None, str, str]],
    retry: bool,
    limit: int | None,
    page: int,
    window: int,
    chunk: int,
) -> None:
    def is_settled(image_id: str, etag: str | None) -> bool:
        if image_id not in table:
            return False
        old_etag, error, model, _ = table[image_id]
        final = error is None or (error in SETTLED_CODES and not retry)
        return final and model == "m" and (etag is None or etag == old_etag)

    rows: list[Row] = [
        (i, etag, "failed" if error else "tagged", error, model, part)
        for i, (etag, error, model, part) in table.items()
    ]
    expected = {i: etag for i, etag in images.items() if not is_settled(i, etag)}
    with Plan(
        listing(list(images.items()), page),
        rows_reader(rows, page),
        spill_dir=tmp_path,
        model_id="m",
        retry_failed=retry,
        limit=limit,
        chunk_rows=[chunk],
        first_window=window,
    ) as plan:
        chunks = list(plan)
        result = [row for one in chunks for row in one.to_pylist()]
        n_planned = len(expected) if limit is None else min(limit, len(expected))
        check_counts(plan, len(images), len(images) - len(expected), n_planned, len(expected) - n_planned)
        assert len({row["image_id"] for row in result}) == len(result) == n_planned
        assert all(0 < one.num_rows <= chunk for one in chunks)
        for row in result:
            assert expected[row["image_id"]] == row["etag"]
            assert row["old_part"] == (table[row["image_id"]][3] if row["image_id"] in table else None)
        if limit is None:
            gone = {row["image_id"] for part in plan.vanished(lambda _: True) for row in part.to_pylist()}
            assert gone == set(table) - set(images)


def test_recent_ids_agree_with_a_set_across_many_runs() -> None:
    recent = RecentIds(10_000_000)
    seen: set[str] = set()
    for start in range(0, 300_000, 10_000):
        names = [f"k{(i * 7919) % 200_000}" for i in range(start, start + 10_000)]
        expected = []
        for name in names:
            expected.append(name not in seen)
            seen.add(name)
        assert recent.first_seen(pa.array(names)).tolist() == expected


def test_recent_ids_forget_the_oldest_only() -> None:
    recent = RecentIds(200)
    for start in range(0, 1000, 10):
        assert recent.first_seen(pa.array([str(i) for i in range(start, start + 10)])).all()
    assert not recent.first_seen(pa.array([str(i) for i in range(900, 1000)])).any()
    assert recent.first_seen(pa.array(["0"])).all()
    assert sum(len(run) for run in (*recent._runs, *recent._older)) <= 300


def test_recent_ids_need_room() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        RecentIds(1)
