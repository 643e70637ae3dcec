"""`tag --dry-run`: what a run would do, how long it would take, what it would cost; nothing is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driving import tagger

if TYPE_CHECKING:
    from pathlib import Path


def test_a_dry_run_tells_and_leaves_nothing(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    folder, collection = tmp_path / "photos", tmp_path / "collection"
    folder.mkdir()
    for name, data in jpegs.items():
        (folder / name).write_bytes(data)
    (folder / "broken.jpg").write_bytes(b"not an image")
    line = ("tag", folder, collection, "--dry-run")
    record = tagger(*line, "--price", "3.6", "--json").require().json
    assert list(record) == ["listed", "planned", "bytes", "estimated_seconds", "estimated_cost"]
    assert record["listed"] == record["planned"] == len(jpegs) + 1
    assert record["bytes"] == sum(map(len, jpegs.values())) + 12
    assert 1 < record["estimated_seconds"] < 600
    # 3.60 USD an hour is a thousandth of a dollar a second.
    assert abs(record["estimated_cost"] - record["estimated_seconds"] / 1000) < 0.001
    limited = tagger(*line, "--limit", "5", "--exclude", "*.nothing").require()
    assert "planned  5 images" in limited.stdout
    assert "cost" not in limited.stdout
    assert not collection.exists()
