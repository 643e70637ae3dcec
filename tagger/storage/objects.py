# ruff: noqa: D102 - what the methods promise is written in Store
"""Object storage behind the one door: keys below a prefix of a bucket, moved by obstore."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import obstore
from obstore.exceptions import BaseError

from tagger.errors import ImageError, SourceError, StoreUnavailable
from tagger.storage.faults import Fault, Speaker, from_obstore, quoted, unquoted
from tagger.storage.store import ObjectInfo, Objects, StorageOptions, Store, check_size
from tagger.storage.uris import survives_obstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

# What obstore raises: its own errors, FileNotFoundError, and ValueError for a path it cannot express.
OBSTORE_ERRORS: Final = (BaseError, OSError, ValueError)
_TRIES: Final = 3
_DELETE_BATCH: Final = 1000
_LIST_BATCH: Final = 1000
_PART_BYTES: Final = 16 << 20  # of a multipart upload: 10,000 parts are the most, 160 GB
_PARTS_AT_ONCE: Final = 4


class OddKeys(Protocol):
    """Reads and writes single objects whose keys obstore cannot express; the same rules as `Store`."""

    def fetch(
        self, key: str, *, if_match: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str | None]: ...
    def head(self, key: str) -> ObjectInfo | None: ...
    def put(self, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str: ...
    def delete(self, key: str) -> None: ...


class ObjectStore(Store):
    """Keys below a prefix of a bucket.

    Args:
        bucket_uri: Such as `s3://photos`.
        prefix: Raw key prefix without a trailing slash, or empty for the whole bucket.
        options: How it was opened.
        speaker: Words the errors.
        handle: Gives obstore's store for the bucket.
        odd: Serves keys that obstore cannot ask for; None where nothing can.
        patience_s: No cut read is repeated after so many seconds.
    """

    def __init__(
        self,
        bucket_uri: str,
        prefix: str,
        options: StorageOptions,
        *,
        speaker: Speaker,
        handle: Callable[[], Any],
        odd: OddKeys | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self.uri = f"{bucket_uri}/{prefix}" if prefix else bucket_uri
        self.options = options
        self._prefix = f"{prefix}/" if prefix else ""
        self._speaker = speaker
        self._handle = handle
        self._odd = odd
        self._patience_s = patience_s

    def fetch(  # noqa: RET503 - raise_for_read never returns
        self, name: str, *, if_match: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str | None]:
        key = self._prefix + name
        if not survives_obstore(key):
            return self._odd_keys().fetch(key, if_match=if_match, max_bytes=max_bytes)
        options: Any = {"if_match": quoted(if_match)} if if_match else None
        deadline = time.monotonic() + self._patience_s
        for tries in range(_TRIES):
            try:
                result = obstore.get(self._handle(), key, options=options)
                size_bytes = result.meta["size"]
                check_size(size_bytes, max_bytes)
                data = bytes(result.bytes())
            except OBSTORE_ERRORS as error:
                fault = from_obstore(error, key)
                # obstore repeats requests; a body that ended early it only continues, and not always.
                if fault.kind != "broken" or tries + 1 == _TRIES or time.monotonic() > deadline:
                    self._speaker.raise_for_read(fault)
                continue
            if len(data) == size_bytes:
                return data, unquoted(result.meta["e_tag"])
        self._speaker.raise_for_read(Fault("broken"))

    def read_range(self, name: str, start: int, length: int) -> bytes:  # noqa: RET503 - same
        key = self._prefix + name
        if not survives_obstore(key):
            return self._odd_keys().fetch(key)[0][start : start + length]
        if length <= 0:
            return b""
        try:
            return bytes(obstore.get_range(self._handle(), key, start=start, length=length))
        except OBSTORE_ERRORS as error:
            fault = from_obstore(error, key)
        # Only HTTP has a status for a range past the end; elsewhere the size must tell.
        if fault.answer.startswith("416"):
            return b""
        if fault.kind == "other" and (found := self.head(name)) is not None and start >= found.size_bytes:
            return b""
        self._speaker.raise_for_read(fault)

    def head(self, name: str) -> ObjectInfo | None:
        key = self._prefix + name
        if not survives_obstore(key):
            found = self._odd_keys().head(key)
            return None if found is None else found._replace(name=name)
        try:
            meta = obstore.head(self._handle(), key)
        except OBSTORE_ERRORS as error:
            fault = from_obstore(error, key)
            if fault.kind == "not_found":
                return None
            if fault.kind == "forbidden":
                fault = self._why_forbidden(key, fault)
            self._speaker.raise_for_read(fault)
        return ObjectInfo(name, unquoted(meta["e_tag"]), meta["size"])

    def put(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        key = self._prefix + name
        if not survives_obstore(key):
            return self._odd_keys().put(key, data, if_absent=if_absent, if_match=if_match)
        mode: Any = "overwrite"
        if if_absent:
            mode = "create"
        elif if_match is not None:
            mode = {"e_tag": quoted(if_match)}
        deadline = time.monotonic() + self._patience_s
        unsure, pause_s = False, 0.1
        while True:
            try:
                # One request whatever the size: the condition and the etag are those of the whole object.
                result = obstore.put(self._handle(), key, data, mode=mode, use_multipart=False)
            except OBSTORE_ERRORS as error:
                fault = from_obstore(error, key)
                if fault.kind in {"exists", "changed"} and (fault.retried or unsure):
                    # An earlier try may have been applied though its answer was lost: then it is ours.
                    etag = self._if_ours(name, data)
                    if etag is not None:
                        return etag
                # obstore repeats no conditional write whose connection broke: it may have been applied.
                if fault.kind not in {"broken", "unreachable"} or time.monotonic() + pause_s > deadline:
                    self._speaker.raise_for_write(fault, key)
                unsure = True
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)
            else:
                return unquoted(result["e_tag"]) or ""

    def upload(self, name: str, path: Path) -> None:
        key = self._prefix + name
        if not survives_obstore(key):
            self._odd_keys().put(key, path.read_bytes(), if_absent=False, if_match=None)
            return
        try:
            obstore.put(self._handle(), key, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        except OBSTORE_ERRORS as error:
            self._speaker.raise_for_write(from_obstore(error, key), key)

    def delete(self, names: Iterable[str]) -> None:
        batch: list[str] = []
        for name in names:
            key = self._prefix + name
            if not survives_obstore(key):
                self._odd_keys().delete(key)
                continue
            batch.append(key)
            if len(batch) == _DELETE_BATCH:
                self._delete_together(batch)
                batch = []
        if batch:
            self._delete_together(batch)

    def list(self, prefix: str = "") -> Iterator[Objects]:
        full = self._prefix + prefix
        cut = len(self._prefix)
        try:
            listing = obstore.list(
                self._handle(), prefix=full.rpartition("/")[0] or None, chunk_size=_LIST_BATCH
            )
            for chunk in listing:
                found = [
                    ObjectInfo(meta["path"][cut:], unquoted(meta["e_tag"]), meta["size"])
                    for meta in chunk
                    if meta["path"].startswith(full)
                ]
                if found:
                    yield found
        except OBSTORE_ERRORS as error:
            if "InvalidPath" in str(error) or "illegal" in str(error) or "empty path segment" in str(error):
                raise SourceError(
                    f"{self.uri} holds a key with an empty, `.` or `..` part or a control character, which "
                    "cannot be listed here: name the images in a manifest"
                ) from None
            self._speaker.raise_for_bucket(from_obstore(error, full))

    def check(self) -> None:
        next(self.list(), None)

    def _if_ours(self, name: str, data: bytes) -> str | None:
        try:
            found, etag = self.fetch(name)
        except (ImageError, StoreUnavailable):
            return None
        return etag or "" if found == data else None

    def _why_forbidden(self, key: str, fault: Fault) -> Fault:
        # The answer to a HEAD has no body; that to a GET tells a bad signature from a closed object.
        try:
            obstore.get_range(self._handle(), key, start=0, length=1)
        except OBSTORE_ERRORS as error:
            return from_obstore(error, key)
        return fault

    def _delete_together(self, keys: Sequence[str]) -> None:
        try:
            obstore.delete(self._handle(), keys)
        except FileNotFoundError:
            # Some stores fail for a missing object, and then leave the rest of the batch undone.
            for key in keys:
                try:
                    obstore.delete(self._handle(), key)
                except FileNotFoundError:
                    continue
                except OBSTORE_ERRORS as error:
                    self._speaker.raise_for_write(from_obstore(error, key), key)
        except OBSTORE_ERRORS as error:
            self._speaker.raise_for_write(from_obstore(error), keys[0])

    def _odd_keys(self) -> OddKeys:
        if self._odd is None:
            raise ImageError(
                "read_error",
                "the key has an empty, `.` or `..` part or a control character, which only s3:// can ask for",
            )
        return self._odd
