"""The sheet of outliers: whom it shows, how many are measured, and what it says where there is no index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from report_samples import add_run, facts_of, new_collection, peers, photo_rows, rows_table, tagged_row
from test_report_page import Strict, page_of

import tagger
from tagger.collection import part_name, write_part
from tagger.report import ReportOptions, write_report
from tagger.report.outliers import MOST_BYTES, MOST_MEASURED, outlier_sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tagger.search import Collection

DIM = 32
HOSTILE = '"><img src=x onerror=alert(1)>.jpg'


def bare_rows(vectors: np.ndarray, *, mark: str = "v1") -> list[dict[str, Any]]:
    """Return rows of images that are nowhere; equal hashes only for equal vectors."""
    return [
        {
            "image_id": f"image {i:04d}",
            "uri": f"s3://b/{i:04d}.jpg",
            "etag": mark,
            "status": "tagged",
            "tags": [],
            "categories": [],
            "phash": f"{int.from_bytes(vector.astype(np.float16).tobytes()[:8], 'big'):016x}",
            "embedding": vector,
            "embedding_norm": 1.0,
        }
        for i, vector in enumerate(vectors)
    ]


def indexed(folder: Path, rows: Sequence[dict[str, Any]]) -> Collection:
    add_run(new_collection(folder / "collection", dim=DIM), rows)
    opened = tagger.open(folder / "collection")
    opened.index()
    return opened


def sheet_text(collection: Collection, **limits: int) -> str:
    """Return what a report says, in words with one space between them."""
    row = {"image_id": "a", "uri": "a", "status": "tagged"}
    return " ".join(Strict(page_of([row], outliers=outlier_sheet(collection, 24, **limits))).text.split())


def brute_force(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean distance of each to its ten nearest, and which is nearest."""
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    return 1 - np.sort(cosine, axis=1)[:, -10:].mean(axis=1), cosine.argmax(axis=1)


def test_a_planted_outlier_is_first_with_its_picture_and_its_nearest(tmp_path: Path, jpegs: dict[str, bytes]):
    rows = photo_rows(tmp_path / "photos", [(name, data, "thing") for name, data in jpegs.items()])
    vectors = peers(len(rows), dim=DIM, strange=[7])
    for row, vector in zip(rows, vectors, strict=True):
        row["embedding"] = vector
    rows[7]["image_id"] = HOSTILE
    opened = indexed(tmp_path, rows)
    distance, nearest = brute_force(vectors)
    peer = rows[nearest[7]]["image_id"]
    sheet = outlier_sheet(opened, 24)
    assert (sheet.measured, sheet.images, sheet.lacking, sheet.behind) == (24, 24, None, None)
    assert [one.image_id for one in sheet.outliers] == [
        rows[i]["image_id"] for i in np.argsort(-distance)[:6]
    ]
    first = sheet.outliers[0]
    assert (first.image_id, first.uri, first.nearest.image_id) == (HOSTILE, rows[7]["uri"], peer)
    assert first.percentile == pytest.approx(23 / 24)

    page = Path(write_report(opened).out).read_text(encoding="utf-8")
    section = page.partition('<section id="outliers"')[2].partition("</section>")[0]
    parsed = Strict(f"<section{section}</section>")
    pictures = [attributes for tag, attributes in parsed.seen if tag == "img"]
    assert [one["title"] for one in pictures[:2]] == [HOSTILE, peer]
    assert len(pictures) == 12
    assert "95.8 %" in parsed.text
    assert parsed.text.count(HOSTILE) == 1  # in the list of names; over the picture it is the file's name
    assert "All 24 images in the index were compared" in parsed.text
    assert "could not be read again" not in page


def test_the_sheet_can_be_left_out(tmp_path: Path):
    opened = indexed(tmp_path, bare_rows(peers(5)))
    page = Path(write_report(opened, options=ReportOptions(outliers=0)).out).read_text(encoding="utf-8")
    assert "outliers" not in page.partition("</style>")[2]


