"""The lease: tells a newcomer that a run is alive, and whose place it takes when it is not.

The lease only keeps two runs from working side by side. What keeps the table right when a lease fails (a
stopped process that goes on after somebody took its place) is the fence, see `commit`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tagger.errors import CollectionBusy, StoreUnavailable, TaggerError, TakenOver
from tagger.storage.uris import decode_path, split_uri

if TYPE_CHECKING:
    from tagger.storage import Store

LEASE_NAME: Final = "lease.json"

TTL_S: Final = 20.0
"""How long a lease may stand still before it is taken over. Long enough for a busy driver that is late with a
heartbeat, short enough to wait for after a machine has died."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease; the content of lease.json but for its heartbeat.

    Attributes:
        run_id: The run.
        command: What the operator started, shortened.
        host: Name of the machine.
        pid: Process id there.
        started: When the process started, as the kernel counts it; tells a reused process id from the holder.
        boot_id: One boot of one machine, and one space of process ids on it.
        since: Start of the lease, UTC.
        token: Random; tells this lease from any other.
    """

    run_id: str
    command: str
    host: str
    pid: int
    started: str
    boot_id: str
    since: str
    token: str = field(repr=False)

    @classmethod
    def here(cls, run_id: str, command: str) -> Holder:
        """Return this process as a holder."""
        return cls(
            run_id=run_id,
            command=command[:300],
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_process_start(os.getpid()) or "",
            boot_id=_boot_id(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
        )

    def same_machine(self) -> bool:
        """Tell whether the holder's process ids and clock are those of this process."""
        return self.host == socket.gethostname() and self.boot_id == _boot_id()

    def is_dead(self) -> bool:
        """Tell whether the holder is known to have ended; False where that cannot be known from here."""
        return self.same_machine() and _process_start(self.pid) != self.started

    def __str__(self) -> str:
        return f"run {self.run_id} ({self.command}; process {self.pid} on {self.host}, since {self.since})"


@dataclass(frozen=True, slots=True)
class Beat:
    """A lease as somebody else reads it.

    Attributes:
        holder: None when the content is not readable.
        count: Heartbeats so far.
        clock_s: The holder's monotonic clock at the heartbeat.
    """

    holder: Holder | None
    count: int
    clock_s: float


def write_beat(beat: Beat) -> bytes:
    """Return the content of lease.json."""
    assert beat.holder is not None
    document = {**asdict(beat.holder), "heartbeat": beat.count, "clock_s": beat.clock_s}
    return json.dumps(document, ensure_ascii=False).encode()


def read_beat(data: bytes) -> Beat:
    """Read the content of lease.json; never raises."""
    try:
        document: dict[str, Any] = json.loads(data)
        holder = Holder(**{f.name: document[f.name] for f in fields(Holder)})
        return Beat(holder, int(document["heartbeat"]), float(document["clock_s"]))
    except (ValueError, KeyError, TypeError):
        return Beat(None, 0, 0.0)


def busy(uri: str, holder: Holder | None) -> CollectionBusy:
    """Return the error for a newcomer that finds a living lease."""
    who = "another run" if holder is None else str(holder)
    return CollectionBusy(f"{uri} is being written by {who}; wait until it has ended, or stop it")


class Lease(ABC):
    """A lease this process holds; a daemon thread renews it until `release`.

    Args:
        uri: The collection, for messages.
        holder: This process.
        ttl_s: The lease's time to live; it is renewed about six times in that time.
        stale: Whether it was taken from a holder that did not release it, so that a fence is due.
    """

    def __init__(self, uri: str, holder: Holder, *, ttl_s: float, stale: bool) -> None:
        self.uri = uri
        self.holder = holder
        self.ttl_s = ttl_s
        self.stale = stale
        self._count = 0
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="tagger-lease", daemon=True)

    @property
    def interval_s(self) -> float:
        """Time between two heartbeats, in seconds."""
        return interval_s(self.ttl_s)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def check(self) -> None:
        """Raise when the lease is no longer ours.

        Raises:
            TakenOver: Another run holds it, or somebody deleted it.
        """
        if self._lost.is_set():
            raise TakenOver(f"another run took over {self.uri}; this one committed nothing more")

    def release(self) -> None:
        """Give the lease back, if it is still ours. Never raises: the lease of an ended process is stale."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self.ttl_s)
        try:
            self._give_back()
        except (TaggerError, OSError):
            return

    def _beat(self) -> None:
        while not self._stop.wait(self.interval_s):
            try:
                if not self._renew():
                    self._lost.set()
                    return
            except (TaggerError, OSError):
                continue  # the store does not answer; whoever takes over meanwhile is seen by the next try

    @abstractmethod
    def _renew(self) -> bool:
        """Write the next heartbeat; False when the lease is not ours any more."""

    @abstractmethod
    def _give_back(self) -> None:
        """Remove the lease if it is ours."""


def interval_s(ttl_s: float) -> float:
    """Return the time between heartbeats for a lease of this time to live, in seconds."""
    return min(3.0, ttl_s / 6)


def acquire(store: Store, run_id: str, command: str, *, ttl_s: float = TTL_S) -> Lease:
    """Take the lease of a collection, waiting up to `ttl_s` where a holder may be dead.

    Raises:
        CollectionBusy: Another run holds it and is alive; the text names run, process, machine and time.
        StoreUnavailable: The store does not answer.
    """
    from tagger.collection.lease_local import LocalLease
    from tagger.collection.lease_object import ObjectLease

    holder = Holder.here(run_id, command)
    folder = _local_folder(store.uri)
    lease: Lease
    if folder is None:
        lease = ObjectLease.acquire(store, holder, ttl_s=ttl_s)
    else:
        try:
            lease = LocalLease.acquire(folder, store.uri, holder, ttl_s=ttl_s)
        except OSError as error:
            raise StoreUnavailable(f"{store.uri} cannot be written: {error.strerror}") from None
    lease.start()
    return lease


def _local_folder(uri: str) -> Path | None:
    scheme, _, key = split_uri(uri)
    return Path(os.fsdecode(decode_path(key))) if scheme == "file" else None


def _process_start(pid: int) -> str | None:
    """Return when a process started, "" where only its existence can be told, None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        after_name = stat[stat.rindex(b")") + 2 :].split()  # the name may hold spaces and brackets
        return None if after_name[0] in (b"Z", b"X") else after_name[19].decode()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


def _boot_id() -> str:
    # Containers share the kernel's boot id but count their processes apart.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
