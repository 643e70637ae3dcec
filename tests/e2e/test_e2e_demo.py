"""`tagger demo`: the whole way, on the photos that come with the package."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import httpx
import pytest
from driving import Driver, tagger, wait_for
from tables import rows_of

import tagger as tagger_api

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
    # Each photo as a file finds itself: the query goes through the decoder and the model of the collection.
    assert record["index"]["count"] == len(photos)
    opened = tagger_api.open(record["collection"])
    for photo in photos:
        best = opened.search(photo, k=2).matches
        assert best[0].image_id == f"file://{photo}"
        assert best[0].score > 0.999 > best[1].score
    kitten = next(photo for photo in photos if photo.name == "kitten.jpg")
    found = tagger("search", record["collection"], kitten, "-k", "2", "--json").require().json["matches"]
    assert found[1]["image_id"].endswith("/chelsea.jpg")  # the other cat that looks at the camera
    assert {tag["tag"] for tag in found[1]["categories"]} >= {"cat", "animal"}
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    refused = tagger("search", record["collection"], text).require(2)
    assert "the picture cannot be searched for (unsupported_format)" in refused.sentence
    # Once more in the same folder: nothing is tagged twice; and now the page is served at the end.
    with Driver("demo", tmp_path / "demo", "--serve", terminal=False) as driver:
        page = wait_for("the page", lambda: re.search(r"^page +(http://\S+)", driver.stdout, re.MULTILINE))
        assert "<title>tagger" in httpx.get(page[1]).text
        driver.process.send_signal(signal.SIGINT)
        again = driver.wait(30).require()
    assert record["report"].rpartition("/")[0].rpartition("/runs/")[0] in again.stdout
    assert len(rows_of(record["collection"])) == len(rows)
