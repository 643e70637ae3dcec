"""What the fault tests strike at, and how."""

from __future__ import annotations

import os
import sys
import threading
from signal import SIGKILL
from typing import TYPE_CHECKING, Self

from driving import wait_for

if TYPE_CHECKING:
    from driving import Driver

    from tagger.testing import Answer, RawS3

PHOTOS = 800
"""Photos of the store that `counting_server` serves."""

FETCHER = r"^ray::MapBatches\(_fetch\)"
ACTOR = r"^ray::MapWorker\(MapBatches\(_ModelActor\)\)"
READER = r"^ray::ReadPlan"
WRITER = r"^ray::write_refs"
DECODER = r"tagger\.vision\.child"


class Sluice:
    """Lets a store serve so many different photos and holds every further read back until it is opened.

    With it the middle of a run is a place, not a moment: however fast the machine is, the fetch tasks are
    there, waiting, when a test strikes. A context manager; afterwards the store serves everything again.

    Args:
        server: The store; its `fault` is taken for as long as the sluice stands.
    """

    def __init__(self, server: RawS3) -> None:
        self._server = server
        self._changed = threading.Condition(server.lock)  # waiting gives the store's lock away
        self._served: set[str] = set()
        self._limit = 0

    def __enter__(self) -> Self:
        self._before, self._server.fault = self._server.fault, self._hold
        return self

    def __exit__(self, *_: object) -> None:
        self.open(sys.maxsize)
        self._server.fault = self._before

    def open(self, photos: float) -> None:
        """Let this many different photos through, all in all."""
        with self._changed:
            self._limit = int(photos)
            self._changed.notify_all()

    def _hold(self, method: str, key: str) -> Answer | None:
        if method == "GET":
            self._changed.wait_for(lambda: key in self._served or len(self._served) < self._limit)
            self._served.add(key)
        return None


def reads_of(server: RawS3) -> int:
    """Return how many photos were asked for so far."""
    with server.lock:
        return sum(method == "GET" and key.startswith("photos/") for method, key in server.requests)


def strike(driver: Driver, victim: str, number: int = SIGKILL) -> int:
    """Send a signal to one process of a run that matches; returns its pid."""

    def found() -> int:
        assert driver.process.poll() is None, driver.stderr
        return next(iter(driver.processes(victim)), 0)

    pid = int(wait_for(f"a process like {victim}", found, timeout=30, poll_s=0.01))
    os.kill(pid, number)
    return pid
