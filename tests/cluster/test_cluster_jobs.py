"""Jobs on a real cluster: submitted, followed, left, stopped, killed, submitted twice."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blows import Sluice
from cluster_kit import BIN, ROOT, JobServer
from driving import Driver, tagger, wait_for
from tables import assert_same_rows, rows_of
from wire import Wire

from tagger.testing import RawS3, make_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each test waits for processes of a whole cluster, more than the usual limit allows where cores are shared.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]

N = 60
CHUNK = 16
WRONG = "wrong-token-that-must-not-be-shown"
KEY = "key-that-must-not-be-shown-0123456789"


@pytest.fixture(scope="module")
def store() -> Iterator[RawS3]:
    """A store with `N` photos under photos/, which lets a test hold a run in its middle."""
    with RawS3({f"photos/{name}": data for name, data in make_photos(N)}) as server:
        yield server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test leaves running."""
    with ExitStack() as stack:
        yield stack


class Cluster:
    """What a test does with the cluster, as a user at a shell does it."""

    def __init__(self, server: JobServer, store: RawS3, tmp_path: Path) -> None:
        self.server = server
        self.env = {**server.env, "RAY_API_SERVER_ADDRESS": server.address}
        self.collection = str(tmp_path / "collection")
        keys = {**store.env(), "AWS_SECRET_ACCESS_KEY": KEY}
        self.variables = [word for name, value in keys.items() for word in ("--env", f"{name}={value}")]
        self.tag = ("tag", f"{store.uri}/photos", self.collection, "--chunk-rows", str(CHUNK), "--json")

    def submit(self, base: str, *options: str) -> Driver:
        """Submit the tagging of all photos under this id."""
        line = ("submit", "--id", base, "--json", *self.variables, *options, *self.tag)
        return Driver(*line, env=self.env, terminal=False)

    def run(self, *line: str) -> dict:
        """Run a command of a moment; returns its object."""
        return tagger(*line, "--json", env=self.env).require().json

    def rows(self) -> int:
        """How many rows are committed so far."""
        return len(rows_of(self.collection)) if Path(self.collection, "tags", "_delta_log").exists() else 0


