"""Single reads that fail: a row with the reason, tried again by later runs; many in a row are an outage."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from driving import tagger
from tables import assert_same_rows, by_name, rows_of

from tagger.testing import Answer, RawS3, make_photos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

FAULTS = {
    0: (Answer(404, "NoSuchKey"), "not_found"),
    1: (Answer(412, "PreconditionFailed"), "changed"),
    2: (Answer(403, "AccessDenied"), "forbidden"),
    3: (Answer(500, "InternalError"), "read_error"),
    4: (Answer(cut_at=5000), "read_error"),
    5: (Answer(0, silent_s=30), "timeout"),
}
ENV = {"TAGGER_PATIENCE_S": "2", "TAGGER_REQUEST_TIMEOUT_S": "2"}


def test_reads_that_fail_and_a_store_that_throttles(tmp_path: Path) -> None:
    collection = str(tmp_path / "collection")
    photos = dict(make_photos(150))
    names = list(photos)
    faulty = {names[number]: answer for number, (answer, _) in FAULTS.items()}
    with RawS3(photos) as server:
        line = ("tag", server.uri, collection, "--chunk-rows", "32", "--json")
        server.fault = _each_key_throttled_once(faulty)
        first = tagger(*line, env={**server.env(), **ENV}).require().json
        assert (first["listed"], first["tagged"], first["failed"]) == (150, 144, 6)
        rows = by_name(collection)
        assert [rows[names[number]]["error"] for number in FAULTS] == [code for _, code in FAULTS.values()]
        assert {row["error"] for name, row in rows.items() if name not in faulty} == {None}
        before = rows_of(collection, drop=())
        # The store is well again: exactly those are taken up, and every other row stays as it was.
        server.fault = lambda _method, _key: None
        second = tagger(*line, env=server.env()).require().json
    assert (second["skipped"], second["planned"], second["tagged"]) == (144, 6, 6)
    after = rows_of(collection, drop=())
    kept = [image_id.rpartition("/")[2] not in faulty for image_id in after.column("image_id").to_pylist()]
    assert_same_rows(before.filter(kept), after.filter(kept))
    assert set(after.column("status").to_pylist()) == {"tagged"}
    tagger("check", collection).require()


def test_images_that_stay_away_end_no_later_run(tmp_path: Path) -> None:
    # A manifest names 250 files that are gone for good, between some that are there.
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    names = []
    for n, (name, data) in enumerate(make_photos(10)):
        (folder / name).write_bytes(data)
        names += [name, *(f"gone-{n}-{i}.jpg" for i in range(25))]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("uri\n" + "".join(f"{folder}/{name}\n" for name in names))
    first = tagger("tag", manifest, collection, "--json").require(3).json
    assert (first["tagged"], first["failed"]) == (10, 250)
    again = tagger("tag", manifest, collection, "--json").require(3).json
    assert (again["skipped"], again["planned"], again["failed"]) == (10, 250, 250)
    assert len(rows_of(collection)) == 260
    tagger("check", collection).require()


def test_a_store_that_refuses_everything_is_an_outage(tmp_path: Path) -> None:
    collection = str(tmp_path / "collection")
    with RawS3(dict(make_photos(300))) as server:
        line = ("tag", server.uri, collection, "--chunk-rows", "32")
        server.fault = lambda method, _key: Answer(403, "AccessDenied") if method == "GET" else None
        outcome = tagger(*line, env={**server.env(), **ENV}).require(1)
    assert "in a row" in outcome.sentence
    assert "same command" in outcome.sentence
    assert len(rows_of(collection)) == 0


def _each_key_throttled_once(faulty: dict[str, Answer]) -> Callable[[str, str], Answer | None]:
    seen: set[str] = set()
    lock = threading.Lock()

    def fault(method: str, key: str) -> Answer | None:
        if method != "GET":
            return None
        if key in faulty:
            return faulty[key]
        with lock:
            first = key not in seen
            seen.add(key)
        return Answer(503, "SlowDown") if first else None

    return fault
