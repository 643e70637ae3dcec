"""One contract, every kind of store."""

import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tagger.errors import ImageError
from tagger.storage import AlreadyExists, ObjectInfo, PreconditionFailed, open_store

KINDS = [pytest.param("s3", marks=pytest.mark.s3), "file", "memory"]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket").uri + "/col")
    if request.param == "file":
        return open_store(str(tmp_path / "col"))
    return open_store(f"memory://{uuid.uuid4().hex}/col")


def names(store, prefix=""):
    return sorted(found.name for page in store.list(prefix) for found in page)


def test_what_is_put_is_read(store):
    etag = store.put("a/b.bin", b"hello")
    assert store.fetch("a/b.bin") == (b"hello", etag)
    assert store.read("a/b.bin", if_match=etag) == b"hello"
    assert store.head("a/b.bin") == ObjectInfo("a/b.bin", etag, 5)
    assert store.exists("a/b.bin")
    assert '"' not in etag


def test_an_empty_object(store):
    etag = store.put("empty", b"")
    assert store.fetch("empty") == (b"", etag)
    assert store.read_range("empty", 0, 5) == b""


def test_what_is_missing(store):
    store.put("a/b", b"x")
    assert store.head("nothing") is None
    assert store.head("a") is None
    for name in ("nothing", "a", "a/b/c"):
        with pytest.raises(ImageError) as raised:
            store.read(name)
        assert raised.value.code == "not_found"


def test_another_version_is_not_read(store):
    etag = store.put("a", b"one")
    store.put("a", b"two")
    with pytest.raises(ImageError) as raised:
        store.read("a", if_match=etag)
    assert raised.value.code == "changed"


def test_too_large_is_refused_at_the_limit(store):
    store.put("a", b"12345")
    assert store.read("a", max_bytes=5) == b"12345"
    with pytest.raises(ImageError) as raised:
        store.read("a", max_bytes=4)
    assert raised.value.code == "too_large"


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 3, b"012"), (3, 100, b"3456789"), (9, 1, b"9"), (10, 5, b""), (99, 5, b""), (4, 0, b"")],
)
def test_ranges_are_slices(store, start, length, expected):
    store.put("a", b"0123456789")
    assert store.read_range("a", start, length) == expected


def test_if_absent(store):
    store.put("a", b"one", if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put("a", b"two", if_absent=True)
    assert store.read("a") == b"one"


def test_if_match(store):
    first = store.put("a", b"one")
    second = store.put("a", b"two", if_match=first)
    assert second != first
    with pytest.raises(PreconditionFailed):
        store.put("a", b"three", if_match=first)
    with pytest.raises(PreconditionFailed):
        store.put("missing", b"three", if_match=first)
    assert store.fetch("a") == (b"two", second)
    assert not store.exists("missing")


@pytest.mark.parametrize("condition", ["absent", "match"])
def test_of_eight_racing_writers_one_wins(store, condition):
    """Whoever is told it wrote finds its own content there."""
    rounds = 3 if store.uri.startswith("s3:") else 10  # SeaweedFS makes the losers wait a second or more
    with ThreadPoolExecutor(8) as pool:
        for round_number in range(rounds):
            name = f"race-{round_number}"
            held = {"if_absent": True} if condition == "absent" else {"if_match": store.put(name, b"before")}
            start = threading.Barrier(8)

            def write(n, name=name, held=held, start=start):
                start.wait()
                try:
                    return store.put(name, b"writer %d" % n, **held), n
                except (AlreadyExists, PreconditionFailed):
                    return None

            won = [result for result in pool.map(write, range(8)) if result]
            assert len(won) == 1
            etag, winner = won[0]
            assert store.fetch(name) == (b"writer %d" % winner, etag)
    assert names(store) == sorted(f"race-{n}" for n in range(rounds))


def test_list_and_delete(store):
    contents = {"a/1": b"1", "a/2": b"22", "ab": b"", "b/c/d": b"dddd", "z z%é": b"5"}
    etags = {name: store.put(name, data) for name, data in contents.items()}
    listed = [found for page in store.list() for found in page]
    assert sorted(listed) == sorted(ObjectInfo(n, etags[n], len(d)) for n, d in contents.items())
    assert names(store, "a/") == ["a/1", "a/2"]
    assert names(store, "a") == ["a/1", "a/2", "ab"]
    assert names(store, "b/c") == ["b/c/d"]
    assert names(store, "nothing/") == []
    store.delete(["a/1", "never/there", "z z%é"])
    assert names(store) == ["a/2", "ab", "b/c/d"]
    store.delete([])


def test_a_prefix_is_a_world_of_its_own(store):
    from tagger.storage import split_uri

    store.put("a", b"inside")
    neighbour = open_store(f"{store.uri}-2")
    neighbour.put("a", b"outside")
    assert names(store) == ["a"]
    assert store.uri == open_store(store.uri + "/").uri
    scheme, bucket, key = split_uri(store.address("a"))
    assert key.endswith("col/a")
    assert scheme in ("s3", "file", "memory")
    assert bucket or scheme == "file"


def test_more_than_a_page(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"{n:05d}", b"x"), range(1203)))
    assert names(store) == [f"{n:05d}" for n in range(1203)]
    store.delete(f"{n:05d}" for n in range(1200))
    assert names(store) == ["01200", "01201", "01202"]


def test_a_pickled_store_opens_itself_again(store):
    store.put("a", b"x")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"x"
    assert repr(store.uri) in repr(store)


def test_check_of_a_store_that_is_there(store):
    store.put("a", b"x")
    store.check()


def test_a_file_goes_up_and_comes_down(store, tmp_path):
    data = bytes(range(256)) * 100_000  # 25 MB: more than one piece
    path = tmp_path / "large"
    path.write_bytes(data)
    store.upload("deep/large.bin", path)
    assert names(store) == ["deep/large.bin"]
    assert store.head("deep/large.bin").size_bytes == len(data)
    back = tmp_path / "back"
    store.download("deep/large.bin", back, len(data))
    assert back.read_bytes() == data


def test_an_empty_file_goes_up_and_comes_down(store, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    store.upload("empty", tmp_path / "empty")
    store.download("empty", tmp_path / "back", 0)
    assert (tmp_path / "back").read_bytes() == store.read("empty") == b""


def test_what_is_missing_does_not_come_down(store, tmp_path):
    with pytest.raises(ImageError, match="not_found"):
        store.download("nothing", tmp_path / "back", 10)
