"""The lease of a collection in a local folder: a file lock the kernel drops when its process ends."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

from tagger.collection.lease import LEASE_NAME, Beat, Holder, Lease, busy, interval_s, read_beat, write_beat
from tagger.errors import CollectionBusy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GUARD_NAME: Final = ".lease.lock"
_CONTENT_BYTES: Final = 4096  # constant, so that a heartbeat is one write over the last one
_POLL_S: Final = 0.1


class LocalLease(Lease):
    """Holds `lease.json` open under flock; lost when another file stands in its place."""

    def __init__(self, folder: Path, uri: str, holder: Holder, fd: int, *, ttl_s: float, stale: bool) -> None:
        super().__init__(uri, holder, ttl_s=ttl_s, stale=stale)
        self._folder = folder
        self._fd = fd

    @classmethod
    def acquire(cls, folder: Path, uri: str, holder: Holder, *, ttl_s: float) -> Self:
        """Take the lease; see `lease.acquire`."""
        deadline = time.monotonic() + ttl_s
        seen: Beat | None = None
        while True:
            with _guard(folder, uri, ttl_s):
                fd = os.open(folder / LEASE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    taken, stale = _try_lock(fd), False
                    beat = read_beat(os.pread(fd, 2 * _CONTENT_BYTES, 0))
                    if taken:
                        # Content without a lock: its process ended without giving the lease back.
                        stale = os.fstat(fd).st_size > 0
                    elif _is_stale(beat, seen, ttl_s=ttl_s, waited=time.monotonic() >= deadline):
                        os.close(fd)
                        fd = _replace(folder, holder)
                        taken = stale = True
                    elif _is_alive(beat, seen, ttl_s=ttl_s):
                        raise busy(uri, beat.holder)
                    if taken:
                        _write(fd, Beat(holder, 0, time.monotonic()))
                        lease = cls(folder, uri, holder, fd, ttl_s=ttl_s, stale=stale)
                        fd = -1
                        return lease
                finally:
                    if fd >= 0:
                        os.close(fd)
            if seen is None or (beat.holder, beat.count) != (seen.holder, seen.count):
                deadline = time.monotonic() + ttl_s
                seen = beat
            time.sleep(_POLL_S)

    def _renew(self) -> bool:
        if not _same_file(self._folder / LEASE_NAME, self._fd):
            return False
        self._count += 1
        _write(self._fd, Beat(self.holder, self._count, time.monotonic()))
        return True

    def _give_back(self) -> None:
        try:
            with _guard(self._folder, self.uri, self.ttl_s):
                if _same_file(self._folder / LEASE_NAME, self._fd):
                    (self._folder / LEASE_NAME).unlink()
        finally:
            os.close(self._fd)


def _is_stale(beat: Beat, seen: Beat | None, *, ttl_s: float, waited: bool) -> bool:
    """Judge a holder whose lock is still held: a stopped process, or a child that inherited the lock."""
    if beat.holder is not None and beat.holder.same_machine():
        # One clock for all processes of a machine, which does not run while the machine sleeps.
        return beat.holder.is_dead() or time.monotonic() - beat.clock_s >= ttl_s
    return waited and seen is not None and (beat.holder, beat.count) == (seen.holder, seen.count)


def _is_alive(beat: Beat, seen: Beat | None, *, ttl_s: float) -> bool:
    if (
        seen is not None
        and seen.holder is not None
        and (beat.holder, beat.count) != (seen.holder, seen.count)
    ):
        return True
    fresh_s = 2 * interval_s(ttl_s)
    return (
        beat.holder is not None and beat.holder.same_machine() and time.monotonic() - beat.clock_s < fresh_s
    )


def _replace(folder: Path, holder: Holder) -> int:
    """Put a new, locked file in the place of one that a stopped process holds; returns its descriptor."""
    fresh = folder / f"{LEASE_NAME}.{holder.token}"
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        _write(fd, Beat(holder, 0, time.monotonic()))
        fresh.replace(folder / LEASE_NAME)
    except BaseException:
        os.close(fd)
        fresh.unlink(missing_ok=True)
        raise
    return fd


def _write(fd: int, beat: Beat) -> None:
    os.pwrite(fd, write_beat(beat).ljust(_CONTENT_BYTES), 0)


def _same_file(path: Path, fd: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _guard(folder: Path, uri: str, ttl_s: float) -> Iterator[None]:
    """Let one process at a time take or give back; held for a moment only."""
    fd = os.open(folder / _GUARD_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + ttl_s
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                raise CollectionBusy(
                    f"another process has been about to write {uri} for {ttl_s:g} s; stop it"
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)
