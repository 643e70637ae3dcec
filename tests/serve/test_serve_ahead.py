"""Reading ahead is a hint: whatever it meets, the command that opens the index tells it, and it does not."""

from __future__ import annotations

import threading

import pytest

from tagger.serve.ahead import read_ahead


def finished():
    for thread in threading.enumerate():
        if thread.name == "tagger-read-ahead":
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("pointer", "manifest"),
    [
        (None, None),
        ("", None),
        ("v1 0\n", None),
        ("v1 0\n", "{"),
        ("v1 0\n", "[]"),
        ("v1 0\n", '{"files": [{"name": "gone", "version": "v1"}]}'),
        ("v1 0\n", '{"files": [{"name": 5, "version": null}]}'),
    ],
)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_damaged_is_left_to_others(tmp_path, capfd, pointer, manifest):
    (tmp_path / "index" / "v1").mkdir(parents=True)
    if pointer is not None:
        (tmp_path / "index" / "CURRENT").write_text(pointer)
    if manifest is not None:
        (tmp_path / "index" / "v1" / "index.json").write_text(manifest)
    for collection in (str(tmp_path), tmp_path.as_uri(), str(tmp_path / "nothing"), "s3://bucket/collection"):
        read_ahead(collection)
        finished()
    assert capfd.readouterr() == ("", "")
