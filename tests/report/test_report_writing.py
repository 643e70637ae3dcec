"""`write_report` on real collections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from report_samples import add_run, failed_row, new_collection, photo_rows, tagged_row

from tagger.collection import Collection
from tagger.errors import UsageError
from tagger.report import ReportOptions, write_report
from tagger.storage import open_store
from tagger.testing import RawS3

if TYPE_CHECKING:
    from tagger.testing import Bucket


def test_the_report_goes_to_the_newest_finished_run(tmp_path: Path, photo_bytes: dict[str, bytes]):
    folder = tmp_path / "photos"
    photos = [(f"{name}.jpg", photo_bytes[name], name) for name in ("coffee", "chelsea", "rocket")]
    rows = photo_rows(folder, photos)
    collection = new_collection(tmp_path / "collection")
    add_run(collection, rows)
    newest = add_run(collection, [failed_row("file:///nowhere.jpg", "not_found", "there is no such file")])
    add_run(collection, [], state="interrupted")
    result = write_report(Collection.open(str(tmp_path / "collection")))
    assert result.out == f"{tmp_path}/collection/runs/{newest}/report.html"
    assert (result.images, result.tagged, result.failed) == (4, 3, 1)
    page = Path(result.out).read_text(encoding="utf-8")
    assert result.size_bytes == len(page.encode())
    # Three photos, on the sheets of «thing», of «picture», and their own.
    assert page.count('src="data:image/webp;base64,') == 9
    assert "could not be read again" not in page
    for word in ("coffee", "chelsea", "rocket", "file:///nowhere.jpg", newest):
        assert word in page
    assert result.to_json() == {
        "out": result.out,
        "size_bytes": result.size_bytes,
        "images": 4,
        "tagged": 3,
        "failed": 1,
    }


def test_out_names_another_file(tmp_path: Path):
    collection = new_collection(tmp_path / "collection")
    with pytest.raises(UsageError, match="--out"):
        write_report(collection)
    out = tmp_path / "deep" / "r.html"
    result = write_report(collection, out=str(out))
    assert result.out == str(out)
    assert "Nothing is tagged yet" in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["r.html"]


def test_an_out_that_cannot_be_written_is_wrong_usage(tmp_path: Path):
    collection = new_collection(tmp_path / "collection")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(collection, out=str(tmp_path / "file" / "r.html"))
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(collection, out=str(tmp_path))


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("s3://bucket", "names no file: add one, such as s3://bucket/report.html"),
        ("s3://bucket/", "names no file: add one, such as s3://bucket/report.html"),
        ("gs://bucket/reports/", "names no file: add one, such as gs://bucket/reports/report.html"),
        ("s3://", "needs a bucket"),
        ("s3:///report.html", "needs a bucket"),
        ("ftp://host/report.html", "unknown address ftp://"),
        ("", "address is empty"),
    ],
)
def test_an_out_that_names_no_file_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, reason: str
):
    collection = new_collection(tmp_path / "collection")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=reason):
        write_report(collection, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["collection"]


def test_out_as_an_address(tmp_path: Path):
    collection = new_collection(tmp_path / "collection")
    result = write_report(collection, out=f"file://{tmp_path}/100%25AB/%FF.html")
    assert os.fsencode(result.out) == os.fsencode(tmp_path) + b"/100%AB/\xff.html"
    assert Path(result.out).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert write_report(collection, out="memory://reports/a/b.html").out == "memory://reports/a/b.html"
    assert open_store("memory://reports").exists("a/b.html")


def test_out_as_an_odd_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    collection = new_collection(tmp_path / "collection")
    with RawS3() as raw:
        for name, value in raw.env().items():
            monkeypatch.setenv(name, value)
        for key in ("a//b.html", "/c%2F.html", "d"):
            assert write_report(collection, out=f"S3{raw.uri[2:]}/{key}").out == f"{raw.uri}/{key}"
            assert raw.objects[key].startswith(b"<!doctype html>")


def test_pictures_that_are_gone_become_placeholders(tmp_path: Path, photo_bytes: dict[str, bytes]):
    rows = photo_rows(tmp_path / "photos", [("coffee.png", photo_bytes["coffee"], "espresso")])
    collection = new_collection(tmp_path / "collection")
    add_run(collection, rows)
    (tmp_path / "photos" / "coffee.png").unlink()
    page = Path(write_report(collection).out).read_text(encoding="utf-8")
    assert "coffee.png, not readable any more" in page
    assert "2 pictures could not be read again" in page
    assert "data:image" not in page


def test_options_bound_what_is_shown(tmp_path: Path, photo_bytes: dict[str, bytes]):
    photos = [
        (f"{i}.jpg", photo_bytes[name], f"tag {i % 2}")
        for i, name in enumerate(["coffee", "chelsea", "rocket"])
    ]
    collection = new_collection(tmp_path / "collection")
    add_run(collection, photo_rows(tmp_path / "photos", photos))
    options = ReportOptions(sheets=1, samples_per_sheet=2)
    page = Path(write_report(collection, options=options).out).read_text(encoding="utf-8")
    assert page.count('src="data:image/webp;base64,') == 2


@pytest.mark.s3
def test_a_collection_in_object_storage(bucket: Bucket, photo_bytes: dict[str, bytes], tmp_path: Path):
    from report_samples import facts_of

    key = 'in/"><img src=x onerror=alert(1)>//\t.png'
    etag = bucket.put(key, photo_bytes["coffee"])
    row = tagged_row(f"{bucket.uri}/{key}", facts_of(photo_bytes["coffee"]), [("espresso", 0.9)], etag=etag)
    collection = new_collection(f"{bucket.uri}/collection")
    run_id = add_run(collection, [row])
    result = write_report(collection)
    assert result.out == f"{bucket.uri}/collection/runs/{run_id}/report.html"
    page = bucket.get(f"collection/runs/{run_id}/report.html").decode()
    assert page.count('src="data:image/webp;base64,') == 1
    copy = write_report(collection, out=f"{bucket.uri}/copy.html")
    assert copy.out == f"{bucket.uri}/copy.html"
    assert bucket.get("copy.html").startswith(b"<!doctype html>")
