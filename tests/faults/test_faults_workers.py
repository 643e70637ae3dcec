"""Workers, actors and decoders that die in the middle of a run."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGSTOP
from typing import TYPE_CHECKING

import pytest
from blows import ACTOR, DECODER, FETCHER, PHOTOS, READER, Sluice, strike
from driving import Driver, tagger
from tables import assert_same_rows, by_name, rows_of

from tagger.testing import make_photos

if TYPE_CHECKING:
    from tagger.testing import RawS3

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SERVICES = (
    r"monitor\.py|dashboard/dashboard\.py|ray::(Dashboard|RuntimeEnv)Agent"
    r"|_StatsActor|AutoscalingCoordinator|ActorLocationTracker"
)
"""What a cluster of our own does without (docs/decisions/0014-lean-local-cluster.md)."""

HERE = Path(__file__).parent
FAULTY = HERE / "faulty.py"
PYTHONPATH = os.pathsep.join([str(HERE), str(HERE.parent / "vision"), os.environ.get("PYTHONPATH", "")])


def test_workers_killed_one_after_the_other(counting_server: RawS3, undisturbed: str, tmp_path: Path) -> None:
    collection = str(tmp_path / "collection")
    line = ("tag", f"{counting_server.uri}/photos", collection, "--chunk-rows", "32", "--json")
    with Driver(*line, env=counting_server.env()) as driver, Sluice(counting_server) as sluice:
        for share, victim in ((0.1, FETCHER), (0.3, ACTOR), (0.4, DECODER), (0.5, FETCHER), (0.7, ACTOR)):
            sluice.open(share * PHOTOS + 5 * 32)  # the chunks that the fetch tasks have in hand, and some
            driver.wait_until_done(share * PHOTOS)
            strike(driver, victim)
        services = driver.processes(SERVICES)
        sluice.open(PHOTOS)
        record = driver.wait().require().json
        driver.wait_until_gone(40)
    assert services == {}
    assert (record["planned"], record["tagged"], record["failed"]) == (PHOTOS, PHOTOS, 0)
    assert_same_rows(rows_of(undisturbed), rows_of(collection))
    tagger("check", collection).require()


def test_a_worker_killed_between_two_outputs_of_one_task(
    counting_server: RawS3, undisturbed: str, tmp_path: Path
) -> None:
    """The task that reads the plan gives many blocks, one after the other; its retry gives them all again."""
    collection = str(tmp_path / "collection")
    line = ("tag", f"{counting_server.uri}/photos", collection, "--chunk-rows", "32", "--json")
    slow = {"TEST_READER": "slow", "TEST_SECONDS_PER_CHUNK": "0.3", "PYTHONPATH": PYTHONPATH}
    with Driver(*line, env={**counting_server.env(), **slow}, script=FAULTY) as driver:
        for done in (64, 320):
            driver.wait_until_done(done)
            strike(driver, READER)
        record = driver.wait().require().json
    assert (record["planned"], record["tagged"], record["failed"]) == (PHOTOS, PHOTOS, 0)
    assert_same_rows(rows_of(undisturbed), rows_of(collection))
    tagger("check", collection).require()


def test_files_that_crash_or_hang_the_decoder(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    bad = {
        "segfault": "crash",
        "abort": "crash",
        "kill": "crash",
        "exit 3": "crash",
        "hog": "crash",
        "bug": "crash",
        "spin": "timeout",
        "spin-locked": "timeout",
        "stop": "timeout",
        f"kill-once {tmp_path}/killed": None,
    }
    for number, order in enumerate(bad):
        (folder / f"bad-{number}.jpg").write_bytes(f"!{order}".encode())
    photos = dict(make_photos(40))
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    line = ("tag", folder, collection, "--decode-timeout-s", "2", "--chunk-rows", "25", "--json")
    env = {"TEST_DECODE": "vision_faults:decode", "PYTHONPATH": PYTHONPATH}
    with Driver(*line, env=env, script=FAULTY) as driver:
        record = driver.wait().require(3).json
        driver.wait_until_gone(40)
    rows = by_name(collection)
    assert record["planned"] == len(rows) == len(bad) + len(photos)
    assert [rows[f"bad-{number}.jpg"]["error"] for number in range(len(bad))] == list(bad.values())
    assert all(rows[name]["status"] == "tagged" for name in photos)


@pytest.mark.soak
def test_a_decoder_that_is_stopped_from_outside(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    for name, data in make_photos(200):
        (folder / name).write_bytes(data)
    line = ("tag", folder, collection, "--decode-timeout-s", "2", "--chunk-rows", "16", "--json")
    env = {"TEST_TAGGER": "slow", "TEST_SECONDS_PER_CHUNK": "0.3", "PYTHONPATH": PYTHONPATH}
    with Driver(*line, env=env, script=FAULTY) as driver:
        driver.wait_until_done(32)
        stopped = strike(driver, DECODER, SIGSTOP)
        record = driver.wait().require().json
        assert stopped not in driver.processes()
    assert record["planned"] == 200
    assert record["failed"] <= 1  # the one image that it may have had in hand
    again = tagger("tag", *line[1:3], "--json").require().json
    assert (again["planned"], again["failed"]) == (record["failed"], 0)


def test_a_chunk_that_ends_its_model_actor_ends_the_run(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    for name, data in make_photos(200):
        (folder / name).write_bytes(data)
    env = {"TEST_TAGGER": "deadly", "PYTHONPATH": PYTHONPATH}
    with Driver("tag", folder, collection, "--chunk-rows", "32", env=env, script=FAULTY) as driver:
        outcome = driver.wait().require(1)
        driver.wait_until_gone(40)
    assert "chunk 3 " in outcome.sentence
    assert set(rows_of(collection).column("status").to_pylist()) <= {"tagged"}
    tagger("check", collection).require()