@pytest.fixture
def cluster(job_server: JobServer, store: RawS3, tmp_path: Path) -> Cluster:
    """The cluster, and a collection of this test."""
    return Cluster(job_server, store, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(store: RawS3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection of those photos, made on this machine in one go."""
    collection = str(tmp_path_factory.mktemp("undisturbed") / "collection")
    tagger("tag", f"{store.uri}/photos", collection, env=store.env()).require()
    return collection


def test_followed_left_and_followed_again(cluster: Cluster, store: RawS3, stack: ExitStack) -> None:
    sluice = stack.enter_context(Sluice(store))
    sluice.open(CHUNK)
    first = stack.enter_context(cluster.submit("nightly"))
    # The log comes while the job cannot end.
    wait_for("progress", lambda: re.search(rf"of {N} images", first.stderr), timeout=90)
    assert "Running entrypoint for job nightly: exec python -m tagger tag s3://raw/photos" in first.stderr
    first.signal(signal.SIGINT)
    left = first.wait(60).require(130)
    assert "goes on" in left.sentence
    assert "tagger jobs logs --follow nightly" in left.sentence
    assert "tagger jobs stop nightly" in left.sentence
    assert left.json["exit_code"] == 130

    told = cluster.run("jobs", "status", "nightly")
    assert (told["status"], told["attempt"], told["exit_code"]) == ("RUNNING", 1, None)
    assert told["command"] == list(cluster.tag)
    other = tagger("submit", "--id", "nightly", "check", cluster.collection, env=cluster.env).require(2)
    assert "belongs to another command" in other.sentence

    wire = stack.enter_context(Wire(int(cluster.server.address.rpartition(":")[2])))
    again = stack.enter_context(cluster.submit("nightly", "--address", wire.address))
    wait_for("the log", lambda: "Running entrypoint" in again.stderr, timeout=60)
    wire.up = False  # the server goes away for a moment, and every connection breaks
    wire.cut()
    wait_for("another try", lambda: wire.refused > 0, timeout=60)
    wire.up = True
    wire.cut()
    sluice.open(N)
    record = again.wait().require().json
    assert "following it" in again.stderr
    assert again.stderr.count("Running entrypoint") == 1
    assert again.stderr.count('{"run_id"') == 1
    assert list(record) == ["submission_id", "status", "attempts", "exit_code", "seconds", "result"]
    assert (record["submission_id"], record["status"], record["attempts"]) == ("nightly", "SUCCEEDED", 1)
    assert (record["exit_code"], record["result"]["tagged"]) == (0, N)
    assert cluster.rows() == N

    with cluster.submit("nightly") as third:
        repeated = third.wait().require()
    assert "nothing runs again" in repeated.stderr
    assert repeated.json["result"] == record["result"]
    listed = [
        job for job in cluster.run("jobs", "list")["jobs"] if job["submission_id"].startswith("nightly")
    ]
    assert [(job["status"], job["exit_code"]) for job in listed] == [("SUCCEEDED", 0)]
    log = cluster.run("jobs", "logs", "nightly")["lines"]
    assert log[-1].startswith('{"run_id"')
    said = "".join(outcome.stdout + outcome.stderr for outcome in (left, other, repeated)) + str(listed + log)
    assert KEY not in said
    assert cluster.server.token not in said


def test_stopped(cluster: Cluster, store: RawS3, stack: ExitStack) -> None:
    sluice = stack.enter_context(Sluice(store))
    sluice.open(CHUNK)
    driver = stack.enter_context(cluster.submit("stopped"))
    wait_for("a row", cluster.rows, timeout=90, poll_s=0.5)
    assert cluster.run("jobs", "stop", "stopped") == {
        "submission_id": "stopped",
        "stopped": True,
        "status": "STOPPED",
    }
    record = driver.wait(60).require(130).json
    assert (record["status"], record["attempts"], record["result"]["exit_code"]) == ("STOPPED", 1, 130)
    assert (
        "has ended already (STOPPED)" in tagger("jobs", "stop", "stopped", env=cluster.env).require().stdout
    )
    # It has put away its lease and its work: nothing is in the way of the next run.
    tagger("check", cluster.collection).require()


@pytest.mark.soak  # test_cluster_machines kills one on several machines
def test_a_killed_driver_is_finished_by_the_next_attempt(
    cluster: Cluster, store: RawS3, undisturbed: str, stack: ExitStack
) -> None:
    sluice = stack.enter_context(Sluice(store))
    sluice.open(CHUNK)
    driver = stack.enter_context(cluster.submit("killed"))
    wait_for("a row", cluster.rows, timeout=90, poll_s=0.5)
    victims = cluster.server.processes(f"python -m tagger tag s3://raw/photos {cluster.collection}")
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    sluice.open(N)
    record = driver.wait().require().json
    assert "job killed was killed by SIGKILL; attempt 2 begins in 25 s (3 left)" in driver.stderr
    assert (record["submission_id"], record["status"], record["attempts"]) == ("killed.2", "SUCCEEDED", 2)
    assert 0 < record["result"]["skipped"] < N
    assert_same_rows(rows_of(undisturbed), rows_of(cluster.collection))
    assert cluster.run("jobs", "status", "killed")["submission_id"] == "killed.2"


def test_odd_names_arrive_and_a_final_failure_is_not_repeated(cluster: Cluster, tmp_path: Path) -> None:
    odd = str(tmp_path / "a b;$(touch x) 'q' \"d\" `e` 😀 *")
    line = ("submit", "--id", "odd", "--json", "tag", odd, str(tmp_path / "c"), "--json")
    said = tagger(*line, env=cluster.env).require(2)
    assert (said.json["status"], said.json["attempts"], said.json["exit_code"]) == ("FAILED", 1, 2)
    assert odd in said.json["result"]["error"]
    assert odd in said.sentence


def test_two_at_once_submit_one_job(cluster: Cluster, stack: ExitStack) -> None:
    line = ("submit", "--id", "race", "--json", "models", "--json")
    both = [stack.enter_context(Driver(*line, env=cluster.env, terminal=False)) for _ in range(2)]
    records = [driver.wait().require().json for driver in both]
    assert [record["submission_id"] for record in records] == ["race", "race"]
    assert records[0]["result"] == records[1]["result"]
    names = [job["submission_id"] for job in cluster.run("jobs", "list")["jobs"]]
    assert [name for name in names if name.startswith("race")] == ["race"]


def test_no_token_and_a_wrong_one(cluster: Cluster) -> None:
    without = {**cluster.env, "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}
    said = tagger("submit", *cluster.tag, env=without).require(2)
    assert "asks for a token, and it is missing: set RAY_AUTH_MODE=token" in said.sentence
    said = tagger("submit", *cluster.tag, env={**cluster.env, "RAY_AUTH_TOKEN": WRONG}).require(2)
    assert "asks for a token, and it was refused" in said.sentence
    assert WRONG not in said.stdout + said.stderr
    assert not Path(cluster.collection).exists()


def test_the_scripts_in_jobs_with_rays_own_command(cluster: Cluster, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, data in make_photos(4):
        (photos / name).write_bytes(data)
    environment = {**os.environ, **{name: value for name, value in cluster.env.items() if value}}
    command = ("python", "jobs/tag_images.py", str(photos), cluster.collection, "--json")
    done = subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"tagged": 4' in done.stdout
    assert len(rows_of(cluster.collection)) == 4


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("tag_images", "tag"),
        ("build_index", "index"),
        ("enrich_catalog", "enrich"),
        ("recommend_users", "recommend"),
    ],
)
def test_every_script_runs_its_command(script: str, command: str) -> None:
    path = ROOT / "jobs" / f"{script}.py"
    assert f"-- python jobs/{script}.py " in path.read_text()
    spec = importlib.util.spec_from_file_location(script, path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # imported, it does nothing
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Usage: tagger {command} ")
