"""The Python functions, as a program uses them: twice in one process, from a thread, with paths."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tagger.testing import make_photos

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

PROGRAM = """
import json, pathlib, sys, threading
import tagger
from tagger.errors import UsageError

photos, collection = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
runs = [tagger.tag(photos, collection, limit=20, quiet=True)]
thread = threading.Thread(target=lambda: runs.append(tagger.tag(photos, collection, quiet=True)))
thread.start()
thread.join()
opened = tagger.open(collection)
rows = opened.tags().read_all()

import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
try:
    tagger.tag(photos, collection, retry_failed=True, quiet=True)
    refused = ""
except UsageError as error:
    refused = str(error)
still_theirs = ray.is_initialized()
print(json.dumps({
    "tagged": [run.tagged for run in runs],
    "exit_codes": [run.exit_code for run in runs],
    "rows": rows.num_rows,
    "failures": [row["error"] for batch in opened.failures() for row in batch.to_pylist()],
    "refused": refused,
    "still_theirs": still_theirs,
}))
"""


def test_two_runs_in_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in make_photos(40):
        (folder / name).write_bytes(data)
    (folder / "zz-broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, tmp_path / "collection"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["tagged"] == [20, 20]
    assert told["exit_codes"] == [0, 0]
    assert (told["rows"], told["failures"]) == (41, ["unsupported_format"])
    assert "ray.shutdown()" in told["refused"]
    assert told["still_theirs"]
