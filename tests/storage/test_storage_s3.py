"""S3 as it is: refused credentials, odd keys, deltalake, and what must never be said aloud."""

import pickle
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagger.errors import ImageError, SourceError, StoreUnavailable, TaggerError, UsageError
from tagger.source import open_source
from tagger.storage import ImageReader, ObjectInfo, StorageOptions, open_store, survives_obstore
from tagger.testing import RawS3

pytestmark = pytest.mark.s3

ODD = [
    "a//b.jpg",
    "a/../c.jpg",
    "../d.jpg",
    "a/./e.jpg",
    "/f.jpg",
    "//",
    "tab\there.jpg",
    "line\nbreak.jpg",
    "a%2Fb.jpg",
    "a/b.jpg",
    "a/%2e%2e/b.jpg",
    "hash#.jpg",
    "query?x=1.jpg",
    "emoji😀.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "=1+1.jpg",
    "plus+ and space.jpg",
    "back\\slash.jpg",
    "control\x01.jpg",
    "f.jpg",
    "c.jpg",
    "trailing/",
    "&amp;.jpg",
]


@pytest.fixture
def raw(monkeypatch):
    with RawS3() as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TAGGER_PATIENCE_S", "2")
        monkeypatch.setenv("TAGGER_REQUEST_TIMEOUT_S", "5")
        yield server


def test_every_odd_key_reads_its_own_object(raw):
    raw.objects = {key: repr(key).encode() for key in ODD}
    reader = ImageReader()
    for key in ODD:
        data, etag = reader.read_image(f"{raw.uri}/{key}")
        assert data == repr(key).encode(), key
        assert reader.read_image(f"{raw.uri}/{key}", if_match=etag)[0] == data
        with pytest.raises(ImageError, match="changed"):
            reader.read_image(f"{raw.uri}/{key}", if_match="0" * 32)
        with pytest.raises(ImageError, match="too_large"):
            reader.read_image(f"{raw.uri}/{key}", max_bytes=1)


def test_an_empty_page_does_not_end_a_listing(raw):
    raw.objects = {f"{number:03d}.jpg": b"x" for number in range(40)}
    raw.deleted = {f"{number:03d}.jpg" for number in range(10, 35)}
    raw.page_keys = 5
    left = sorted(set(raw.objects) - raw.deleted)
    assert [found.name for page in open_store(raw.uri).list() for found in page] == left
    source = open_source(f"{raw.uri}/")
    listed = [uri.rpartition("/")[2] for table in source.batches() for uri in table["uri"].to_pylist()]
    assert sorted(listed) == left


def test_odd_keys_are_written_and_listed_as_they_are(raw):
    store = open_store(raw.uri)
    for key in ODD:
        etag = store.put(key, key.encode(), if_absent=True)
        assert store.head(key) == ObjectInfo(key, etag, len(key.encode()))
    assert raw.objects == {key: key.encode() for key in ODD}
    assert sorted(found.name for page in store.list() for found in page) == sorted(ODD)
    store.delete([key for key in ODD if not survives_obstore(key)])  # one by one; RawS3 knows no bulk delete
    assert set(raw.objects) == {key for key in ODD if survives_obstore(key)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.text(st.sampled_from("a./%\t\n\x7f#?+ é😀\\~&"), min_size=1, max_size=8))
def test_any_key_reads_its_own_object_or_none(raw, key):
    """Also when the key it could be mistaken for is there."""
    reader = ImageReader()
    raw.objects = {key: b"right", key.strip("/"): b"wrong", key.replace("//", "/"): b"wrong"} | {
        key: b"right"
    }
    assert reader.read_image(f"{raw.uri}/{key}")[0] == b"right"
    del raw.objects[key]
    with pytest.raises(ImageError, match="not_found"):
        reader.read_image(f"{raw.uri}/{key}")


SEAWEED_ODD = [key for key in ODD if survives_obstore(key) or "\t" in key or "\n" in key or "\x01" in key]


def test_odd_keys_on_seaweedfs(bucket):
    kept = [key for key in SEAWEED_ODD if "\\" not in key]  # SeaweedFS itself turns \ into /
    bucket.put_all([(key, repr(key).encode()) for key in kept])
    store, reader = open_store(bucket.uri), ImageReader()
    listed = {found.name: found for page in store.list() for found in page}
    assert sorted(listed) == sorted(kept)
    for key in kept:
        assert reader.read_image(f"{bucket.uri}/{key}", if_match=listed[key].etag)[0] == repr(key).encode()


# ---- what goes wrong -------------------------------------------------------------------------------------


