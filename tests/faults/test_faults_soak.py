"""The long forms: ten thousand photos, killed at every stage, and blows at random."""

from __future__ import annotations

import os
import random
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest
from blows import ACTOR, DECODER, FETCHER, WRITER, reads_of
from driving import Driver, tagger, wait_for
from tables import assert_same_rows, delta, rows_of

from tagger.engine.ledger import FLUSH_S
from tagger.testing import RawS3, SeaweedFS, make_photos, put_photos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.soak, pytest.mark.s3, pytest.mark.timeout(3600)]

N = int(os.environ.get("SOAK_PHOTOS", "10000"))
COMMIT_S = 10.0  # that writing and committing a group may take on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A server of this module's own."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def bucket(server: SeaweedFS) -> str:
    """Address of a bucket with `N` photos."""
    bucket = server.bucket()
    put_photos(bucket, make_photos(N), prefix="photos/")
    return bucket.uri


@pytest.fixture(scope="module")
def undisturbed(bucket: str) -> str:
    """A collection made in one go, and checked."""
    collection = f"{bucket}/undisturbed"
    record = tagger("tag", f"{bucket}/photos", collection, "--json", timeout=1200).require().json
    assert record["listed"] == record["tagged"] + record["failed"] == N
    tagger("check", collection).require()
    return collection


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_once(bucket: str, undisturbed: str, share: float) -> None:
    collection = f"{bucket}/killed-{share}"
    line = ("tag", f"{bucket}/photos", collection)
    with Driver(*line) as driver:
        driver.wait_until_done(share * N, timeout=1200)
        driver.kill()
        shown = driver.shown
        driver.wait_until_gone(90)
    committed = int(delta(collection).to_pyarrow_dataset().count_rows())
    killed_at = shown[-1][0]
    settled = max((done for at, done, *_ in shown if at < killed_at - FLUSH_S - COMMIT_S), default=0)
    # The work of the last group is lost, and what the workers had in hand; nothing that is older.
    assert settled <= committed <= shown[-1][1]
    record = tagger(*line, "--json", timeout=1200).require().json
    assert (record["skipped"], record["planned"]) == (committed, N - committed)
    assert_same_rows(rows_of(undisturbed), rows_of(collection))
    tagger("check", collection).require()


@pytest.mark.parametrize("chunk_rows", [32, 512])
def test_a_killed_driver_loses_what_its_workers_hold(tmp_path: Path, chunk_rows: int) -> None:
    """At most 512 images for each of two fetch tasks and a model actor, beside what was not committed yet."""
    photos = {f"photos/{name}": data for name, data in make_photos(4000)}
    line = ("--chunk-rows", str(chunk_rows), "--cpus", "2")
    with RawS3(photos) as server:
        source = f"{server.uri}/photos"
        with Driver("tag", source, tmp_path / "collection", *line, env=server.env()) as driver:
            driver.wait_until_done(1500)
            driver.kill()
            done, reads = driver.done, reads_of(server)
            driver.wait_until_gone(40)
    assert done <= reads <= done + 3 * 512


def test_blows_at_random(bucket: str, undisturbed: str) -> None:
    collection = f"{bucket}/random"
    rng = random.Random(4)
    victims = [FETCHER, ACTOR, DECODER, WRITER]
    line = ("tag", f"{bucket}/photos", collection, "--chunk-rows", "64", "--json")
    with Driver(*line) as driver:
        for share in sorted(rng.uniform(0.02, 0.9) for _ in range(12)):
            driver.wait_until_done(share * N, timeout=1200)
            found = wait_for("a worker", lambda: driver.processes(rng.choice(victims)), timeout=60)
            os.kill(rng.choice(list(found)), SIGKILL)
        record = driver.wait(1200).require().json
        driver.wait_until_gone(90)
    assert (record["planned"], record["failed"]) == (N, 0)
    assert_same_rows(rows_of(undisturbed), rows_of(collection))
    tagger("check", collection).require()


def test_an_unchanged_bucket_takes_seconds(bucket: str, undisturbed: str) -> None:
    # Every image settled: ten thousand rows are compared, and nothing is started.
    record = tagger("tag", f"{bucket}/photos", undisturbed, "--json").require().json
    assert (record["planned"], record["skipped"]) == (0, N)
    assert record["seconds"] < 30
