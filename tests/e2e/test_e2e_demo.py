"""`tagger demo`: the whole way, on the photos that come with the package."""

from __future__ import annotations

import csv
import re
import signal
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from driving import Driver, tagger, wait_for
from tables import rows_of

import tagger as tagger_api

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_demo_tags_and_reports(tmp_path: Path) -> None:
    record = tagger("demo", tmp_path / "demo", "--json").require().json
    assert list(record) == ["photos", "collection", "products", "report", "run", "index", "enriched"]
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
    _check_products(Path(record["products"]), record["enriched"])
    _check_taxonomy(Path(record["products"]), record["collection"])
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    refused = tagger("search", record["collection"], text).require(2)
    assert "the picture cannot be searched for (unsupported_format)" in refused.sentence
    # Once more in the same folder: nothing is tagged twice; and now the page is served at the end.
    with Driver("demo", tmp_path / "demo", "--serve", terminal=False) as driver:
        page = wait_for("the page", lambda: re.search(r"^page +(http://\S+)", driver.stdout, re.MULTILINE))
        assert "<title>tagger" in httpx.get(page[1]).text
        assert httpx.get(f"{page[1]}/v1/products", params={"flag": "image_missing"}).json()["total"] == 1
        driver.process.send_signal(signal.SIGINT)
        again = driver.wait(30).require()
    assert record["report"].rpartition("/")[0].rpartition("/runs/")[0] in again.stdout
    assert len(rows_of(record["collection"])) == len(rows)


SHOP = """\
category	cat	Pet supplies
category	dog	Pet supplies
category	espresso	Coffee corner
category	Coffee corner	Kitchen and dining
"""


def _check_taxonomy(folder: Path, collection: str) -> None:
    """The shop's own categories, said of the stored embeddings."""
    (folder / "shop.tsv").write_text(SHOP)
    out = folder / "own.parquet"
    arguments = ("--taxonomy", folder / "shop.tsv", "--out", out)
    tagger("enrich", collection, folder / "catalog.csv", *arguments).require()
    rows = {row["sku"]: row for row in pq.read_table(out).to_pylist()}
    said = {sku: row["category_suggestion"] for sku, row in rows.items() if row["category_suggestion"]}
    assert said["P-0011"] == "Kitchen and dining > Coffee corner"
    assert {sku for sku, category in said.items() if category == "Pet supplies"} >= {"P-0006", "P-0017"}
    assert "P-0004" not in said  # a bison is no pet
    assert rows["P-0011"]["category_source"] == "taxonomy"
    assert rows["P-0011"]["category_score"] > 0.9


def _check_products(folder: Path, record: dict[str, object]) -> None:
    """The sample catalog, with what was planted in it."""
    assert {path.name for path in folder.iterdir()} == {
        *("catalog.csv", "events.csv", "enriched.csv", "enriched.parquet", "unmatched.csv"),
        *("google.txt", "shopify.csv"),
    }
    assert (record["products"], record["enriched"], record["missing"]) == (40, 39, 1)
    products = {row["sku"]: row for row in pq.read_table(folder / "enriched.parquet").to_pylist()}
    flags = {sku: {one["flag"] for one in row["quality_flags"]} for sku, row in products.items()}
    assert "image_missing" in flags["P-0040"]
    assert "duplicate_of" in flags["P-0039"]  # a macaw once more
    assert products["P-0004"]["category"] == "Architecture"
    assert products["P-0004"]["category_suggestion"].endswith("bison")
    similar = {
        sku: [one["product_id"] for one in row["similar_products"] or ()] for sku, row in products.items()
    }
    assert "P-0009" not in similar["P-0022"]  # which shows the same kitten
    assert "P-0037" in similar["P-0001"]  # an aqueduct and an arch
    assert products["P-0006"]["alt_text"][0].startswith("Cat, mainly ")
    assert products["P-0001"]["recommended_with"]
    with (folder / "enriched.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert rows[0]["price"] == "19,90"
