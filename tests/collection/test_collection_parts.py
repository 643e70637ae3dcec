import json
import pickle

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_kit import DIM, add_rows, ids, make_collection, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.collection import SCHEMA, Part, Receipt, part_name, rewrite_part, write_part
from tagger.collection.reading import open_parquet, read_row_groups
from tagger.errors import RunError
from tagger.storage import open_store

ODD_IDS = [
    's3://b/"><img src=x onerror=alert(1)>.jpg',
    "s3://b/=1+1.jpg",
    "s3://b//a//../b.jpg",
    "s3://b/tab\tnewline\n.jpg",
    "s3://b/%2F#?.jpg",
    "s3://b/🎈é.jpg",
    "s3://b/🎈e\u0301.jpg",
    "s3://b/" + "x" * 1000,
]


def read_back(store, part):
    return pa.concat_tables(read_row_groups(store, f"tags/{part.path}"))


def test_rows_come_back_as_they_were(place):
    store = open_store(place)
    rows = make_rows([*ids(0, 9000), *ODD_IDS], failed=[*ids(3, 6), ODD_IDS[0]])
    part = write_part(store, rows, "p.parquet")
    assert read_back(store, part).equals(rows)
    assert (part.path, part.rows) == ("p.parquet", rows.num_rows)
    assert part.size_bytes == store.head("tags/p.parquet").size_bytes
    stats = json.loads(part.stats)
    assert stats["numRecords"] == rows.num_rows
    assert stats["minValues"]["image_id"] == min([*ids(0, 9000), *ODD_IDS])
    assert stats["maxValues"]["image_id"] == max([*ids(0, 9000), *ODD_IDS])


def test_the_same_rows_give_the_same_bytes(tmp_path):
    store = open_store(str(tmp_path))
    rows = make_rows(ids(0, 100), failed=ids(5, 9))
    write_part(store, rows, "a.parquet")
    shuffled = rows.select(sorted(rows.column_names))  # the order of columns is the schema's in any case
    write_part(store, shuffled, "b.parquet")
    assert store.read("tags/a.parquet") == store.read("tags/b.parquet")


def test_floats_are_split_into_streams_of_bytes_and_embeddings_compress(tmp_path):
    store = open_store(str(tmp_path))
    part = write_part(store, make_rows(ids(0, 200), dim=256), "a.parquet")
    group = open_parquet(store, f"tags/{part.path}").metadata.row_group(0)
    columns = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
    embedding = columns["embedding.list.element"]
    assert "BYTE_STREAM_SPLIT" in embedding.encodings
    assert embedding.compression == "ZSTD"
    # float32 values rounded to float16 take little more than two bytes each
    assert embedding.total_compressed_size < 200 * 256 * 2.2


