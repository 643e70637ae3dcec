"""Runs on clusters of several machines, which fail while it goes on."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from blows import ACTOR, Sluice
from cluster_kit import Growing, Machines, free_port
from deltalake.exceptions import DeltaError, TableNotFoundError
from driving import Driver, tagger, wait_for
from tables import assert_same_rows, delta, rows_of

from tagger.testing import RawS3, SeaweedFS, make_photos, put_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(1200)]

JOB = r"^\S*python\S* -m tagger tag "
ON_GPUS = ("--backend", "openvino", "--gpus-per-actor", "1", "--model-threads", "2")
"""The CNN where the (logical) GPU is, on what this machine can run it with."""

SLOWLY = ("--backend", "openvino", "--gpus-per-actor", "1", "--model-threads", "1", "--precision", "f32")
"""At most some 150 images/s, so that a fast machine is not done before the blows."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SeaweedFS]:
    """A store that a test may end and start again."""
    with SeaweedFS(tmp_path / "seaweedfs") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env().items():
            patch.setenv(name, value)
        yield server


def timeline_of(collection: str) -> dict[str, Any]:
    """Return when and where the only run of a local collection worked."""
    (record,) = Path(collection, "runs").glob("*/run.json")
    timeline: dict[str, Any] = json.loads(record.read_text())["result"]["timeline"]
    return timeline


def scrape(port: int) -> str:
    """Return what a node counts of runs, as Prometheus reads it; empty while nobody answers."""
    with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
        return text if "ray_tagger_images_total" in text else ""
    return ""


def nodes_at(timeline: dict[str, Any], stage: str) -> set[str]:
    """Return the machines that worked at a stage."""
    return {row["node"] for row in timeline["rows"] if row["stage"] == stage}


def test_decoding_on_cpu_machines_and_the_cnn_on_gpu_machines(tmp_path: Path) -> None:
    """And what the run counts can be read at the head's port for Prometheus while it goes on."""
    collection = str(tmp_path / "collection")
    photos = {f"photos/{name}": data for name, data in make_photos(400)} | {"photos/bad.jpg": b""}
    with (
        RawS3(photos) as store,
        Sluice(store) as sluice,
        # Reads are held back for as long as it takes to see metrics.
        Machines(
            store.env() | {"TAGGER_REQUEST_TIMEOUT_S": "900"}, metrics_export_port=(port := free_port())
        ) as cluster,
    ):
        machines = [cluster.add(2), cluster.add(2), cluster.add(2, gpus=1), cluster.add(4, gpus=1)]
        decoding, with_gpus = ({one.node for one in pair} for pair in (machines[:2], machines[2:]))
        source = f"{store.uri}/photos"
        line = ("tag", source, collection, "--address", cluster.address, "--chunk-rows", "16", "--json")
        with Driver(*line, *ON_GPUS, env={**store.env(), **cluster.token_env()}) as driver:
            sluice.open(200)
            metrics = str(wait_for("metrics of the run", lambda: scrape(port), timeout=120, poll_s=0.5))
            sluice.open(len(photos))
            record = driver.wait().require().json
    assert (record["planned"], record["tagged"]) == (401, 400)
    counted = dict(re.findall(r"^(ray_tagger_\w+)\{.*\} ([0-9.e+]+)$", metrics, re.MULTILINE))
    assert counted.keys() >= {"ray_tagger_images_total", "ray_tagger_stage_seconds_total"}
    assert float(counted["ray_tagger_images_planned"]) > 0
    assert f'run="{record["run_id"]}"' in metrics
    timeline = timeline_of(collection)
    assert nodes_at(timeline, "fetch and decode") <= decoding
    assert nodes_at(timeline, "tag") <= with_gpus
    assert nodes_at(timeline, "write") <= with_gpus | decoding  # never on the head
    for stage in ("fetch and decode", "tag", "write"):
        assert sum(sum(row["images"]) for row in timeline["rows"] if row["stage"] == stage) == 401
    tagger("check", collection).require()


