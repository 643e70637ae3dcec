"""The driver killed and interrupted: what is committed stays, and the rest is done once more."""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import TYPE_CHECKING

import pytest
from blows import Sluice, reads_of
from driving import Driver, tagger, wait_for
from tables import assert_same_rows, delta, rows_of, runs_of

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from tagger.testing import RawS3

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

N = 800
CHUNK = 32
BLOWS = ((0.1, SIGKILL), (0.3, SIGINT), (0.5, SIGKILL), (0.7, SIGTERM), (0.9, SIGKILL))


def test_killed_and_interrupted_at_every_stage(
    counting_server: RawS3, undisturbed: str, tmp_path: Path, cache_dir: Path, stack: ExitStack
) -> None:
    server, collection = counting_server, str(tmp_path / "collection")
    line = ("tag", f"{server.uri}/photos", collection, "--chunk-rows", str(CHUNK), "--cpus", "2")
    settled = 0
    sluice = stack.enter_context(Sluice(server))
    for share, blow in BLOWS:
        reads_before = reads_of(server)
        driver = stack.enter_context(Driver(*line, env=server.env(), in_script=blow == SIGINT))
        sluice.open(share * N + 5 * CHUNK)  # what its fetch tasks have in hand, and some
        driver.wait_until_done(share * N - settled)
        planned = driver.shown[-1][2]
        _strike(driver, blow)
        reads = reads_of(server) - reads_before
        driver.wait_until_gone(40)
        committed = _rows(collection) - settled
        assert planned <= N - settled  # nothing that is committed is planned again
        assert committed <= reads, (share, blow)  # how far reads run ahead: test_faults_soak.py
        settled += committed
    sluice.open(N)
    record = tagger(*line, "--json", env=server.env()).require().json
    assert (record["listed"], record["skipped"], record["planned"]) == (N, settled, N - settled)
    assert_same_rows(rows_of(undisturbed), rows_of(collection))
    assert sum(runs_of(collection).values()) == N
    tagger("check", collection).require()
    assert [path.name for path in (cache_dir / "spill").iterdir()] == [".lock"]  # killed ones left theirs


def _strike(driver: Driver, blow: Signals) -> None:
    if blow == SIGKILL:
        driver.kill()
        return
    if blow == SIGINT:  # people are impatient
        wait_for("its end", lambda: driver.process.poll() is not None or driver.type(b"\x03"), timeout=40)
    else:
        driver.signal(blow)
    assert "same command" in driver.wait(40).require(130).sentence


def _rows(collection: str) -> int:
    return int(delta(collection).to_pyarrow_dataset().count_rows())
