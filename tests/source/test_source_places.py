"""Buckets, prefixes, folders and single images, listed as they are."""

import os
import re
import shlex
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagger.errors import SourceError, StoreUnavailable, UsageError
from tagger.source import LISTING_SCHEMA, open_source
from tagger.source.names import Globs, Names, is_hidden
from tagger.source.places import FolderSource
from tagger.storage import ImageReader, LocalStore, StorageOptions, file_etag
from tagger.testing import Answer, RawS3

ODD = [
    "a//b.jpg",
    "a/../c.jpg",
    "../d.jpg",
    "a/./e.jpg",
    "/f.jpg",
    "tab\there.jpg",
    "line\nbreak.jpg",
    "a%2Fb.jpg",
    "a/b.jpg",
    "hash#.jpg",
    "query?x=1.jpg",
    "emoji😀.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "=1+1.jpg",
    "plus+ and space .jpg",
]


def rows(source):
    return [row for table in source.batches() for row in table.to_pylist()]


def uris(source, **options):
    return sorted(row["uri"] for row in rows(open_source(str(source), **options)))


@pytest.fixture
def raw(monkeypatch):
    with RawS3() as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TAGGER_PATIENCE_S", "1")
        yield server


# ---- S3 --------------------------------------------------------------------------------------------------


def test_odd_keys_come_once_and_read_their_own_object(raw):
    raw.objects = {key: repr(key).encode() for key in ODD}
    source = open_source(raw.uri)
    found = rows(source)
    assert source.complete
    assert sorted(row["uri"] for row in found) == sorted(f"{raw.uri}/{key}" for key in ODD)
    reader = ImageReader()
    for row in found:
        assert row["image_id"] == row["uri"]
        assert row["size_bytes"] == len(raw.objects[row["uri"].removeprefix("s3://raw/")])
        data, etag = reader.read_image(row["uri"], if_match=row["etag"])
        assert (repr(row["uri"].removeprefix("s3://raw/")).encode(), row["etag"]) == (data, etag)


@pytest.mark.s3
def test_a_bucket_of_seaweedfs(bucket):
    keys = [key for key in ODD if not set(key.split("/")) & {"", ".", ".."}]  # those it can hold
    keys += [f"many/{n % 3}/{n:04d}.jpg" for n in range(2500)]
    left_out = ["_tmp/a.jpg", ".hidden.jpg", "many/.x/a.jpg", "many/1/_a.jpg", "col/tags/part.parquet"]
    bucket.put_all([(key, key.encode()) for key in [*keys, *left_out]])
    bucket.put("empty-folder/", b"")
    source = open_source(bucket.uri, leave_out=bucket.uri + "/col/")
    tables = list(source.batches())
    assert all(table.schema == LISTING_SCHEMA for table in tables)
    found = [uri for table in tables for uri in table["uri"].to_pylist()]
    assert sorted(found) == sorted(f"{bucket.uri}/{key}" for key in keys)
    assert uris(bucket.uri + "/many/1") == sorted(
        f"{bucket.uri}/{key}" for key in keys if key.startswith("many/1")
    )
    assert uris(bucket.uri + "/many/1/") == uris(bucket.uri + "/many/1")


PARTS = ["/", "a", "b", ".", "-", "0", "9", "é", "😀", "~", "\t", "%2F", "+", "aaaaaaaaaaaaaaaa"]


@pytest.mark.s3
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    keys=st.sets(
        st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join), min_size=1, max_size=40
    ),
    page_keys=st.integers(1, 5),
)
def test_key_ranges_on_seaweedfs(s3, s3_env, keys, page_keys):
    """Small pages and many cuts on a real server, which compares folder by folder."""
    from tagger.source.ranges import list_ranges
    from tagger.storage.s3 import connect

    keys = {key for key in keys if not set(key.split("/")) & {"", ".", ".."}}
    # An object named like a folder hides that folder from SeaweedFS when a page ends with it.
    keys = {key for key in keys if not any(other.startswith(key + "/") for other in keys)}
    bucket = s3.bucket()
    bucket.put_all([(key, b"x") for key in keys])
    client = connect(StorageOptions()).client

    def page(after):
        more = {"StartAfter": after} if after else {}
        answer = client.list_objects_v2(Bucket=bucket.name, MaxKeys=page_keys, EncodingType="url", **more)
        return answer["TaggerRows"], answer["IsTruncated"]

    found = [row.name for rows in list_ranges(page, threads=4) for row in rows]
    assert sorted(found) == sorted(keys)
    bucket.drop()


