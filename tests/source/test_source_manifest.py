"""Manifests: good ones read exactly, bad ones refused with one sentence."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagger.errors import SourceError
from tagger.source import LISTING_SCHEMA, open_source
from tagger.storage import ImageReader

ROWS = [
    {"image_id": "one", "uri": "s3://b/a,1.jpg", "etag": "abc", "size_bytes": 10},
    {"image_id": "two", "uri": "s3://b/x//\t\n\"'%41.jpg", "etag": None, "size_bytes": None},
    {"image_id": "3", "uri": "gs://c/é😀.jpg", "etag": "def-2", "size_bytes": 0},
]


def write(path, rows):
    """Write rows in the format of the file's name."""
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    text = io.StringIO(newline="")
    if ".csv" in name.lower():
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.write("".join(json.dumps(row) + "\n" for row in rows))
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(path):
    source = open_source(str(path))
    assert source.is_manifest
    tables = list(source.batches())
    assert source.complete
    assert all(table.schema == LISTING_SCHEMA for table in tables)
    return [row for table in tables for row in table.to_pylist()]


FORMATS = ["m.csv", "m.CSV", "m.csv.gz", "m.jsonl", "m.ndjson", "m.jsonl.gz", "m.parquet"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same(tmp_path, name):
    assert read(write(tmp_path / name, ROWS)) == ROWS


@pytest.mark.parametrize("name", FORMATS)
def test_only_addresses(tmp_path, name):
    path = write(
        tmp_path / name, [{"uri": "s3://b/1.jpg", "note": "x"}, {"uri": "s3://b/2.jpg", "note": "y"}]
    )
    assert read(path) == [
        {"image_id": uri, "uri": uri, "etag": None, "size_bytes": None}
        for uri in ("s3://b/1.jpg", "s3://b/2.jpg")
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_bucket_and_key(tmp_path, name):
    path = write(tmp_path / name, [{"bucket": "b", "key": "/a b%2F+.jpg", "etag": '"quoted"'}])
    assert read(path) == [
        {
            "image_id": "s3://b//a b%2F+.jpg",
            "uri": "s3://b//a b%2F+.jpg",
            "etag": "quoted",
            "size_bytes": None,
        }
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    keys=st.sets(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
        min_size=1,
    )
)
def test_any_key_survives_every_format(tmp_path, keys):
    wanted = sorted(f"s3://b/{key}" for key in keys)
    for name in ("m.csv", "m.jsonl", "m.parquet"):
        path = write(tmp_path / name, [{"uri": uri} for uri in wanted])
        assert sorted(row["uri"] for row in read(path)) == wanted


def test_local_paths_are_relative_to_the_manifest(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "photos").mkdir()
    for name in ("100%.jpg", "%41.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    given_uris = [
        "../photos/100%.jpg",
        "../photos/%41.jpg",
        f"{tmp_path}/photos/c.jpg",
        f"file://{tmp_path}/photos/%FF.jpg",
    ]
    path = write(tmp_path / "lists/m.csv", [{"uri": uri} for uri in given_uris])
    found = [row["uri"] for row in read(path)]
    base = f"file://{tmp_path}/photos"
    assert found == [f"{base}/100%.jpg", f"{base}/%2541.jpg", f"{base}/c.jpg", f"{base}/%FF.jpg"]
    reader = ImageReader()
    assert [reader.read_image(uri)[0] for uri in found[:2]] == [b"100%.jpg", b"%41.jpg"]


@pytest.mark.s3
def test_a_manifest_in_a_bucket(bucket, tmp_path):
    data = write(tmp_path / "m.csv.gz", [{"uri": "photos/1.jpg"}, {"uri": "s3://other/2.jpg"}]).read_bytes()
    bucket.put("lists/m.csv.gz", data)
    assert [row["uri"] for row in read(f"{bucket.uri}/lists/m.csv.gz")] == [
        f"{bucket.uri}/lists/photos/1.jpg",
        "s3://other/2.jpg",
    ]
    bucket.put("lists/bad.csv", b"uri\n/tmp/a.jpg\n")
    with pytest.raises(SourceError, match="line 2: a local file"):
        open_source(f"{bucket.uri}/lists/bad.csv")


def test_include_exclude_and_the_collection(tmp_path):
    path = write(
        tmp_path / "m.csv",
        [{"uri": f"s3://b/{key}"} for key in ("p/1.jpg", "p/2.png", "raw/3.jpg", "col/4.jpg", "_x/5.jpg")],
    )
    source = open_source(str(path), include=["*.jpg"], exclude=["*/raw/*"], leave_out="s3://b/col")
    found = [uri for table in source.batches() for uri in table["uri"].to_pylist()]
    assert found == ["s3://b/p/1.jpg", "s3://b/_x/5.jpg"]  # named one by one, so no name is hidden
    assert not source.covers("s3://b/p/1.jpg")


def test_more_rows_than_a_batch(tmp_path):
    path = write(tmp_path / "m.jsonl", [{"uri": f"s3://b/{n}"} for n in range(25_001)])
    assert [row["uri"] for row in read(path)] == [f"s3://b/{n}" for n in range(25_001)]
    write(path, [{"uri": f"s3://b/{n % 25_000}"} for n in range(25_002)])
    with pytest.raises(SourceError, match=r"s3://b/0 in lines 1, 25001; s3://b/1 in lines 2, 25002"):
        open_source(str(path))


BAD = [
    ("m.csv", b"", "has no column `uri`"),
    ("m.csv", b"uri\n", "names no image"),
    ("m.csv", b"url\na.jpg\n", "its columns: url"),
    ("m.csv", b"bucket,uril\nb,a.jpg\n", "its columns: bucket, uril"),
    ("m.csv", b"uri,x\na.jpg,1\nb.jpg\n", "line 3: has 1 fields, and the header 2"),
    ("m.csv", b'uri,x\n"a\nb.jpg",1\n\nc.jpg,1,2\n', "line 5: has 3 fields"),
    ("m.csv", b'uri\n"a.jpg\n', "cannot be read: unexpected end of data"),
    ("m.csv", b"uri\n\xff\xfe\n", "cannot be read: 'utf-8' codec"),
    ("m.csv", b"uri,image_id\na.jpg,1\n,2\n", "line 3: names no image"),
    ("m.csv", b"bucket,key\nb,\n", "line 2: names no image"),
    ("m.csv", b"uri\ns3://b\n", "line 2: s3://b is a bucket, not an image"),
    ("m.csv", b"uri\nhttps://h/a.jpg\n", "line 2: unknown address https://"),
    ("m.csv", b"uri\nphotos/\n", "line 2: photos/ is a folder"),
    ("m.csv", b"uri,size_bytes\na,1\nb,1.5\n", "line 3: size_bytes is '1.5', not a whole number"),
    ("m.csv", b"uri,size_bytes\na,-1\n", "line 2: size_bytes must be at least 0, got -1"),
    ("m.csv", b"uri\na.jpg\nb.jpg\n./a.jpg\nb.jpg\nb.jpg\n", "b.jpg in lines 3, 5, 6"),
    ("m.csv", b"uri,image_id\na.jpg,x\nb.jpg,x\n", "more than once: x in lines 2, 3"),
    ("m.csv.gz", b"uri\na.jpg\n", "Not a gzipped file"),
    ("m.csv.gz", gzip.compress(b"uri\n" + b"a.jpg\n" * 100, mtime=0)[:-9], "cannot be read"),
    ("m.jsonl", b"", "names no image"),
    ("m.jsonl", b'{"uri": "a.jpg"}\n\n[1]\n', "line 3: not a JSON object"),
    ("m.jsonl", b'{"uri": "a.jpg"\n', "line 1: not a JSON object"),
    ("m.jsonl", b'{"uri": "a"}\n{"uri": null}\n', "line 2: names no image"),
    ("m.jsonl", b'{"uri": "a"}\n{"uri": ["b"]}\n', "line 2: uri must be text"),
    ("m.jsonl", b'{"id": 1, "url": "x"}\n', "its columns: id, url"),
    ("m.jsonl", b'{"uri": "a"}\n\n{"uri": "a"}\n', "in lines 1, 3"),
    ("m.jsonl", b'{"uri": "a", "size_bytes": true}\n', "line 1: size_bytes must be"),
    ("m.jsonl", b"\xff\n", "line 1: not a JSON object"),
    ("m.parquet", b"PAR1 and junk", "cannot be read"),
    ("m.parquet", b"", "cannot be read"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_bad_manifests_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError) as raised:
        open_source(str(tmp_path / name))
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"file://{tmp_path}/{name}")
    assert "\n" not in str(raised.value)


def test_parquet_of_wrong_types(tmp_path):
    pq.write_table(pa.table({"uri": pa.array([[1]], pa.list_(pa.int64()))}), tmp_path / "m.parquet")
    with pytest.raises(SourceError, match="the column uri must be text, not list"):
        open_source(str(tmp_path / "m.parquet"))
    pq.write_table(pa.table({"uri": ["s3://b/a"], "size_bytes": [1.5]}), tmp_path / "m.parquet")
    with pytest.raises(SourceError, match="size_bytes"):
        open_source(str(tmp_path / "m.parquet"))
    pq.write_table(
        pa.table({"uri": pa.array(["s3://b/a"]).dictionary_encode(), "image_id": [7]}), tmp_path / "m.parquet"
    )
    assert read(tmp_path / "m.parquet") == [
        {"image_id": "7", "uri": "s3://b/a", "etag": None, "size_bytes": None}
    ]


# ---- S3 Inventory ----------------------------------------------------------------------------------------

FIELDS = ["Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate", "ETag"]
INVENTORY = [
    ("shop", "photos/a+b%20c%2B.jpg", "v1", "true", "false", "10", "2026-11-01T00:00:00.000Z", "e1"),
    ("shop", "photos/a+b%20c%2B.jpg", "v0", "false", "false", "11", "2026-10-01T00:00:00.000Z", "e0"),
    ("shop", "photos/gone.jpg", "v9", "true", "true", "", "2026-11-01T00:00:00.000Z", ""),
    ("shop", "photos/%C3%A9.jpg", "v1", "true", "false", "12", "2026-11-01T00:00:00.000Z", "e2"),
    ("shop", "photos/", "v1", "true", "false", "0", "2026-11-01T00:00:00.000Z", "e3"),
    ("shop", "photos/_tmp/x.jpg", "v1", "true", "false", "5", "2026-11-01T00:00:00.000Z", "e4"),
    ("shop", "col/tags/x.parquet", "v1", "true", "false", "5", "2026-11-01T00:00:00.000Z", "e4"),
]
EXPECTED = [("s3://shop/photos/a b c+.jpg", "e1", 10), ("s3://shop/photos/é.jpg", "e2", 12)]


def csv_inventory():
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(INVENTORY)
    return gzip.compress(text.getvalue().encode())


def parquet_inventory():
    from urllib.parse import unquote_plus

    rows = [
        {
            "bucket": bucket,
            "key": unquote_plus(key),  # only CSV encodes keys
            "is_latest": latest == "true",
            "is_delete_marker": deleted == "true",
            "size": int(size) if size else None,
            "e_tag": etag or None,
        }
        for bucket, key, _, latest, deleted, size, _, etag in INVENTORY
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def manifest(data, kind, **changes):
    import hashlib

    name = "inv/shop/daily/data/part." + ("csv.gz" if kind == "CSV" else "parquet")
    document = {
        "sourceBucket": "shop",
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "fileFormat": kind,
        "fileSchema": ", ".join(FIELDS) if kind == "CSV" else "message s3.inventory { }",
        "files": [{"key": name, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],
    }
    return name, json.dumps(document | changes).encode()


def listed(source):
    return sorted((r["uri"], r["etag"], r["size_bytes"]) for t in source.batches() for r in t.to_pylist())


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_an_inventory_in_a_folder(tmp_path, kind):
    data = csv_inventory() if kind == "CSV" else parquet_inventory()
    name, document = manifest(data, kind)
    for path, content in ((name, data), ("inv/shop/daily/2026-11-02T00-00Z/manifest.json", document)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    at = str(tmp_path / "inv/shop/daily/2026-11-02T00-00Z/manifest.json")
    assert listed(open_source(at, leave_out="s3://shop/col")) == EXPECTED


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_an_inventory_in_a_bucket(bucket, kind):
    data = csv_inventory() if kind == "CSV" else parquet_inventory()
    name, document = manifest(data, kind)
    bucket.put(name, data)
    bucket.put("inv/shop/daily/2026-11-02T00-00Z/manifest.json", document)
    source = open_source(
        f"{bucket.uri}/inv/shop/daily/2026-11-02T00-00Z/manifest.json", leave_out="s3://shop/col"
    )
    assert listed(source) == EXPECTED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fileFormat": "ORC"}, "inventory in ORC format"),
        ({"files": [{"key": "inv/data/missing.csv.gz"}]}, "which is not there"),
        ({"fileSchema": "Bucket, Size"}, "no Bucket and Key"),
        ({"fileSchema": "Bucket, Key"}, "has 8 fields, and the schema 2"),
        ({"files": [{"key": "inv/shop/daily/data/part.csv.gz", "MD5checksum": "0" * 32}]}, "is damaged"),
        ({"files": "none"}, "is not the manifest of an S3 Inventory"),
        ({"files": [{}]}, "is not the manifest of an S3 Inventory"),
    ],
)
def test_bad_inventories(tmp_path, changes, message):
    data = csv_inventory()
    name, document = manifest(data, "CSV", **changes)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(data)
    (tmp_path / "inv/manifest.json").write_bytes(document)
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / "inv/manifest.json"))


def test_the_etag_of_a_local_file_is_not_another_stores(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("uri,etag\na.jpg,9e107d9d\ns3://bucket/b.jpg,9e107d9d\n")
    listed = [row for table in open_source(str(tmp_path / "list.csv")).batches() for row in table.to_pylist()]
    assert [row["etag"] for row in listed] == [None, "9e107d9d"]
