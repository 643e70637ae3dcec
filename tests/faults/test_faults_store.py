"""The store goes away, and the disk is full."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from driving import Driver, tagger
from tables import rows_of

from tagger.testing import SeaweedFS, make_photos, put_photos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.xdist_group("ray")]

N = 600
OUTAGE_S = 4.0


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """A server of this test's own, which it may kill."""
    with SeaweedFS(tmp_path / "seaweedfs") as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_store_that_goes_away(own_server: SeaweedFS) -> None:
    bucket = own_server.bucket()
    put_photos(bucket, make_photos(N), prefix="photos/")
    source, collection = f"{bucket.uri}/photos", f"{bucket.uri}/collection"
    line = ("tag", source, collection, "--chunk-rows", "32", "--json")

    # For good: the run ends with a sentence, and writes no row for what it could not read.
    with Driver(*line, env={"TAGGER_PATIENCE_S": "2", "TAGGER_REQUEST_TIMEOUT_S": "5"}) as driver:
        driver.wait_until_done(1)
        own_server.kill()
        outcome = driver.wait(90).require(1)
        driver.wait_until_gone(40)
    assert bucket.name in outcome.sentence
    assert own_server.secret_key not in outcome.stderr
    own_server.start()
    rows = rows_of(collection)
    assert set(rows.column("status").to_pylist()) <= {"tagged"}

    # The next run takes up the rest, and outlives an outage of some seconds.
    with Driver(*line) as driver:
        driver.wait_until_done(1)
        own_server.kill()
        time.sleep(OUTAGE_S)  # not for luck: this is how long the outage is
        own_server.start()
        record = driver.wait().require().json
    assert (record["skipped"], record["tagged"], record["failed"]) == (len(rows), N - len(rows), 0)
    assert len(rows_of(collection)) == N
    tagger("check", collection).require()


@pytest.mark.soak
def test_a_collection_whose_store_goes_away(own_server: SeaweedFS, tmp_path: Path) -> None:
    bucket, folder = own_server.bucket(), tmp_path / "photos"
    folder.mkdir()
    for name, data in make_photos(300):
        (folder / name).write_bytes(data)
    line = ("tag", folder, f"{bucket.uri}/collection", "--chunk-rows", "32", "--json")
    with Driver(*line, env={"TAGGER_PATIENCE_S": "2", "TAGGER_REQUEST_TIMEOUT_S": "5"}) as driver:
        driver.wait_until_done(1)
        own_server.kill()
        outcome = driver.wait(120).require(1)
        driver.wait_until_gone(40)
    assert bucket.name in outcome.sentence
    own_server.start()
    record = tagger(*line).require().json
    assert record["skipped"] + record["tagged"] == record["listed"] == 300
    assert len(rows_of(f"{bucket.uri}/collection")) == 300
    tagger("check", f"{bucket.uri}/collection").require()


def test_a_full_disk(tmp_path: Path) -> None:
    folder, disk = tmp_path / "photos", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    for name, data in make_photos(300):
        (folder / name).write_bytes(data)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        line = ("tag", folder, disk / "collection", "--chunk-rows", "64", "--json")
        outcome = tagger(*line).require(1)
        assert "space" in outcome.sentence
        assert str(disk) in outcome.sentence
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        record = tagger(*line).require().json
        assert record["skipped"] + record["tagged"] == record["listed"] == 300
        assert len(rows_of(str(disk / "collection"))) == 300
        tagger("check", disk / "collection").require()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