def test_a_prefix_is_a_folder(raw):
    raw.objects = dict.fromkeys(["pho", "pho/a.jpg", "pho/", "photos/b.jpg", "pho.jpg", "z/pho/c.jpg"], b"x")
    assert uris("s3://raw/pho") == [
        "s3://raw/pho/",
        "s3://raw/pho/a.jpg",
    ]  # `pho/` holds a byte, so it counts
    raw.objects["pho/"] = b""
    assert uris("s3://raw/pho") == uris("s3://raw/pho/") == ["s3://raw/pho/a.jpg"]
    assert uris("s3://raw/pho.jpg") == ["s3://raw/pho.jpg"]
    assert uris("s3://raw/ph") == []


def test_one_object_with_an_odd_key(raw):
    raw.objects = {"a//b.jpg": b"right", "a/b.jpg": b"wrong"}
    (row,) = rows(open_source("s3://raw/a//b.jpg"))
    assert (row["uri"], row["size_bytes"]) == ("s3://raw/a//b.jpg", 5)
    source = open_source("s3://raw/a//b.jpg")
    assert source.covers("s3://raw/a//b.jpg")
    assert not source.covers("s3://raw/a/b.jpg")


def test_the_first_images_come_before_the_last_page(raw):
    raw.objects = {f"{n:04d}.jpg": b"x" for n in range(2000)}
    raw.page_keys = 100
    released = threading.Event()

    def hold_every_page_but_the_first(method, after):
        if method == "LIST" and after:
            released.wait(60)

    raw.fault = hold_every_page_but_the_first
    batches = open_source(raw.uri).batches()
    first = next(batches)
    assert not released.is_set()
    released.set()
    assert sorted(first["image_id"].to_pylist()) == [f"{raw.uri}/{n:04d}.jpg" for n in range(100)]
    assert sum(table.num_rows for table in batches) == 1900


def test_what_cannot_be_listed(raw, monkeypatch):
    raw.objects = {f"{n:04d}.jpg": b"x" for n in range(20)}
    raw.page_keys = 10
    raw.fault = lambda _method, key: Answer(500, "InternalError") if key == "0009.jpg" else None
    source = open_source(raw.uri)
    with pytest.raises(StoreUnavailable, match="500 InternalError"):
        rows(source)
    assert not source.complete
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="no answer"):
        open_source(raw.uri)
    with pytest.raises(UsageError, match="unknown address"):
        open_source("ftp://host/x")


