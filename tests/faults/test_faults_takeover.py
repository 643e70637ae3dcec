"""Two drivers on one collection: one writes, whoever comes is refused, whoever stood still is out."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING, Any, cast

import pytest
from driving import Driver, tagger, wait_for
from tables import delta, rows_of, runs_of

from tagger.testing import make_photos, put_photos

if TYPE_CHECKING:
    from contextlib import ExitStack

    from tagger.testing import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.xdist_group("ray")]

HERE = Path(__file__).parent
SLOW = {
    "TEST_TAGGER": "slow",
    "TEST_SECONDS_PER_CHUNK": "0.5",
    "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
}
N = 240


def test_one_writer_at_a_time_and_none_from_the_past(
    bucket: Bucket, tmp_path: Path, stack: ExitStack
) -> None:
    # In a local folder and in a bucket at once: most of the time is waiting for a lease to run out.
    source = f"{bucket.uri}/photos"
    put_photos(bucket, make_photos(N), prefix="photos/")
    collections = (str(tmp_path / "collection"), f"{bucket.uri}/collection")
    line = ("--chunk-rows", "16", "--cpus", "1")
    first = [
        stack.enter_context(Driver("tag", source, one, *line, env=SLOW, script=HERE / "faulty.py"))
        for one in collections
    ]
    runs = [wait_for("its first rows", lambda one=one: _runs(one), timeout=120) for one in collections]

    # A second one beside a living one is refused, and told by whom.
    for collection, run in zip(collections, runs, strict=True):
        refused = tagger("tag", source, collection, *line, timeout=60).require(1)
        assert run[0] in refused.sentence
        assert refused.stdout == ""

    for driver in first:
        assert driver.process.poll() is None
        driver.signal(SIGSTOP)
    rows = [rows_of(one) for one in collections]
    assert all(0 < len(table) < N for table in rows)

    # One that stands still is taken over, once it has stood still for long enough.
    records = [_take_over("tag", source, one, *line, "--json") for one in collections]
    for table, record in zip(rows, records, strict=True):
        assert (record["skipped"], record["tagged"]) == (len(table), N - len(table))
    versions = [delta(one).version() for one in collections]

    # And when it goes on, it commits nothing more.
    for driver in first:
        driver.signal(SIGCONT)
    for driver, collection in zip(first, collections, strict=True):
        outcome = driver.wait(90).require(1)
        assert "took over" in outcome.sentence
        assert collection in outcome.sentence
    for collection, version, record in zip(collections, versions, records, strict=True):
        assert delta(collection).version() == version
        assert len(rows_of(collection)) == sum(runs_of(collection).values()) == N
        assert runs_of(collection)[record["run_id"]] == record["tagged"]
        tagger("check", collection).require()
        again = tagger("tag", source, collection, "--json").require().json  # the lease is free
        assert again["planned"] == 0
    for driver in first:
        driver.wait_until_gone(60)


def _take_over(*line: str) -> dict[str, Any]:
    """Start a run again and again until it is not refused; returns what it did."""

    def taken() -> dict[str, Any] | None:
        outcome = tagger(*line)
        if outcome.code == 1 and "is being written by" in outcome.sentence:
            return None
        return outcome.require().json

    return cast("dict[str, Any]", wait_for("the lease to run out", taken, timeout=90))


def _runs(collection: str) -> list[str]:
    """Return the runs that have rows; none as long as there is no table."""
    try:
        return list(runs_of(collection))
    except Exception:  # deltalake's error for a missing table is not told apart from others
        return []
