# ruff: noqa: PTH102, PTH118, PTH123, PTH208 - paths of bytes
"""Local files: names that are no text, files that change, things that are no files."""

import os
import pickle
import stat
import subprocess
import threading

import pytest

from tagger.errors import ImageError, SourceError, StoreUnavailable
from tagger.storage import ImageReader, LocalStore, open_store
from tagger.storage.walk import walk

NAMES = [
    b"a.jpg",
    b"\xff\xfe.jpg",
    b"%FF%FE.jpg",
    b"%41.jpg",
    b"A.jpg",
    "é.jpg".encode(),
    b"e\xcc\x81.jpg",
    b"tab\t\n.jpg",
]


def test_every_name_reads_its_own_file(tmp_path):
    root = os.fsencode(tmp_path)
    for name in NAMES:
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"content of " + name)
    store, reader = open_store(str(tmp_path)), ImageReader()
    listed = [found for page in store.list() for found in page]
    assert len({found.name for found in listed}) == len(NAMES)
    for found in listed:
        data, etag = reader.read_image(store.address(found.name), if_match=found.etag)
        assert data.startswith(b"content of ")
        assert etag == found.etag
        found.name.encode()  # text that any table or page can hold
    contents = {reader.read_image(store.address(found.name))[0] for found in listed}
    assert contents == {b"content of " + name for name in NAMES}


def test_the_address_has_no_symbolic_links_of_the_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert open_store(str(tmp_path / "link")).uri == open_store(str(tmp_path / "real")).uri


def test_a_rewritten_file_is_changed_even_within_one_clock_tick(tmp_path):
    store = LocalStore(str(tmp_path))
    etags = [store.put("a", b"%03d" % n) for n in range(200)]
    assert len(set(etags)) == 200
    with pytest.raises(ImageError, match="changed"):
        store.read("a", if_match=etags[-2])
    assert store.read("a", if_match=etags[-1]) == b"199"


def test_a_file_that_grows_while_it_is_read_is_changed(tmp_path):
    """A writer appends without end; every read is either whole at one moment or refused."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * 2_000_000)
    stop = threading.Event()

    def append():
        with path.open("ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 200_000_000:
                file.write(b"x" * 1000)

    writer = threading.Thread(target=append)
    writer.start()
    try:
        for _ in range(30):
            code, size_bytes, etag = _read_or_reason(LocalStore(str(tmp_path)))
            assert code == "changed" or etag.split("-")[1] == f"{size_bytes:x}"
    finally:
        stop.set()
        writer.join()


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"x")
    store = LocalStore(str(tmp_path))
    for name in ("pipe", "folder", "dangling", "nul\x00byte", "file/below", "x" * 5000):
        with pytest.raises(ImageError) as raised:
            store.read(name)
        assert raised.value.code == "not_found"
        assert store.head(name) is None if "\x00" not in name else True
    assert [found.name for page in store.list() for found in page] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_read(tmp_path):
    secret = tmp_path / "closed"
    secret.write_bytes(b"x")
    secret.chmod(0)
    with pytest.raises(ImageError, match="forbidden"):
        LocalStore(str(tmp_path)).read("closed")
    (tmp_path / "folder").mkdir(mode=0)
    with pytest.raises(SourceError, match="folder cannot be listed"):
        list(LocalStore(str(tmp_path)).list())


def test_links_are_followed_but_not_for_ever(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c.jpg").symlink_to("a/1.jpg")
    found = {
        os.path.relpath(path, os.fsencode(tmp_path))
        for page in walk(os.fsencode(tmp_path))
        for path, _ in page
    }
    assert found == {b"a/1.jpg", b"b/1.jpg", b"c.jpg"}


def test_folders_deeper_than_recursion(tmp_path):
    """Cut off again at once: pytest itself clears its folders by recursion."""
    deep = tmp_path / "deep"
    inside = os.fsencode(deep)
    os.mkdir(inside)
    try:
        for _ in range(1100):
            inside += b"/d"
            os.mkdir(inside)
        with open(inside + b"/a", "wb"):
            pass
        assert [[path for path, _ in page] for page in walk(os.fsencode(deep))] == [[inside + b"/a"]]
    finally:
        subprocess.run(["rm", "-rf", str(deep)], check=True)


def test_writes_leave_nothing_behind(tmp_path):
    store = LocalStore(str(tmp_path))
    etag = store.put("x/a", b"1", if_absent=True)
    store.put("x/a", b"2", if_match=etag)
    store.put("x/a", b"3")
    for wrong in ({"if_absent": True}, {"if_match": "nonsense"}):
        with pytest.raises(Exception, match=r"exists already|changed by somebody"):
            store.put("x/a", b"4", **wrong)
    assert os.listdir(tmp_path / "x") == ["a"]
    assert (tmp_path / "x/a").read_bytes() == b"3"
    assert stat.S_IMODE((tmp_path / "x/a").stat().st_mode) == 0o666 & ~_umask()


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        LocalStore(str(tmp_path / "file")).put("a", b"")


def test_check(tmp_path):
    LocalStore(str(tmp_path)).check()
    with pytest.raises(SourceError, match="there is no folder"):
        LocalStore(str(tmp_path / "nothing")).check()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError, match="is not a folder"):
        LocalStore(str(tmp_path / "file")).check()


def test_a_reader_travels(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    reader = pickle.loads(pickle.dumps(ImageReader()))
    assert reader.read_image(f"file://{tmp_path}/a.jpg")[0] == b"x"


def _read_or_reason(store):
    try:
        data, etag = store.fetch("a")
    except ImageError as error:
        return error.code, 0, ""
    return "", len(data), etag


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