def test_lost_machines_cost_no_row(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    for name, data in make_photos(800):
        (folder / name).write_bytes(data)
    with Machines({}) as cluster:
        machines = [cluster.add(2), cluster.add(2), cluster.add(2, gpus=1), cluster.add(2, gpus=1)]
        line = ("tag", folder, collection, "--address", cluster.address, "--chunk-rows", "16", "--json")
        with Driver(*line, *SLOWLY, env=cluster.token_env()) as driver:
            driver.wait_until_done(100)
            machines[0].kill()
            driver.wait_until_done(300)
            machines[2].kill()
            cluster.strike(ACTOR)
            record = driver.wait(400).require().json
    assert (record["planned"], record["tagged"]) == (800, 800)
    assert len(set(rows_of(collection).column("image_id").to_pylist())) == 800
    tagger("check", collection).require()


@pytest.mark.soak
@pytest.mark.parametrize(("photos", "every_s"), [(5_000, 10.0)])
def test_machines_actors_driver_and_store_fail(
    server: SeaweedFS, photos: int, every_s: float, record_property: Any
) -> None:
    """Submitted once, and finished without help: nobody starts anything but the machines again."""
    bucket = server.bucket()
    put_photos(bucket, make_photos(photos), prefix="photos/")
    quiet, rough = f"{bucket.uri}/quiet", f"{bucket.uri}/rough"
    with Machines(server.env(), include_dashboard=True) as cluster:
        machines = [cluster.add(2), cluster.add(2), cluster.add(2, gpus=1)]
        env = {**server.env(), **cluster.token_env(), "RAY_API_SERVER_ADDRESS": cluster.job_server}

        def line(collection: str) -> tuple[str, ...]:
            command = ("tag", f"{bucket.uri}/photos", collection, "--chunk-rows", "32", "--json", *SLOWLY)
            return ("submit", "--json", *command)

        began = time.monotonic()
        tagger(*line(quiet), env=env, timeout=900).require()
        quiet_s = time.monotonic() - began

        began = time.monotonic()
        over = threading.Event()
        actors_killed: list[int] = []

        def kill_actors() -> None:
            while not over.wait(every_s):
                with contextlib.suppress(AssertionError):
                    actors_killed.append(cluster.strike(ACTOR, timeout=every_s))

        killer = threading.Thread(target=kill_actors, daemon=True)
        with Driver(*line(rough), env=env, terminal=False) as submitter:
            killer.start()
            wait_for_rows(rough, 0.1 * photos)
            machines[0].kill()
            wait_for_rows(rough, 0.25 * photos)
            cluster.strike(JOB)
            cluster.add(2)
            wait_for_rows(rough, 0.4 * photos)
            server.kill()
            server.start()
            wait_for_rows(rough, 0.55 * photos)
            machines[2].kill()
            cluster.add(2, gpus=1)
            record = submitter.wait(900).require().json
            again = [line for line in submitter.stderr.splitlines() if "; attempt " in line]
        over.set()
        killer.join()
        rough_s = time.monotonic() - began
    assert record["status"] == "SUCCEEDED"
    assert record["attempts"] == 1 + len(again)
    assert "SIGKILL" in again[0], again
    assert record["result"]["failed"] == 0
    assert actors_killed
    assert_same_rows(rows_of(quiet), rows_of(rough))
    tagger("check", rough).require()
    record_property(
        "measured",
        f"{photos} images: {quiet_s:.0f} s undisturbed, {rough_s:.0f} s with 2 machines, the driver and "
        f"{len(actors_killed)} actors killed and the store started again; {again}",
    )


def wait_for_rows(collection: str, rows: float) -> None:
    """Wait until so many rows are committed."""

    def there() -> bool:
        with contextlib.suppress(TableNotFoundError, OSError, DeltaError):
            return bool(delta(collection).count() >= rows)
        return False

    wait_for(f"{rows:.0f} rows", there, timeout=600, poll_s=0.5)


def test_a_cluster_grows_for_a_run_and_shrinks_after_it(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    for name, data in make_photos(300):
        (folder / name).write_bytes(data)
    with Growing({"cpu": (2, 0, 2), "gpu": (2, 1, 1)}, idle_s=6) as cluster:
        env = {**cluster.token_env(), "TAGGER_MACHINES": "2x2cpu,1x2cpu+1gpu"}
        line = ("tag", folder, collection, "--address", cluster.address, "--chunk-rows", "32", "--json")
        assert cluster.machines() == 1
        record = tagger(*line, *ON_GPUS, env=env, timeout=300).require().json
        wait_for("the end of idle machines", lambda: cluster.machines() == 1, timeout=120)
    assert (record["planned"], record["tagged"]) == (300, 300)
    timeline = timeline_of(collection)
    assert len(nodes_at(timeline, "tag")) == 1
    assert nodes_at(timeline, "fetch and decode").isdisjoint(nodes_at(timeline, "tag"))


def test_a_head_that_is_gone_is_told(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    for name, data in make_photos(600):
        (folder / name).write_bytes(data)
    with Machines({}) as cluster:
        cluster.add(1)
        line = ("tag", folder, collection, "--address", cluster.address, "--chunk-rows", "8", "--json")
        with Driver(*line, env=cluster.token_env()) as driver:
            driver.wait_until_done(16)
            cluster.strike("gcs_server")
            outcome = driver.wait().require(1)
    assert "the head of the Ray cluster does not answer any more" in outcome.sentence
    assert outcome.json["exit_code"] == 1
    (record,) = Path(collection, "runs").glob("*/run.json")
    assert json.loads(record.read_text())["state"] == "failed"


def test_a_cluster_with_a_head_alone_is_told_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(dict(make_photos(1)).popitem()[1])
    with Machines({}) as cluster:
        line = ("tag", tmp_path / "one.jpg", tmp_path / "collection", "--address", cluster.address)
        outcome = tagger(*line, env=cluster.token_env()).require(1)
    assert "no machine with CPUs for work" in outcome.sentence
    assert "--machines" in outcome.sentence