def test_any_reader_of_parquet_reads_a_part(tmp_path):
    part = write_part(open_store(str(tmp_path)), make_rows(ids(0, 50), failed=ids(0, 1)), "a.parquet")
    file = str(tmp_path / "tags" / part.path)
    rows = duckdb.sql(
        f"SELECT count(*), count(embedding), max(len(embedding)), min(tags[1].tag) FROM '{file}'"
    )
    assert rows.fetchall() == [(50, 49, DIM, "tabby")]
    schema = pq.read_schema(file)
    assert schema.field("tagged_at").type == pa.timestamp("us", tz="UTC")
    assert not schema.field("image_id").nullable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("phash"), "lack the column phash"),
        (lambda t: t.slice(0, 0), "at least one row"),
        (lambda t: put(t, "run_id", [None, "r"]), "run_id.*null"),
        (lambda t: put(t, "status", ["tagged", "done"]), "status must be tagged or failed"),
        (lambda t: put(t, "error", ["corrupt", None]), "error must be set exactly"),
        (lambda t: put(t, "status", ["failed", "tagged"]), "error must be set exactly"),
        (lambda t: put(t, "embedding", [None, [1.0] * DIM]), "embedding must be null exactly"),
        (lambda t: put(t, "embedding_norm", [None, 1.0]), "embedding_norm must be null exactly"),
        (lambda t: put(t, "width_px", ["wide", "narrow"]), "do not fit the tags table"),
    ],
)
def test_rows_that_break_the_rules_are_refused(tmp_path, change, message):
    store = open_store(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        write_part(store, change(make_rows(ids(0, 2))), "a.parquet")
    assert not store.exists("tags/a.parquet")


def put(table, name, values):
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def test_names_are_unique_and_receipts_are_small():
    assert len({part_name("run") for _ in range(1000)}) == 1000
    receipt = Receipt(Part("a", 1, 30, "{}"), ((7, 10), (9, 20)), tagged=29, failed=1)
    assert pickle.loads(pickle.dumps(receipt)) == receipt
    assert len(pickle.dumps(receipt)) < 500
    with pytest.raises(ValueError, match="do not add up"):
        Receipt(Part("a", 1, 30, "{}"), ((7, 10),))


def test_only_the_columns_asked_for_are_fetched(tmp_path):
    class Counting:
        def __init__(self, store):
            self.store, self.uri, self.bytes = store, store.uri, 0

        def read_range(self, name, start, length):
            self.bytes += length
            return self.store.read_range(name, start, length)

        def head(self, name):
            return self.store.head(name)

    store = open_store(str(tmp_path))
    part = write_part(store, make_rows(ids(0, 2000), dim=256), "a.parquet")
    counting = Counting(store)
    narrow = pa.concat_tables(read_row_groups(counting, "tags/a.parquet", columns=["etag", "image_id"]))
    assert narrow.column_names == ["etag", "image_id"]
    assert counting.bytes < part.size_bytes / 4


@settings(max_examples=25, deadline=None)
@given(kept=st.lists(st.booleans(), min_size=1, max_size=60), group=st.integers(1, 20))
def test_a_rewritten_part_holds_exactly_the_survivors(tmp_path_factory, kept, group):
    store = open_store(str(tmp_path_factory.mktemp("parts")))
    rows = make_rows(ids(0, len(kept)), failed=ids(0, len(kept))[::7])
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=group)
    store.put("tags/old.parquet", sink.getvalue().to_pybytes())
    drop = {image_id for image_id, keep in zip(ids(0, len(kept)), kept, strict=True) if not keep}
    part = rewrite_part(store, "old.parquet", drop, name="new.parquet")
    expected = rows.filter(pa.array(kept))
    if expected.num_rows == 0:
        assert part is None
        assert not store.exists("tags/new.parquet")
    else:
        assert read_back(store, part).equals(expected)
        assert part.rows == expected.num_rows
        alone = write_part(store, expected, "alone.parquet")
        assert json.loads(alone.stats) == json.loads(part.stats)


def test_a_rewrite_that_does_not_find_its_rows_writes_nothing(tmp_path):
    store = open_store(str(tmp_path))
    write_part(store, make_rows(ids(0, 5)), "a.parquet")
    with pytest.raises(ValueError, match="holds 1 of the 2 rows"):
        rewrite_part(store, "a.parquet", {ids(0, 1)[0], "s3://other"}, name="b.parquet")
    assert not store.exists("tags/b.parquet")


def test_a_part_that_is_gone_or_damaged_is_one_sentence(tmp_path):
    collection = make_collection(tmp_path)
    part = add_rows(collection, make_rows(ids(0, 500)))
    file = tmp_path / "tags" / part.path
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(RunError, match="not a readable Parquet file"):
        collection.tags().read_all()
    middle = np.frombuffer(whole, np.uint8).copy()
    middle[100:400] ^= 0x55
    file.write_bytes(middle.tobytes())
    with pytest.raises(RunError, match="cannot be read"):
        collection.tags().read_all()
    file.write_bytes(whole[:50])
    with pytest.raises(RunError, match="shorter than the table says"):
        collection.tags().read_all()
    file.unlink()
    with pytest.raises(RunError, match=r"named by the table but cannot be read \(not_found\).*tagger check"):
        collection.tags().read_all()


def test_a_flipped_bit_is_noticed(tmp_path):
    collection = make_collection(tmp_path)
    part = add_rows(collection, make_rows(ids(0, 300), dim=64))
    file = tmp_path / "tags" / part.path
    group = pq.read_metadata(file).row_group(0)
    column = next(
        c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("emb")
    )
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    file.write_bytes(data)
    assert collection.tags(["image_id"]).read_all().num_rows == 300
    with pytest.raises(RunError, match="cannot be read"):
        collection.tags().read_all()


def test_the_schema_is_the_one_of_the_contract():
    assert SCHEMA.names[:3] == ["image_id", "uri", "etag"]
    assert SCHEMA.names[-3:] == ["model_id", "run_id", "tagged_at"]