def test_missing_bucket(s3_env):
    store = open_store("s3://no-such-bucket/x")
    with pytest.raises(SourceError, match=r"there is no bucket s3://no-such-bucket"):
        store.check()
    with pytest.raises(SourceError, match="there is no bucket"):
        list(store.list())
    with pytest.raises(ImageError, match="not_found"):
        store.read("a.jpg")
    assert store.head("a.jpg") is None
    with pytest.raises(StoreUnavailable, match="there is no bucket"):
        store.put("a", b"")


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials(bucket, monkeypatch, variable):
    bucket.put("a.jpg", b"x")
    monkeypatch.setenv(variable, "wrong-0123456789")
    store = open_store(bucket.uri)
    with pytest.raises(UsageError, match="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        store.check()
    for work in (
        lambda: store.read("a.jpg"),
        lambda: store.read("odd\tkey"),
        lambda: store.read_range("a.jpg", 0, 1),
        lambda: store.head("a.jpg"),
        lambda: store.put("b", b""),
        lambda: store.delete(["a.jpg"]),
    ):
        with pytest.raises(StoreUnavailable, match="refuses the credentials"):
            work()


def test_no_credentials(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(bucket.uri)
    with pytest.raises(UsageError, match="no AWS credentials were found"):
        store.check()
    with pytest.raises(StoreUnavailable, match="no AWS credentials were found"):
        store.read("a.jpg")


def test_anonymous_where_it_is_not_allowed(bucket):
    store = open_store(bucket.uri, StorageOptions(anonymous=True))
    with pytest.raises(UsageError, match="--anonymous"):
        store.check()
    with pytest.raises(ImageError, match="forbidden"):
        store.read("a.jpg")


def test_unknown_profile(s3_env, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="AWS_PROFILE"):
        open_store("s3://some-bucket")


def test_profile_with_its_own_endpoint(s3, bucket, tmp_path, monkeypatch):
    """Credentials, region and endpoint may all come from a profile."""
    for name in s3.env():
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        f"[profile shop]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n"
        f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "shop")
    bucket.put("a.jpg", b"x")
    store = open_store(bucket.uri)
    store.check()
    assert store.read("a.jpg") == b"x"
    assert store.delta_options()["AWS_ENDPOINT_URL"] == s3.endpoint


def test_unreachable(s3_env, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TAGGER_PATIENCE_S", "0.5")
    store = open_store("s3://some-bucket")
    for work in (store.check, lambda: store.read("a"), lambda: store.read("\t"), lambda: store.put("a", b"")):
        with pytest.raises(StoreUnavailable, match=r"no answer from http://127.0.0.1:9"):
            work()


def test_a_bad_endpoint(s3_env, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL"):
        open_store("s3://some-bucket")


# ---- what must not be said -------------------------------------------------------------------------------


def test_no_secret_in_errors_reprs_or_pickles(bucket, monkeypatch):
    secret = "hush-hush-0123456789"
    bucket.put("a.jpg", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-" + secret)
    store, reader = open_store(bucket.uri), ImageReader()
    said = [repr(store), repr(reader), repr(store.options)]
    for work in (
        store.check,
        lambda: store.read("a.jpg"),
        lambda: store.read("odd\tkey"),
        lambda: store.put("a", b"x"),
        lambda: list(store.list()),
        lambda: reader.read_image(f"{bucket.uri}/a.jpg"),
    ):
        with pytest.raises(TaggerError) as raised:
            work()
        said.append("".join(traceback.format_exception(raised.value)))
        said.append(repr(raised.value))
        assert raised.value.__cause__ is None
    said += [pickle.dumps(item).decode("latin-1") for item in (store, reader, store.options)]
    assert not [text for text in said if secret in text]


def test_a_connection_is_never_pickled(s3_env):
    from tagger.storage.s3 import connect

    with pytest.raises(TypeError, match="credentials"):
        pickle.dumps(connect(StorageOptions()))


# ---- neighbours ------------------------------------------------------------------------------------------


def test_deltalake_writes_with_our_options(bucket):
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    store = open_store(bucket.uri + "/col")
    write_deltalake(store.delta_uri("tags"), pa.table({"n": [1, 2]}), storage_options=store.delta_options())
    table = DeltaTable(store.delta_uri("tags"), storage_options=store.delta_options())
    assert table.version() == 0
    log = {found.name for page in store.list("tags/_delta_log/") for found in page}
    assert "tags/_delta_log/00000000000000000000.json" in log


def test_a_changed_environment_is_heeded(bucket, monkeypatch):
    open_store(bucket.uri).check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UsageError):
        open_store(bucket.uri).check()