@pytest.mark.s3
@pytest.mark.parametrize("name", ["", "photos", "photos/list.csv", "photos/manifest.json", "photo.jpg"])
def test_wrong_credentials_and_missing_buckets_are_wrong_usage(bucket, monkeypatch, name):
    with pytest.raises(SourceError, match="there is no bucket"):
        open_source(f"s3://no-such-bucket/{name}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UsageError, match="refuses the credentials"):
        open_source(f"{bucket.uri}/{name}")


def test_memory_lists_too():
    from tagger.storage import open_store

    store = open_store("memory://places/p")
    for name in ("a.jpg", "b/c.jpg", "_x.jpg"):
        store.put(name, name.encode())
    assert uris("memory://places/p") == ["memory://places/p/a.jpg", "memory://places/p/b/c.jpg"]
    assert uris("memory://places/p/b/c.jpg") == ["memory://places/p/b/c.jpg"]


# ---- folders ---------------------------------------------------------------------------------------------


def test_a_folder(tmp_path):
    root = tmp_path / "photos"
    for name in (
        "a.jpg",
        "sub/b.jpg",
        "sub/%41.jpg",
        ".git/c.jpg",
        "_tmp/d.jpg",
        "sub/.e.jpg",
        "col/tags/f.parquet",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "empty").mkdir()
    (root / "loop").symlink_to(root)
    with open(os.fsencode(root) + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 - a path of bytes
        file.write(b"bytes")
    source = open_source(str(root), leave_out=str(root / "col"))
    found = {row["uri"]: row for row in rows(source)}
    assert sorted(found) == sorted(
        f"file://{root}/{name}" for name in ("a.jpg", "sub/b.jpg", "sub/%2541.jpg", "%FF.jpg")
    )
    assert source.complete
    row = found[f"file://{root}/a.jpg"]
    assert row == {
        "image_id": f"file://{root}/a.jpg",
        "uri": f"file://{root}/a.jpg",
        "etag": file_etag((root / "a.jpg").stat()),
        "size_bytes": 5,
    }
    reader = ImageReader()
    assert reader.read_image(f"file://{root}/sub/%2541.jpg")[0] == b"sub/%41.jpg"
    assert reader.read_image(f"file://{root}/%FF.jpg")[0] == b"bytes"


def test_a_collection_under_another_name_is_left_out(tmp_path):
    (tmp_path / "photos/col/tags").mkdir(parents=True)
    (tmp_path / "photos/col/tags/a.parquet").write_bytes(b"x")
    (tmp_path / "photos/b.jpg").write_bytes(b"x")
    (tmp_path / "photos/alias").symlink_to("col")
    (tmp_path / "other").symlink_to("photos")
    expected = [f"file://{tmp_path}/photos/b.jpg"]
    assert uris(tmp_path / "other", leave_out=str(tmp_path / "other/col")) == expected
    assert uris(tmp_path / "photos", leave_out=f"file://{tmp_path}/other/col/") == expected


def test_one_file(tmp_path):
    (tmp_path / "100%.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("100%.jpg")
    assert uris(tmp_path / "100%.jpg") == uris(tmp_path / "link.jpg") == [f"file://{tmp_path}/100%.jpg"]
    assert uris(f"file://{tmp_path}/100%.jpg") == [f"file://{tmp_path}/100%.jpg"]


def test_folders_that_cannot_be_listed(tmp_path):
    with pytest.raises(SourceError, match="there is no file or folder"):
        open_source(str(tmp_path / "nothing"))
    (tmp_path / "_a.jpg").write_bytes(b"x")
    source = open_source(str(tmp_path))
    assert rows(source) == []  # whether that is an error is for the run to judge
    assert source.complete


def unlistable(folder):
    """Make folders below each other until the path is too long to be listed; root may not be refused less."""
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=descriptor)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_a_subfolder_that_cannot_be_listed_is_an_error_unless_it_is_excluded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    unlistable(tmp_path / "lost+[found]")
    deep = r"lost\+\[found\]/d+/.*d"
    with pytest.raises(SourceError, match=rf"/{deep} cannot be listed: File name too long") as error:
        uris(tmp_path)
    (advice,) = re.findall(r"leave it out with (--exclude .*)$", str(error.value))
    assert re.fullmatch(deep.replace(r"\[", r"\[\[\]") + r"/\*", shlex.split(advice)[1])
    expected = [f"file://{tmp_path}/a.jpg"]
    assert uris(tmp_path, exclude=[shlex.split(advice)[1]]) == expected
    for glob in ("lost+*", "lost+*/*", "lost+[[]found]/*", "lost+[[]found]/**", "*/**", "*d/*"):
        assert uris(tmp_path, exclude=["*.png", glob]) == expected, glob
    for glob in ("lost+[[]found]", "lost+[[]found]/", "lost+[[]found]/*.jpg", "*.jpg"):
        with pytest.raises(SourceError):
            uris(tmp_path, exclude=[glob])


def test_a_file_that_cannot_be_looked_at_is_an_error_unless_it_is_left_out(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    for name in ("sub/b.jpg", "_hidden.jpg"):
        (tmp_path / name).symlink_to("x" * 300)
    with pytest.raises(SourceError, match=r"sub/b.jpg cannot be listed: .*--exclude sub/b\.jpg$"):
        uris(tmp_path)
    assert uris(tmp_path, exclude=["sub/b.jpg"]) == [f"file://{tmp_path}/a.jpg"]
    assert uris(tmp_path, include=["a.*"]) == [f"file://{tmp_path}/a.jpg"]


def test_a_folder_that_is_itself_not_listable_has_no_glob(tmp_path):
    unlistable(tmp_path / "photos")
    place = LocalStore(str(tmp_path / "photos" / "/".join(["d" * 250] * 17)))
    source = FolderSource(place, Names(place.uri, Globs(), None), None)
    with pytest.raises(SourceError, match=r"cannot be listed: File name too long$"):
        rows(source)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match=r"loop cannot be opened: .*Too many levels of symbolic links"):
        open_source(str(tmp_path / "loop"))


def test_relative_paths(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert uris("p") == uris("./p/") == uris("p/a.jpg") == [f"file://{tmp_path}/p/a.jpg"]


# ---- names -----------------------------------------------------------------------------------------------


def test_globs(tmp_path):
    for name in ("a.jpg", "b.png", "raw/a.jpg", "raw/x/c.JPG", "x/raw.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def kept(**options):
        return [uri.removeprefix(f"file://{tmp_path}/") for uri in uris(tmp_path, **options)]

    assert kept(include=["*.jpg"]) == ["a.jpg", "raw/a.jpg", "x/raw.jpg"]
    assert kept(include=["*.jpg", "*.JPG"], exclude=["raw/*"]) == ["a.jpg", "x/raw.jpg"]
    assert kept(include=["a.*"]) == ["a.jpg", "raw/a.jpg"]
    assert kept(include="a.*", exclude="raw/*") == ["a.jpg"]
    assert kept(exclude=["*.jp*"]) == ["b.png", "raw/x/c.JPG"]
    with pytest.raises(UsageError, match="--include needs a pattern"):
        open_source(str(tmp_path), include=[""])
    assert kept(include=["*.gif"]) == []


@given(
    pattern=st.text("a/*?[]!.\n", min_size=1, max_size=6),
    folder=st.text("ab/.\n", min_size=1, max_size=5),
    name=st.text("ab/.\n[*", max_size=5),
)
def test_a_folder_is_not_entered_only_if_the_globs_leave_out_all_in_it(pattern, folder, name):
    globs = Globs([], [pattern])
    assert globs.enter(folder) or not globs.match(f"{folder}/{name}")


def test_globs_of_one_image(tmp_path, raw):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.jpg").write_bytes(b"x")
    raw.objects = {"sub/a.jpg": b"x"}
    for uri in (f"file://{tmp_path}/sub/a.jpg", f"{raw.uri}/sub/a.jpg"):
        for options in ({}, {"include": ["*.jpg"]}, {"exclude": ["*.png", "sub/*"]}):
            source = open_source(uri, **options)
            assert [row["uri"] for row in rows(source)] == [uri]
            assert source.covers(uri)
        for options in ({"include": ["*.png"]}, {"exclude": ["a.*"]}):
            source = open_source(uri, **options)
            assert rows(source) == []
            assert source.complete
            assert not source.covers(uri)
        with pytest.raises(UsageError, match="--include needs a pattern"):
            open_source(uri, include=[""])


@pytest.mark.parametrize(
    ("key", "hidden"),
    [
        ("a.jpg", False),
        (".a.jpg", True),
        ("_a.jpg", True),
        ("a_b/c.d/e", False),
        ("a/.b/c", True),
        ("a/_b", True),
        ("a/../b", False),
        ("..", False),
        ("./a", False),
        ("...", True),
        ("a/..b", True),
        ("", False),
    ],
)
def test_hidden_names(key, hidden):
    assert is_hidden(key) == hidden


def test_what_a_source_covers():
    names = Names("s3://b/photos", Globs(["*.jpg"], ["raw/*"]), "s3://b/photos/col")
    assert names.covers("s3://b/photos/a.jpg")
    for uri in (
        "s3://b/photos2/a.jpg",
        "s3://b/a.jpg",
        "s3://b/photos",
        "s3://b/photos/raw/a.jpg",
        "s3://b/photos/a.png",
        "s3://b/photos/_tmp/a.jpg",
        "s3://b/photos/col/a.jpg",
        "s3://c/photos/a.jpg",
        "file:///photos/a.jpg",
    ):
        assert not names.covers(uri), uri


@pytest.mark.parametrize(("root", "collection"), [("s3://b", "s3://b"), ("s3://b/col/x", "s3://b/col")])
def test_a_source_inside_the_collection_is_refused(root, collection):
    with pytest.raises(UsageError, match="lies in the collection"):
        Names(root, Globs(), collection)
    Names("s3://b/col2", Globs(), "s3://b/col")
