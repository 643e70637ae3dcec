"""The lease of a collection in an object store: an object renewed by conditional puts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from tagger.collection.lease import LEASE_NAME, Beat, Holder, Lease, busy, interval_s, read_beat, write_beat
from tagger.errors import ImageError, StoreUnavailable
from tagger.storage import AlreadyExists, PreconditionFailed

if TYPE_CHECKING:
    from tagger.storage import Store

_MAX_BYTES: Final = 64 * 1024


class ObjectLease(Lease):
    """Knows the etag of its last heartbeat; lost when the object has another."""

    def __init__(self, store: Store, holder: Holder, etag: str, *, ttl_s: float, stale: bool) -> None:
        super().__init__(store.uri, holder, ttl_s=ttl_s, stale=stale)
        self._store = store
        self._etag = etag
        self._renewed = time.monotonic()

    @classmethod
    def acquire(cls, store: Store, holder: Holder, *, ttl_s: float) -> Self:
        """Take the lease; see `lease.acquire`."""
        content = write_beat(Beat(holder, 0, time.monotonic()))
        stale = False
        while True:
            found = _look(store)
            if found is None:
                try:
                    etag = store.put(LEASE_NAME, content, if_absent=True)
                except (AlreadyExists, PreconditionFailed):
                    continue
                return cls(store, holder, etag, ttl_s=ttl_s, stale=stale)
            beat, etag = found
            if beat.holder == holder:  # our own put, whose answer got lost
                return cls(store, holder, etag, ttl_s=ttl_s, stale=stale)
            if not (beat.holder is not None and beat.holder.is_dead()):
                stands_still, still_there = _watch(store, etag, ttl_s=ttl_s)
                if not stands_still:
                    raise busy(store.uri, beat.holder)
                if not still_there:
                    continue
            stale = True
            try:
                etag = store.put(LEASE_NAME, content, if_match=etag)
            except PreconditionFailed:
                continue
            return cls(store, holder, etag, ttl_s=ttl_s, stale=True)

    def _renew(self) -> bool:
        self._count += 1
        content = write_beat(Beat(self.holder, self._count, time.monotonic()))
        try:
            self._etag = self._store.put(LEASE_NAME, content, if_match=self._etag)
        except PreconditionFailed:
            found = _look(self._store)
            if found is None or found[0].holder != self.holder:
                return False
            self._etag = found[1]  # an earlier heartbeat was written although its answer was an error
        self._renewed = time.monotonic()
        return True

    def _give_back(self) -> None:
        # There is no conditional delete. A lease renewed a moment ago is not one that anybody takes over.
        if self._lost.is_set() or time.monotonic() - self._renewed > self.ttl_s / 2:
            return
        found = _look(self._store)
        if found is not None and found[0].holder == self.holder:
            self._store.delete([LEASE_NAME])


def _watch(store: Store, etag: str, *, ttl_s: float) -> tuple[bool, bool]:
    """Watch the lease for `ttl_s`; returns (stood still or went away, is still there)."""
    deadline = time.monotonic() + ttl_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, interval_s(ttl_s) / 2))
        info = store.head(LEASE_NAME)
        if info is None:
            return True, False
        if info.etag != etag:
            return False, True
    return True, True


def _look(store: Store) -> tuple[Beat, str] | None:
    """Return the lease and the etag of just that content, or None when there is none."""
    try:
        data, etag = store.fetch(LEASE_NAME, max_bytes=_MAX_BYTES)
    except ImageError as error:
        if error.code == "not_found":
            return None
        raise StoreUnavailable(f"{store.uri}/{LEASE_NAME} cannot be read: {error.detail}") from None
    return read_beat(data), str(etag)
