"""Every image accounted for, over the life of a bucket: first run, nothing new, changes, other prefixes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from badfiles import bad_files
from driving import tagger
from tables import assert_same_rows, by_name, rows_of, runs_of

from tagger.testing import make_photos, put_photos

if TYPE_CHECKING:
    from pathlib import Path

    from tagger.testing import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.xdist_group("ray")]

KEYS = [
    *("run_id", "listed", "skipped", "planned", "deferred", "tagged", "failed", "removed"),
    *("seconds", "images_per_s", "table_version"),
]
CHECK_KEYS = ("ok", "rows", "tagged", "failed", "findings")
N = 120


def test_a_bucket_over_its_life(bucket: Bucket) -> None:
    source, collection = f"{bucket.uri}/photos", f"{bucket.uri}/photos/results"
    keys = put_photos(bucket, make_photos(N), prefix="photos/")
    broken = [case for case in bad_files() if case.expected == {"corrupt"}][:9]
    bucket.put_all((f"photos/{case.name}", case.data) for case in broken)
    bucket.put("photos/marker/", b"")
    bucket.put("photos/_SUCCESS", b"")
    bucket.put("photos/zero.jpg", b"")
    bucket.put("elsewhere/photo.jpg", bucket.get(keys[0]))

    first = tagger("tag", source, collection, "--max-failed", "0.05", "--json").require(3).json
    assert list(first) == KEYS
    assert (first["listed"], first["tagged"], first["failed"]) == (N + 10, N, 10)
    assert first["planned"] == first["listed"]
    assert first["images_per_s"] == pytest.approx(first["planned"] / first["seconds"], rel=0.01)
    checked = tagger("check", collection, "--json").require().json
    assert {key: checked[key] for key in CHECK_KEYS} == {
        "ok": True,
        "rows": N + 10,
        "tagged": N,
        "failed": 10,
        "findings": [],
    }
    failed = tagger("failures", collection, "--json").require().json["failures"]
    assert Counter(entry["error"] for entry in failed) == {"corrupt": 9, "empty": 1}
    before = by_name(collection)

    # Nothing has changed: no image is planned, and the modules that would tag are not even imported.
    second = tagger("tag", source, collection, "--json", env={"PYTHONPROFILEIMPORTTIME": "1"}).require()
    assert second.json["planned"] == second.json["tagged"] == second.json["failed"] == 0
    assert (second.json["listed"], second.json["skipped"]) == (N + 10, N + 10)
    assert second.json["seconds"] < 20
    imported = {line.rpartition("|")[2].strip() for line in second.stderr.splitlines()}
    assert {"ray", "torch", "openvino"} & imported == set()
    assert by_name(collection) == before

    # 5 changed, 5 new, 5 removed, and one of the broken ones mended.
    put_photos(bucket, make_photos(5, seed=7), prefix="photos/")
    put_photos(bucket, ((f"new-{name}", data) for name, data in make_photos(5, seed=8)), prefix="photos/")
    bucket.delete(keys[-5:])
    bucket.put(f"photos/{broken[0].name}", bucket.get(keys[50]))
    third = tagger("tag", source, collection, "--prune", "--json").require().json
    assert third["listed"] == N + 10 and third["skipped"] == N + 10 - 11  # noqa: PT018 - one statement
    assert (third["planned"], third["tagged"], third["removed"]) == (11, 11, 5)
    after = by_name(collection)
    changed = [key.rpartition("/")[2] for key in keys[:5]]
    new = [f"new-{name}" for name in changed]
    gone = [key.rpartition("/")[2] for key in keys[-5:]]
    assert set(after) == set(before) - set(gone) | set(new)
    touched = {name for name in after if after[name] != before.get(name)}
    assert touched == {*changed, *new, broken[0].name}
    assert all(after[name]["sha256"] != before[name]["sha256"] for name in changed)
    assert {after[name]["run_id"] for name in touched} == {third["run_id"]}
    tagger("check", collection).require()


def test_nothing_is_lost_unasked(bucket: Bucket, tmp_path: Path) -> None:
    collection = str(tmp_path / "collection")
    photos = put_photos(bucket, make_photos(60), prefix="photos/")
    put_photos(bucket, make_photos(40, seed=1), prefix="photos-2/")
    tagger("tag", f"{bucket.uri}/photos", collection, "--json").require()
    before = rows_of(collection, drop=())

    # A second prefix, whose name begins like the first, narrowed and limited.
    part = ("--include", "*.jpg", "--exclude", "*7.jpg")
    other = f"{bucket.uri}/photos-2"
    limited = tagger("tag", other, collection, *part, "--limit", "10", "--json").require().json
    assert (limited["listed"], limited["planned"], limited["deferred"]) == (36, 10, 26)
    assert len(rows_of(collection)) == 70
    assert "--limit" in tagger("tag", other, collection, "--limit", "3", "--prune").require(2).sentence
    rest = tagger("tag", other, collection, *part, "--prune", "--json").require().json
    assert (rest["skipped"], rest["planned"], rest["removed"], rest["deferred"]) == (10, 26, 0, 0)
    both = rows_of(collection, drop=())
    assert_same_rows(before, _under(both, f"{bucket.uri}/photos/"))
    assert len(both) == 96

    # What a glob leaves out was not asked for, and is not gone.
    narrow = ("--include", "*1.jpg", "--prune", "--json")
    assert tagger("tag", f"{bucket.uri}/photos", collection, *narrow).require().json["removed"] == 0
    assert_same_rows(both, rows_of(collection, drop=()))

    # A few images gone: their rows stay until --prune. All gone: they stay until --yes.
    bucket.delete(photos[:2])
    assert tagger("tag", f"{bucket.uri}/photos", collection, "--json").require().json["removed"] == 0
    assert_same_rows(both, rows_of(collection, drop=()))
    bucket.delete(photos)
    for _ in range(2):
        refused = tagger("tag", f"{bucket.uri}/photos", collection, "--prune", "--json").require(2)
        assert refused.sentence
        assert_same_rows(both, rows_of(collection, drop=()))
    agreed = tagger("tag", f"{bucket.uri}/photos", collection, "--prune", "--yes", "--json").require().json
    assert (agreed["listed"], agreed["removed"]) == (0, 60)
    assert_same_rows(_under(both, f"{other}/"), rows_of(collection, drop=()))
    tagger("check", collection).require()


def test_two_models_in_one_pass_and_failures_again(bucket: Bucket, tmp_path: Path) -> None:
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    keys = put_photos(bucket, make_photos(40))
    broken = [case for case in bad_files() if case.expected == {"corrupt"}][:2]
    bucket.put_all((case.name, case.data) for case in broken)

    record = tagger("tag", bucket.uri, one, "--also", f"efficientnet_lite2={two}", "--json").require().json
    assert (record["listed"], record["planned"], record["tagged"], record["failed"]) == (42, 42, 40, 2)
    rows, others = by_name(one), by_name(two)
    assert set(rows) == set(others)
    for name, row in rows.items():
        assert row["model_id"] != others[name]["model_id"]
        shared = [*("sha256", "etag", "error", "width_px", "colors", "phash", "run_id", "status")]
        assert [row[key] for key in shared] == [others[name][key] for key in shared]
    again = tagger("tag", bucket.uri, one, "--also", f"efficientnet_lite2={two}", "--json").require().json
    assert (again["planned"], again["skipped"]) == (0, 42)

    # Failures that would repeat are tried again on demand only, and stay one row.
    retried = tagger("tag", bucket.uri, two, "--model", "efficientnet_lite2", "--retry-failed", "--json")
    assert (retried.require(3).json["planned"], retried.json["failed"]) == (2, 2)
    assert len(by_name(two)) == 42

    # Another second collection, still empty, and one image changed: all are taken up, each once.
    bucket.put(keys[3], bucket.get(keys[4]))
    record = tagger("tag", bucket.uri, one, "--also", f"efficientnet_lite2={three}", "--json").require().json
    assert (record["planned"], record["skipped"]) == (42, 0)
    fresh = by_name(three)
    assert len(fresh) == len(by_name(one)) == 42
    assert fresh[keys[3]]["sha256"] == fresh[keys[4]]["sha256"] == by_name(one)[keys[3]]["sha256"]
    same = set(rows) - {keys[3]}
    volatile = dict.fromkeys(("run_id", "tagged_at"))
    assert {name: fresh[name] | volatile for name in same} == {name: others[name] | volatile for name in same}
    assert len(runs_of(one)) == 1
    for collection in (one, two, three):
        tagger("check", collection).require()


def _under(rows: object, prefix: str) -> object:
    import pyarrow.compute as pc

    return rows.filter(pc.starts_with(rows.column("uri"), prefix))  # type: ignore[attr-defined]
