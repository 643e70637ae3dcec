import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_kit import DIM, add_rows, contents, ids, make_collection, make_config, make_rows, put_rows

from tagger.collection import SCHEMA, Collection, Part, check, part_name
from tagger.collection.check_rows import RowRules

GOOD = {"listed": 10, "skipped": 3, "planned": 6, "deferred": 1, "tagged": 5, "failed": 1}


def test_a_collection_that_keeps_its_promises(place):
    collection = make_collection(place)
    run = collection.record("run-a")
    run.start({"source": "s3://photos"})
    add_rows(collection, make_rows(ids(0, 5), failed=ids(0, 1)))
    add_rows(collection, make_rows(ids(5, 6)))
    run.finish("done", GOOD)
    result = check(Collection.open(place))
    assert result.to_json() == {
        "ok": True,
        "rows": 6,
        "tagged": 5,
        "failed": 1,
        "findings": [],
        "notes": [],
    }


def test_an_empty_collection_is_fine(place):
    make_collection(place)
    result = check(Collection.open(place))
    assert (result.ok, result.rows) == (True, 0)


def smuggle(collection, rows):
    """Put rows into the table that `write_part` would refuse."""
    name = part_name("run-a")
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    data = sink.getvalue().to_pybytes()
    collection.store.put(f"tags/{name}", data)
    part = Part(name, len(data), rows.num_rows, json.dumps({"numRecords": rows.num_rows}))
    with collection.writer("run-a", "test", ttl_s=3) as writer:
        writer.commit([part])
    return part


def changed(column, value, *, failed=False):
    """Three rows of which the middle one has `value` in `column`."""
    rows = make_rows(ids(0, 3), failed=ids(1, 2) if failed else ())
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    items = rows.to_pylist()
    items[1][column] = value(items[1][column]) if callable(value) else value
    return pa.Table.from_pylist(items, schema=loose)


def tag(name, score, source="tiny"):
    return {"tag": name, "score": score, "source": source}


UNIT = [1.0] + [0.0] * (DIM - 1)


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("status", "done", "status is neither"),
        ("image_id", "", "image_id or uri is empty"),
        ("uri", "", "image_id or uri is empty"),
        ("error", "corrupt", "error is set exactly when"),
        ("error_detail", "why", "has an error_detail"),
        ("sha256", None, "sha256 is null although"),
        ("sha256", "ABC", "sha256 is not of its form"),
        ("phash", "12", "phash is not of its form"),
        ("width_px", 0, "width_px is not positive"),
        ("height_px", None, "height_px is null although"),
        ("size_bytes", -1, "size_bytes is negative"),
        ("format", None, "format is null although"),
        ("sharpness", float("nan"), "sharpness is not finite"),
        ("brightness", float("inf"), "brightness is not finite"),
        ("model_id", "other", "model_id is not the collection's"),
        ("tags", None, "tags is null although"),
        ("tags", [tag("a", 0.2), tag("b", 0.3)], "tags are not best first"),
        ("tags", [tag("a", 1.5)], "tags hold a score outside"),
        ("tags", [tag("a", float("nan"))], "tags hold a score outside"),
        ("tags", [tag("a", None)], "tags hold a score outside"),
        ("tags", [tag(None, 0.5)], "tags hold a null"),
        ("tags", [tag("a", 0.5), tag("a", 0.4)], "tags name something twice"),
        ("categories", [{"tag": "a", "score": -0.1}], "categories hold a score outside"),
        ("categories", [{"tag": "a", "score": 0.2}, {"tag": "a", "score": 0.2}], "categories name something"),
        ("colors", [{"hex": "#000000", "name": "black", "fraction": 2.0}], "colors hold a fraction outside"),
        ("embedding", None, "embedding is null exactly"),
        ("embedding", UNIT[:-1], f"embedding has not {DIM} values"),
        ("embedding", [0.1] * DIM, "embedding is not of length 1"),
        ("embedding", [0.0] * DIM, "embedding is not of length 1"),
        ("embedding", [float("nan"), *UNIT[1:]], "embedding or its norm is not finite"),
        ("embedding", [float(np.float32(0.99991)), *UNIT[1:]], "embedding is not rounded to float16"),
        ("embedding_norm", -1.0, "embedding or its norm is not finite"),
        ("embedding_norm", None, "embedding_norm goes with"),
    ],
)
def test_a_broken_row_is_found(tmp_path, column, value, finding):
    collection = make_collection(tmp_path)
    smuggle(collection, changed(column, value))
    result = check(collection)
    assert any(finding in found for found in result.findings), result.findings
    assert any("1 row, for example" in found for found in result.findings)
    example = "" if column == "image_id" else ids(1, 2)[0]
    assert any(found.endswith(f"for example {example}") for found in result.findings)
    assert result.rows == 3


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("error", None, "error is set exactly when"),
        ("error", "bad_luck", "error is an unknown code"),
        ("error_detail", None, "a failed image says why"),
        ("embedding", UNIT, "embedding is null exactly"),
        ("embedding_norm", 1.0, "embedding_norm goes with"),
        ("tags", [tag("a", 0.5)], "tags are given to a failed image"),
        ("categories", [{"tag": "a", "score": 0.5}], "categories are given to a failed image"),
    ],
)
def test_a_broken_failure_is_found(tmp_path, column, value, finding):
    collection = make_collection(tmp_path)
    smuggle(collection, changed(column, value, failed=True))
    assert any(finding in found for found in check(collection).findings)


