"""Memory and CPU time of a process and everything it started, read from /proc.

Memory is PSS (proportional set size): a page that several processes share counts once in the sum, so Ray's
object store and the libraries that all workers map are not counted many times over, as RSS would.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Role = Literal["driver", "workers", "ray"]

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_RAY_SERVICES = ("raylet", "gcs_server", "ray/dashboard", "ray/_private", "log_monitor", "runtime_env")
_WORKER = "default_worker.py"
_POLL_S = 0.2


@dataclass(frozen=True)
class Process:
    """One line of /proc; (pid, started) names a process even after its pid was used again."""

    pid: int
    parent: int
    session: int
    started: int
    cpu_s: float


def read_process(pid: int) -> Process | None:
    """Return a process, or None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything; the numbers begin after the last one.
    numbers = stat[stat.rindex(")") + 2 :].split()
    cpu_s = (int(numbers[11]) + int(numbers[12])) / TICKS_PER_S
    return Process(pid, int(numbers[1]), int(numbers[3]), int(numbers[19]), cpu_s)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of one process with all its threads, in seconds.

    Raises:
        ProcessLookupError: There is no such process.
    """
    process = read_process(pid)
    if process is None:
        raise ProcessLookupError(pid)
    return process.cpu_s


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def family(root: int, known: dict[int, int]) -> list[Process]:
    """Return the living descendants of `root` and itself.

    A process belongs if its parent or its session belongs, and stays in when its parent dies.

    Args:
        root: Pid of the first process, which leads a session of its own.
        known: Start time by pid of members seen before; brought up to date in place.
    """
    numbers = (path.name for path in Path("/proc").iterdir() if path.name.isdigit())
    processes = [p for number in numbers if (p := read_process(int(number)))]
    members = {p.pid: p for p in processes if p.pid == root or known.get(p.pid) == p.started}
    grown = True
    while grown:
        grown = False
        sessions = {p.session for p in members.values()}
        for p in processes:
            if p.pid not in members and (p.parent in members or p.session in sessions):
                members[p.pid] = p
                grown = True
    known.clear()
    known.update({p.pid: p.started for p in members.values()})
    return list(members.values())


def run_measured(command: list[str], folder: Path) -> tuple[dict[str, Any], float, int]:
    """Run a command with `--json` in a session of its own.

    Args:
        command: The words.
        folder: Where its output may lie meanwhile: a pipe that nobody reads would fill up.

    Returns:
        What it said, its wall time in seconds, and the peak of its memory and that of its children (PSS).
    """
    path = folder / "said.json"
    began = time.perf_counter()
    with path.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, start_new_session=True)
        peak = 0
        while process.poll() is None:
            peak = max([peak, sum(pss_bytes(one.pid) for one in family(process.pid, {}))])
            time.sleep(_POLL_S)
    seconds = time.perf_counter() - began
    said = json.loads(path.read_text().splitlines()[-1])
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {said}")
    return said, seconds, peak


def role_of(pid: int, root: int) -> Role:
    """Tell the driver and Ray's own services from the workers and what those started (decoder children)."""
    if pid == root:
        return "driver"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        command = ""
    if command.startswith("ray::") or _WORKER in command:
        return "workers"
    return "ray" if any(word in command for word in _RAY_SERVICES) else "workers"


@dataclass
class Sample:
    """Memory at one moment, in bytes by role."""

    at_s: float
    bytes_by_role: dict[Role, int]

    @property
    def total(self) -> int:
        return sum(self.bytes_by_role.values())


@dataclass
class Watch:
    """Samples a process and its descendants in a thread, as a context manager around the wait for it.

    Reading PSS walks page tables, so the samples are spaced to take at most 1 % of one core.

    Args:
        root: Pid of the process; it leads a session of its own (`start_new_session=True`).
        least_s: Shortest time between two samples.
    """

    root: int
    least_s: float = 0.5
    samples: list[Sample] = field(default_factory=list)
    cpu_by_process: dict[tuple[int, int], float] = field(default_factory=dict)
    _known: dict[int, int] = field(default_factory=dict)
    _roles: dict[tuple[int, int], Role] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.thread_time()
            self.sample()
            cost = time.thread_time() - began
            self._stop.wait(max(self.least_s, cost * 100))

    def sample(self) -> None:
        """Take one sample now."""
        used: dict[Role, int] = {"driver": 0, "workers": 0, "ray": 0}
        for process in family(self.root, self._known):
            key = (process.pid, process.started)
            # A worker has its final name only after its start, so roles settle with the second look.
            role = self._roles.get(key) if key in self.cpu_by_process else None
            if role is None:
                role = self._roles[key] = role_of(process.pid, self.root)
            self.cpu_by_process[key] = process.cpu_s
            used[role] += pss_bytes(process.pid)
        self.samples.append(Sample(time.monotonic() - self._began, used))

    def role(self, process: tuple[int, int]) -> Role:
        """Return what a process of `cpu_by_process` is."""
        return self._roles[process]

    def summary(self) -> dict[str, Any]:
        """Return what the samples saw, for JSON.

        Returns:
            `peak_bytes` of all, `peak_own_bytes` without Ray's own services, `peak_bytes_by_role`,
            `late_bytes` (the median of the second half), `cpu_s` (what every process had used when last
            seen), `samples`.
        """
        if not self.samples:
            return {"samples": 0}
        roles: tuple[Role, ...] = ("driver", "workers", "ray")
        return {
            "peak_bytes": max(s.total for s in self.samples),
            "peak_own_bytes": max(s.total - s.bytes_by_role["ray"] for s in self.samples),
            "peak_bytes_by_role": {r: max(s.bytes_by_role[r] for s in self.samples) for r in roles},
            "late_bytes": _median([s.total for s in self.samples[len(self.samples) // 2 :]]),
            "cpu_s": sum(self.cpu_by_process.values()),
            "samples": len(self.samples),
        }


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]
