"""`tagger demo`: the whole way, on the photos that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from driving import tagger
from tables import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_demo_tags_and_reports(tmp_path: Path) -> None:
    record = tagger("demo", tmp_path / "demo", "--json").require().json
    assert list(record) == ["photos", "collection", "report", "run", "index"]
    photos = list(Path(record["photos"]).iterdir())
    rows = rows_of(record["collection"]).to_pylist()
    assert record["run"]["tagged"] == len(photos) == len(rows) >= 5
    assert all(row["status"] == "tagged" for row in rows)
    assert sum(bool(row["tags"]) for row in rows) >= 0.8 * len(rows)
    report = Path(record["report"].removeprefix("file://"))
    assert report.read_text().lower().startswith("<!doctype html>")
    # Once more in the same folder: nothing is tagged twice.
    again = tagger("demo", tmp_path / "demo").require()
    assert record["report"].rpartition("/")[0].rpartition("/runs/")[0] in again.stdout
    assert len(rows_of(record["collection"])) == len(rows)