def test_a_picture_without_any_feature_may_have_zeros(tmp_path):
    collection = make_collection(tmp_path)
    rows = changed("embedding", [0.0] * DIM)
    norms = rows.column("embedding_norm").to_pylist()
    norms[1] = 0.0
    rows = rows.set_column(
        rows.schema.get_field_index("embedding_norm"), "embedding_norm", pa.array(norms, pa.float32())
    )
    smuggle(collection, rows)
    assert check(collection).findings == []


def test_rules_hold_on_slices_of_batches():
    rows = pa.concat_tables(
        [
            make_rows(ids(0, 50), failed=ids(0, 50)[::3]),
            changed("tags", [tag("a", 0.2), tag("b", 0.3)]).cast(SCHEMA),
        ]
    )
    batch = rows.combine_chunks().to_batches()[0]
    rules = RowRules(make_config())
    for start in range(0, batch.num_rows, 7):
        rules.apply(batch.slice(start, 7))
    assert rules.findings() == [f"tags are not best first: 1 row, for example {ids(1, 2)[0]}"]
    assert (rules.rows, rules.tagged, rules.failed) == (53, 36, 17)


def test_doubled_ids_are_found(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 10)))
    add_rows(collection, make_rows(ids(8, 15)))
    result = check(collection)
    assert result.findings == [
        f"2 image_ids have more than one row: {ids(8, 9)[0]} (2 rows), {ids(9, 10)[0]} (2 rows)"
    ]
    assert result.rows == 17


def test_missing_and_broken_parts_are_found_and_the_rest_is_read(place):
    collection = make_collection(place)
    parts = [add_rows(collection, make_rows(ids(10 * i, 10 * i + 10))) for i in range(5)]
    store = collection.store
    keys = [f"tags/{part.path}" for part in parts]
    store.delete(keys[:1])
    store.put(keys[1], store.read(keys[1]) + b"more")
    store.put(keys[2], bytes(parts[2].size_bytes))
    middle = bytearray(store.read(keys[3]))
    middle[200:300] = bytes(100)
    store.put(keys[3], bytes(middle))
    result = check(Collection.open(place))
    assert not result.ok
    text = "\n".join(result.findings)
    assert f"part {parts[0].path} is missing, with 10 rows" in text
    assert (
        f"part {parts[1].path} has {parts[1].size_bytes + 4} bytes, the log says {parts[1].size_bytes}"
        in text
    )
    assert f"{parts[2].path} is not a readable Parquet file" in text
    assert f"{parts[3].path} cannot be read" in text
    assert result.rows >= 10  # the part that is whole


def test_a_log_that_counts_wrong_is_found(tmp_path):
    collection = make_collection(tmp_path)
    part = put_rows(collection, make_rows(ids(0, 3)))
    with collection.writer("run-a", "test") as writer:
        writer.commit([Part(part.path, part.size_bytes, 4, '{"numRecords":4}')])
    assert f"part {part.path} has 3 rows, the log says 4" in check(collection).findings


@pytest.mark.parametrize(
    ("counts", "finding"),
    [
        ({"listed": 11}, "listed 11 images and accounts for 10"),
        ({"tagged": 4}, "planned 6 images, and tagged or failed 5"),
        ({"planned": 2, "listed": 6, "tagged": 2, "failed": 0}, "planned 2 images, and 6 rows name it"),
    ],
)
def test_runs_that_do_not_add_up_are_found(tmp_path, counts, finding):
    collection = make_collection(tmp_path)
    add_rows(collection, make_rows(ids(0, 6), failed=ids(0, 1)))
    record = collection.record("run-a")
    record.finish("done", GOOD | counts)
    assert any(finding in found for found in check(collection).findings)
    record.finish("failed", GOOD | counts)
    assert check(collection).findings == []  # only runs that ended well promise anything


def test_files_of_killed_runs_are_no_finding(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 3)))
    put_rows(collection, make_rows(ids(3, 6)))
    result = check(collection)
    assert result.ok
    assert "1 files in tags/" in result.notes[0]


def test_an_altered_taxonomy_is_a_finding(tmp_path):
    collection = make_collection(tmp_path)
    (tmp_path / collection.config.tagging.taxonomy_file).write_text("{}")
    assert "is not the taxonomy" in check(collection).findings[0]


def test_failures_are_listed_with_their_reasons(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 5), failed=ids(1, 3)))
    add_rows(collection, make_rows(ids(5, 7)))
    rows = Collection.open(place).failures().read_all()
    assert rows.column_names == ["image_id", "error", "error_detail"]
    assert rows.to_pylist() == [
        {"image_id": image_id, "error": "corrupt", "error_detail": "the file ends in the middle"}
        for image_id in ids(1, 3)
    ]
    assert len(contents(collection)) == 7


def test_no_failures(place):
    assert make_collection(place).failures().read_all().num_rows == 0
