"""A file of an index that is not, byte for byte, the published one is refused before FAISS sees it."""

import hashlib
import json
import shutil
import time

import pytest
from index_kit import collection_of, names, remove, rows_of, vectors_of

from tagger.collection import Collection
from tagger.errors import IndexUnusable
from tagger.index import Index, index
from tagger.index.manifest import CURRENT_NAME, read_pointer

DIM = 8


STRIDE = 31
"""`make test` changes every so many bytes, `make soak` each of them: opening takes milliseconds."""


@pytest.fixture(scope="module", params=["flat", "ivf"])
def indexed(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "c"
    collection = collection_of(place, [rows_of(names(0, 30), vectors_of(30, dim=DIM, seed=0))], dim=DIM)
    index(collection, kind=request.param)
    return collection, place


def files_of(place):
    return sorted(path for path in (place / "index").rglob("*") if path.is_file())


@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.soak)])
def test_every_changed_byte_is_refused(indexed, stride, record_property):
    collection, place = indexed
    Index.open(collection)
    tried, started = 0, time.monotonic()
    for path in files_of(place):
        whole = bytearray(path.read_bytes())
        small = len(whole) < 200 or path.name == "index.json"
        for at in range(0, len(whole), 1 if small else stride if len(whole) < 20_000 else 20 * stride):
            changed = whole.copy()
            changed[at] ^= 1 << (at % 8)
            path.write_bytes(changed)
            with pytest.raises(IndexUnusable):
                Index.open(collection)
            tried += 1
        path.write_bytes(whole)
    Index.open(collection)
    record_property("measured", f"{tried:,} changed bytes refused in {time.monotonic() - started:.0f} s")


@pytest.mark.parametrize("damage", ["missing", "longer", "shorter", "empty", "a folder"])
def test_every_damaged_file_is_refused_by_name(indexed, damage):
    collection, place = indexed
    for path in files_of(place):
        whole = path.read_bytes()
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage != "missing":
            path.write_bytes({"longer": whole + b"\0", "shorter": whole[:-1], "empty": b""}[damage])
        with pytest.raises(IndexUnusable, match="`tagger index") as raised:
            Index.open(collection)
        if path.name != "CURRENT" or damage not in ("missing", "a folder"):
            assert path.name in str(raised.value)
        shutil.rmtree(path) if damage == "a folder" else path.unlink(missing_ok=True)
        path.write_bytes(whole)
    Index.open(collection)


@pytest.mark.parametrize("name", ["CURRENT", "index.json", "ids.parquet", "words.arrow", "postings.arrow"])
def test_what_is_damaged_is_not_used_but_built_anew_when_asked(indexed, tmp_path, name):
    place = tmp_path / "c"
    shutil.copytree(indexed[1], place)
    collection = Collection.open(str(place))
    path = next(path for path in files_of(place) if path.name == name)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(IndexUnusable, match="tagger index COLLECTION --rebuild"):
        Index.open(collection)
    remove(collection, names(0, 1))  # so that an update would have to read it
    with pytest.raises(IndexUnusable, match="tagger index COLLECTION --rebuild"):
        index(collection)
    assert index(collection, rebuild=True).how == "built"
    assert Index.open(collection).count == 29


def test_another_models_index_is_refused(tmp_path):
    one = collection_of(tmp_path / "one", [rows_of(names(0, 9), vectors_of(9, dim=8, seed=0))], dim=8)
    other = collection_of(tmp_path / "other", [rows_of(names(0, 9), vectors_of(9, dim=16, seed=0))], dim=16)
    index(one)
    index(other)
    shutil.rmtree(tmp_path / "one" / "index")
    shutil.copytree(tmp_path / "other" / "index", tmp_path / "one" / "index")
    for use in (Index.open, index):
        with pytest.raises(
            IndexUnusable, match=r"made from embeddings of another model \(tiny, .*, 16 values\)"
        ):
            use(one)
    assert index(one, rebuild=True).dim == 8


def forge(indexed, tmp_path, change):
    """A copy of the collection whose index.json was changed, with every sha256 right."""
    collection, place = indexed
    copy = tmp_path / "c"
    shutil.copytree(place, copy)
    version = read_pointer(collection.store).version
    path = copy / "index" / version / "index.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    (copy / CURRENT_NAME).write_text(f"{version} {hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    return Collection.open(str(copy))


def test_a_newer_format_is_refused_with_its_number(indexed, tmp_path):
    forged = forge(indexed, tmp_path, lambda document: document.update(format_version=7))
    with pytest.raises(IndexUnusable, match="has format 7, and this release reads 2"):
        Index.open(forged)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 29), ("count", -1), ("slots", 7), ("dim", 0), ("kind", "hnsw"), ("segments", []),
        ("files", []), ("metric", "dot"), ("nprobe", None), ("version", "other"), ("extra", 1),
        ("count", "30"),
        ("slots", 8192.0), ("depth", -1), ("depth", True), ("taxonomy_file", 5), ("taxonomy_file", "../x"),
        ("recall_at_10", "high"), ("drift", float("nan")), ("model_id", None), ("segments", 3),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_its_files_is_refused(indexed, tmp_path, field, value):
    """As a bug, or a hand, might write it: with every sha256 right."""

    def change(document):
        if field == "nprobe":
            del document[field]
        else:
            document[field] = value

    forged = forge(indexed, tmp_path, change)
    with pytest.raises(IndexUnusable, match=r"tagger index|of another model|make it again"):
        Index.open(forged)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blake3", "0"),
        ("sha256", "/etc/passwd"), ("sha256", "../../x"), ("version", "../index"), ("version", ".."),
        ("name", "../collection.json"), ("name", ""), ("size_bytes", 1.5), ("size_bytes", -1),
        ("size_bytes", 1 << 80),
    ],
)  # fmt: skip
def test_a_forged_file_entry_reads_and_removes_nothing(indexed, tmp_path, field, value):
    forged = forge(indexed, tmp_path, lambda document: document["files"][-1].update({field: value}))
    with pytest.raises(IndexUnusable, match="contradicts itself"):
        Index.open(forged)


def test_an_index_in_a_bucket_is_fetched_once_and_checked_each_time(bucket, tmp_path, monkeypatch):
    from tagger.settings import load_settings

    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "cache"))
    collection = collection_of(
        bucket.uri + "/c", [rows_of(names(0, 30), vectors_of(30, dim=DIM, seed=0))], dim=DIM
    )
    index(collection, kind="ivf")
    assert Index.open(collection).count == 30
    cached = [path for path in (load_settings().cache_dir / "index").rglob("*") if path.is_file()]
    times = [path.stat().st_mtime_ns for path in cached]
    assert Index.open(collection).count == 30
    assert [path.stat().st_mtime_ns for path in cached] == times
    cached[0].write_bytes(b"X" + cached[0].read_bytes()[1:])
    with pytest.raises(IndexUnusable, match="is not the file that was published"):
        Index.open(collection)
    assert Index.open(collection).count == 30  # fetched anew
