"""Folders for temporary files: gone at the end, kept while in use, swept up after a killed process."""

from pathlib import Path

import pytest

import tagger
from tagger.errors import RunError
from tagger.spill import open_database, spill_folder


def test_a_folder_in_use_outlives_others(tmp_path: Path) -> None:
    with spill_folder(tmp_path, "one") as one:
        (one / "data").write_bytes(b"x")
        with spill_folder(tmp_path, "two") as two:
            assert (one / "data").exists()
        assert not two.exists()
        assert (one / "data").exists()
    assert not one.exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "spill" / "left"
    left.mkdir(parents=True)
    (left / "data").write_bytes(b"x")
    with spill_folder(tmp_path, "one"):
        assert not left.exists()


def test_a_cache_that_cannot_hold_one_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="TAGGER_CACHE"), spill_folder(tmp_path / "file", "one"):
        pass


def test_no_database_draws_a_bar_on_stdout() -> None:
    with open_database(threads=1) as database:
        option = "SELECT current_setting('enable_progress_bar'), current_setting('threads')"
        assert database.execute(option).fetchall() == [(False, 1)]
    others = [
        path for path in Path(tagger.__file__).parent.rglob("*.py") if "duckdb.connect(" in path.read_text()
    ]
    assert [path.name for path in others] == ["spill.py"]
