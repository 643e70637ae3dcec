"""Names: what is cut, what is encoded, and what obstore can ask for."""

import os

import obstore
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from obstore.store import LocalStore as ObstoreLocal
from obstore.store import MemoryStore

from tagger.errors import UsageError
from tagger.storage import canonical_uri, decode_path, encode_path, split_uri, survives_obstore

# Bytes that make or break the encoding come often.
PATHS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"%", b"%4", b"%41", b"%25", b"\xff", b"\xc3", b"\xc3\xa9", b"4", b"1", b"F", b"/", b"\n"]
        ),
        st.binary(min_size=1, max_size=2),
    ),
    max_size=8,
).map(b"".join)

ODD_KEYS = st.text(st.sampled_from("a./%\t\n\x7f#?+ é\u0301😀\\~"), min_size=1, max_size=9)


@given(PATHS)
@example(b"%41")
@example(b"%FF")
@example(b"\xff")
@example(b"%\xff")
@example(b"%4\xff")
@example(b"%%41")
def test_any_file_name_comes_back(path):
    assert decode_path(encode_path(path)) == path


@given(PATHS, PATHS)
def test_different_names_stay_different(one, other):
    assert (encode_path(one) == encode_path(other)) == (one == other)


def test_twins_of_percent_signs_and_bytes_are_told_apart():
    names = [b"%41", b"A", b"%FF", b"\xff", b"%", b"100%", b"%25FF", b"%ff"]
    assert len({encode_path(name) for name in names}) == len(names)
    assert encode_path(b"\xff.jpg") == "%FF.jpg"
    assert encode_path("é 100%.jpg".encode()) == "é 100%.jpg"


def test_a_name_from_the_command_line_keeps_its_bytes():
    assert decode_path(os.fsdecode(b"a\xffb")) == b"a\xffb"


@given(ODD_KEYS)
def test_keys_are_never_touched(key):
    assert split_uri(f"s3://bucket/{key}") == ("s3", "bucket", key)


@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"),
        ("S3://b/p/", "s3://b/p"),
        ("s3://b/p//", "s3://b/p"),
        ("s3://b/p%2F", "s3://b/p%2F"),
        ("az://c/x", "az://c/x"),
        ("/", "file://"),
        ("/nonexistent/x/", "file:///nonexistent/x"),
        ("file:///nonexistent/%FF", "file:///nonexistent/%FF"),
        ("/nonexistent/%FF", "file:///nonexistent/%25FF"),
    ],
)
def test_canonical_addresses(uri, canonical):
    assert canonical_uri(uri) == canonical
    assert canonical_uri(canonical) == canonical


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://", "s3:///key", "https://host/bucket"])
def test_wrong_addresses(uri):
    with pytest.raises(UsageError):
        split_uri(uri)


@given(ODD_KEYS)
def test_obstore_agrees_about_the_keys_it_can_ask_for(key):
    """A key that survives is stored under itself; of one that does not, obstore makes another or nothing."""
    store = MemoryStore()
    try:
        obstore.put(store, key, b"x")
        kept = [meta["path"] for page in obstore.list(store) for meta in page] == [key]
    except Exception:
        kept = False
    assert survives_obstore(key) == kept


def test_obstore_on_files_agrees(tmp_path):
    store = ObstoreLocal(tmp_path)
    obstore.put(store, "a b/ü😀%2F#?.jpg", b"x")
    assert survives_obstore("a b/ü😀%2F#?.jpg")
    assert [meta["path"] for page in obstore.list(store) for meta in page] == ["a b/ü😀%2F#?.jpg"]
