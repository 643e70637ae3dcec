"""Long turns on a core: asked for by the thread that will start the work, taken over by what it starts."""

import os
import platform
import subprocess
import sys

import pytest

from tagger.scheduling import take_long_turns

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has them")

SCRIPT = """
import os, threading
from tagger.scheduling import take_long_turns
os.nice(3)
taken = take_long_turns()
seen = []
thread = threading.Thread(target=lambda: seen.append((os.sched_getscheduler(0), os.nice(0))))
thread.start(); thread.join()
print(taken, os.sched_getscheduler(0), seen[0][0], seen[0][1])
"""


def test_a_process_and_the_threads_it_starts_run_as_batch_work_of_the_same_niceness():
    nice = os.nice(0) + 3
    out = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", str(os.SCHED_BATCH), str(os.SCHED_BATCH), str(min(nice, 19))]


def test_where_the_system_has_none_nothing_changes(monkeypatch):
    before = os.sched_getscheduler(0)
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert take_long_turns() is False
    assert os.sched_getscheduler(0) == before
