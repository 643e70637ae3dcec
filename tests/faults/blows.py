"""What the fault tests strike at, and how."""

from __future__ import annotations

import os
from signal import SIGKILL
from typing import TYPE_CHECKING

from driving import wait_for

if TYPE_CHECKING:
    from driving import Driver

PHOTOS = 800
"""Photos of the store that `counting_server` serves."""

FETCHER = r"^ray::MapBatches\(_fetch\)"
ACTOR = r"^ray::MapWorker\(MapBatches\(_ModelActor\)\)"
WRITER = r"^ray::write_refs"
DECODER = r"tagger\.vision\.child"


def strike(driver: Driver, victim: str, number: int = SIGKILL) -> int:
    """Send a signal to one process of a run that matches; returns its pid."""

    def found() -> int:
        assert driver.process.poll() is None, driver.stderr
        return next(iter(driver.processes(victim)), 0)

    pid = int(wait_for(f"a process like {victim}", found, timeout=30, poll_s=0.01))
    os.kill(pid, number)
    return pid