def test_of_a_large_collection_a_sample_is_measured_against_all(tmp_path: Path):
    vectors = peers(400)
    opened = indexed(tmp_path, bare_rows(vectors))
    distance, nearest = brute_force(vectors)
    for limits in ({"most_measured": 60}, {"most_compared": 60 * 400}):
        sheet = outlier_sheet(opened, 8, **limits)
        assert sheet == outlier_sheet(opened, 8, **limits)
        assert (sheet.measured, sheet.images, len(sheet.outliers)) == (60, 400, 8)
        places = [int(one.image_id[-4:]) for one in sheet.outliers]
        assert places == sorted(places, key=lambda place: -distance[place])
        assert set(places) != set(np.argsort(-distance)[:8].tolist())
        assert [int(one.nearest.image_id[-4:]) for one in sheet.outliers] == nearest[places].tolist()
        assert [one.percentile for one in sheet.outliers] == pytest.approx(
            [(59 - rank) / 60 for rank in range(8)]
        )
        text = sheet_text(opened, **limits)
        assert "60 of the 400 images in the index were picked at random and compared with all" in text
    whole = outlier_sheet(opened, 8)
    assert whole.measured == 400 <= MOST_MEASURED
    assert [int(one.image_id[-4:]) for one in whole.outliers] == np.argsort(-distance)[:8].tolist()


def test_an_outlier_that_is_there_twice_is_shown_once(tmp_path: Path):
    vectors = peers(20, strange=[3, 11])
    vectors[5] = vectors[3]
    sheet = outlier_sheet(indexed(tmp_path, bare_rows(vectors)), 3)
    ids = [one.image_id for one in sheet.outliers]
    assert len({"image 0003", "image 0005"} & set(ids)) == 1
    assert "image 0011" in ids


def test_images_that_are_gone_or_changed_since_the_index_was_made_are_not_shown(tmp_path: Path):
    vectors = peers(30, strange=[4, 9, 13])
    opened = indexed(tmp_path, bare_rows(vectors))
    assert {one.image_id for one in outlier_sheet(opened, 3).outliers} == {
        f"image {place:04d}" for place in (4, 9, 13)
    }
    changed = bare_rows(vectors, mark="v2")[9]
    with opened.writer("r2", "tagger prune") as writer:
        writer.remove_ids(["image 0004", "image 0009"])
        writer.commit([write_part(opened.store, rows_table([changed], "r2"), part_name("r2"))])
    opened = tagger.open(tmp_path / "collection")
    sheet = outlier_sheet(opened, 3)
    assert [one.image_id for one in sheet.outliers] == ["image 0013"]
    assert sheet.behind is not None
    text = sheet_text(opened)
    assert "Note that the index shows version" in text
    assert "tagger index COLLECTION brings it up to date" in text
    with opened.writer("r3", "tagger prune") as writer:
        writer.remove_ids([row["image_id"] for row in bare_rows(vectors)])
    text = sheet_text(tagger.open(tmp_path / "collection"))
    assert "No outliers can be shown, because the index shows version" in text
    assert "run `tagger index COLLECTION` to see outliers" in text


def test_without_an_index_the_report_says_how_to_get_one(tmp_path: Path, photo_bytes: dict[str, bytes]):
    add_run(
        new_collection(tmp_path / "collection"), [tagged_row("s3://b/a", facts_of(photo_bytes["coffee"]), [])]
    )
    page = Path(write_report(tagger.open(tmp_path / "collection")).out).read_text(encoding="utf-8")
    assert "No index yet" in page
    assert "Run <code>tagger index COLLECTION</code> to see outliers" in page


@pytest.mark.parametrize("name", ["index/CURRENT", "index/*/ids.parquet", "index/*/index.json"])
def test_an_index_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path, name: str):
    opened = indexed(tmp_path, bare_rows(peers(5)))
    damaged = next((tmp_path / "collection").glob(name))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    opened = tagger.open(tmp_path / "collection")
    page = Path(write_report(opened).out).read_text(encoding="utf-8")
    assert "The index cannot be used" in page
    text = sheet_text(opened)
    assert "No outliers can be shown, because" in text
    assert damaged.name in text
    assert "make the index again with `tagger index COLLECTION --rebuild`." in text


def test_too_few_images_and_too_large_an_index_are_told(tmp_path: Path):
    two = indexed(tmp_path / "two", bare_rows(peers(2)))
    assert "Outliers need 3 images in the index, and it has 2: run tagger index" in sheet_text(two)
    three = indexed(tmp_path / "three", bare_rows(peers(3)))
    assert len(outlier_sheet(three, 24, most_bytes=MOST_BYTES).outliers) == 1
    assert "run tagger outliers COLLECTION to see outliers" in sheet_text(three, most_bytes=1000)
    alike = indexed(tmp_path / "alike", bare_rows(np.repeat(peers(1), 4, axis=0)))
    assert "No image in the index has another picture to be compared with" in sheet_text(alike)
