"""Runs on clusters of several machines, which fail while it goes on."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blows import ACTOR
from cluster_kit import Machines
from driving import Driver, tagger
from tables import assert_same_rows, rows_of

from tagger.testing import SeaweedFS, make_photos, put_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(1200)]

ON_GPUS = ("--backend", "openvino", "--gpus-per-actor", "1", "--model-threads", "2")
"""The CNN where the (logical) GPU is, on what this machine can run it with."""


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


def nodes_at(timeline: dict[str, Any], stage: str) -> set[str]:
    """Return the machines that worked at a stage."""
    return {row["node"] for row in timeline["rows"] if row["stage"] == stage}


def test_decoding_on_cpu_machines_and_the_cnn_on_gpu_machines(tmp_path: Path) -> None:
    folder, collection = tmp_path / "photos", str(tmp_path / "collection")
    folder.mkdir()
    for name, data in make_photos(400):
        (folder / name).write_bytes(data)
    with Machines({}) as cluster:
        decoding = {cluster.add(2).node, cluster.add(2).node}
        with_gpus = {cluster.add(2, gpus=1).node, cluster.add(4, gpus=1).node}
        line = ("tag", folder, collection, "--address", cluster.address, "--chunk-rows", "16", "--json")
        record = tagger(*line, *ON_GPUS, env=cluster.token_env()).require().json
    assert (record["planned"], record["tagged"]) == (400, 400)
    timeline = timeline_of(collection)
    assert nodes_at(timeline, "fetch and decode") <= decoding
    assert nodes_at(timeline, "tag") <= with_gpus
    assert nodes_at(timeline, "write") <= with_gpus | decoding  # never on the head
    for stage in ("fetch and decode", "tag", "write"):
        assert sum(sum(row["images"]) for row in timeline["rows"] if row["stage"] == stage) == 400
    tagger("check", collection).require()


@pytest.mark.parametrize(
    ("photos", "every_s"), [(1_000, 8.0), pytest.param(5_000, 10.0, marks=pytest.mark.soak)]
)
def test_machines_actors_driver_and_store_fail(
    server: SeaweedFS, photos: int, every_s: float, record_property: Any
) -> None:
    bucket = server.bucket()
    put_photos(bucket, make_photos(photos), prefix="photos/")
    line = ("tag", f"{bucket.uri}/photos", "--chunk-rows", "64", "--json", *ON_GPUS)
    with Machines(server.env()) as cluster:
        machines = [cluster.add(2), cluster.add(2), cluster.add(2, gpus=1)]
        env = {**server.env(), **cluster.token_env()}
        cluster_line = (*line[:2], f"{bucket.uri}/quiet", *line[2:], "--address", cluster.address)
        began = time.monotonic()
        tagger(*cluster_line, env=env, timeout=600).require()
        quiet_s = time.monotonic() - began

        cluster_line = (*line[:2], f"{bucket.uri}/rough", *line[2:], "--address", cluster.address)
        began = time.monotonic()
        over = threading.Event()
        actors_killed: list[int] = []

        def kill_actors() -> None:
            while not over.wait(every_s):
                with contextlib.suppress(AssertionError):
                    actors_killed.append(cluster.strike(ACTOR, timeout=every_s))

        killer = threading.Thread(target=kill_actors, daemon=True)
        with Driver(*cluster_line, env=env) as driver:
            killer.start()
            driver.wait_until_done(0.1 * photos, timeout=300)
            machines[0].kill()
            driver.wait_until_done(0.3 * photos, timeout=300)
            driver.kill()
        cluster.add(2)
        with Driver(*cluster_line, env=env) as driver:
            driver.wait_until_done(0.1 * photos, timeout=300)
            server.kill()
            server.start()
            driver.wait_until_done(0.2 * photos, timeout=300)
            machines[2].kill()
            cluster.add(2, gpus=1)
            record = driver.wait(600).require().json
        over.set()
        killer.join()
        rough_s = time.monotonic() - began
    assert record["failed"] == 0
    assert actors_killed
    assert_same_rows(rows_of(f"{bucket.uri}/quiet"), rows_of(f"{bucket.uri}/rough"))
    tagger("check", f"{bucket.uri}/rough").require()
    record_property(
        "measured",
        f"{photos} images: {quiet_s:.0f} s undisturbed, {rough_s:.0f} s with 2 machines, the driver and "
        f"{len(actors_killed)} actors killed and the store started again",
    )
