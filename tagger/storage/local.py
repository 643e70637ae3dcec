# ruff: noqa: D102 - what the methods promise is written in Store
"""Local files behind the same door as object storage."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

from tagger.errors import ImageError, SourceError, StoreUnavailable
from tagger.storage.faults import AlreadyExists, PreconditionFailed
from tagger.storage.store import ObjectInfo, Objects, StorageOptions, Store, check_size
from tagger.storage.uris import decode_path, encode_path, given_path
from tagger.storage.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL)
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def file_etag(status: os.stat_result) -> str:
    """Return the version of a file: another time, size or inode is another version."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def cannot_list(error: OSError) -> str:
    """Say which folder cannot be listed, and why."""
    folder = error.filename
    shown = encode_path(folder if isinstance(folder, bytes) else os.fsencode(folder or ""))
    return f"file://{shown} cannot be listed: {error.strerror}"


class LocalStore(Store):
    """A folder of files.

    Names are paths relative to it, written by `encode_path`. The folder's own symbolic links are resolved
    once; names below it stay as they are found.

    Args:
        path: The folder, as a plain path or `file://` URI; it need not exist.
        options: Kept for pickling; nothing in them concerns files.
    """

    def __init__(self, path: str, options: StorageOptions = StorageOptions()) -> None:  # noqa: B008 - frozen
        self.root = os.path.realpath(given_path(path))
        self.options = options
        self.uri = "file://" + encode_path(self.root).rstrip("/")

    def fetch(
        self, name: str, *, if_match: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str | None]:
        with self._opened(name) as (descriptor, before):
            etag = file_etag(before)
            if if_match is not None and if_match != etag:
                raise ImageError("changed", "the file is not the one that was listed; the next run takes it")
            check_size(before.st_size, max_bytes)
            data = _read_all(descriptor, before.st_size)
            if file_etag(os.fstat(descriptor)) != etag or len(data) != before.st_size:
                raise ImageError("changed", "the file was written while it was read")
        return data, etag

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._opened(name) as (descriptor, _):
            parts = []
            while length > 0 and (part := os.pread(descriptor, length, start)):
                parts.append(part)
                start, length = start + len(part), length - len(part)
        return b"".join(parts)

    def head(self, name: str) -> ObjectInfo | None:
        try:
            status = os.stat(self.path(name))  # noqa: PTH116 - a path of bytes
        except OSError as error:
            if error.errno in _MISSING:
                return None
            _raise_for_read(error)
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(name, file_etag(status), status.st_size)

    def put(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        with self._placing(name) as target:
            temporary, etag = _write_beside(target, data)
            try:
                if if_absent:
                    self._place_if_absent(name, temporary, target, data)
                    etag = file_etag(os.stat(target))  # noqa: PTH116
                elif if_match is not None:
                    self._replace_if(name, temporary, target, if_match)
                else:
                    os.replace(temporary, target)  # noqa: PTH105
            finally:
                _unlink(temporary)
        return etag

    def upload(self, name: str, path: Path) -> None:
        with self._placing(name) as target:
            temporary = _name_beside(target)
            try:
                try:
                    os.link(path, temporary)
                except OSError as error:
                    if error.errno not in (*_NO_LINKS, errno.EXDEV):
                        raise
                    shutil.copyfile(path, temporary)
                descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, target)  # noqa: PTH105
            finally:
                _unlink(temporary)

    @contextmanager
    def _placing(self, name: str) -> Iterator[bytes]:
        """Give the path that a file is put at, in a folder that exists, and make its place last."""
        target = self.path(name)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120 - a path of bytes
            yield target
            _sync_folder(target)
        except OSError as error:
            raise StoreUnavailable(f"{self.address(name)} cannot be written: {error.strerror}") from None

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                os.unlink(self.path(name))  # noqa: PTH108
            except OSError as error:
                if error.errno not in _MISSING:
                    raise StoreUnavailable(
                        f"{self.address(name)} cannot be deleted: {error.strerror}"
                    ) from None

    def list(self, prefix: str = "") -> Iterator[Objects]:
        begin = decode_path(prefix)
        start = os.path.join(self.root, os.path.dirname(begin))  # noqa: PTH118, PTH120 - bytes
        cut = len(self.root.rstrip(b"/")) + 1
        try:
            for files in walk(start):
                batch = [
                    ObjectInfo(encode_path(path[cut:]), file_etag(status), status.st_size)
                    for path, status in files
                    if path.startswith(begin, cut)
                ]
                if batch:
                    yield batch
        except OSError as error:
            raise SourceError(cannot_list(error)) from None

    def check(self) -> None:
        try:
            os.listdir(self.root)  # noqa: PTH208
        except FileNotFoundError:
            raise SourceError(f"there is no folder {self.uri}") from None
        except NotADirectoryError:
            raise SourceError(f"{self.uri} is not a folder") from None
        except OSError as error:
            raise SourceError(cannot_list(error)) from None

    def delta_uri(self, subpath: str = "") -> str:
        # deltalake takes a plain path as it is, and would decode the %XX of a URI.
        return os.fsdecode(self.path(subpath))

    def root_is_folder(self) -> bool:
        """Tell whether the folder is there, and is one."""
        return os.path.isdir(self.root)  # noqa: PTH112 - a path of bytes

    def path(self, name: str) -> bytes:
        """Return the file path of a name."""
        return os.path.join(self.root, decode_path(name)) if name else self.root  # noqa: PTH118

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, os.stat_result]]:
        try:
            # O_NONBLOCK, because opening a pipe that somebody put in a file's place would wait for ever.
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            _raise_for_read(error)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not_found", "this is not a file")
            try:
                yield descriptor, status
            except OSError as error:
                _raise_for_read(error)
        finally:
            os.close(descriptor)

    def _place_if_absent(self, name: str, temporary: bytes, target: bytes, data: bytes) -> None:
        try:
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # A file system without hard links: still exclusive, though a reader may see it half written.
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
        except FileExistsError:
            raise AlreadyExists(f"{self.address(name)} exists already") from None

    def _replace_if(self, name: str, temporary: bytes, target: bytes, if_match: str) -> None:
        with _locked(target):
            found = self.head(name)
            if found is None or found.etag != if_match:
                raise PreconditionFailed(f"{self.address(name)} was changed by somebody else")
            os.replace(temporary, target)  # noqa: PTH105


@contextmanager
def _locked(target: bytes) -> Iterator[None]:
    """Hold the lock that guards conditional writes of one file; the lock file goes away afterwards."""
    folder, base = os.path.split(target)
    path = os.path.join(folder, b"." + base + b".lock")  # noqa: PTH118
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # The holder before us has unlinked the file that we waited on, unless it is still this one.
            if _is_still(path, lock):
                try:
                    yield
                finally:
                    _unlink(path)
                return
        finally:
            os.close(lock)


def _is_still(path: bytes, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _read_all(descriptor: int, size_bytes: int) -> bytes:
    # One byte more than expected, so that a file that grows meanwhile shows.
    parts, left = [], size_bytes + 1
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_beside(target: bytes, data: bytes) -> tuple[bytes, str]:
    temporary = _name_beside(target)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        # The kernel's clock has ticks of milliseconds: two writes within one would look like one version.
        now = time.time_ns()
        os.utime(descriptor, ns=(now, now))
        os.fsync(descriptor)
        return temporary, file_etag(os.fstat(descriptor))
    except BaseException:
        _unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _name_beside(target: bytes) -> bytes:
    folder = os.path.dirname(target)  # noqa: PTH120
    return os.path.join(folder, b".tagger-" + secrets.token_hex(8).encode() + b".tmp")  # noqa: PTH118


def _sync_folder(target: bytes) -> None:
    descriptor = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


def _unlink(path: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def _raise_for_read(error: OSError | ValueError) -> NoReturn:
    code = error.errno if isinstance(error, OSError) else errno.EINVAL  # ValueError: a NUL in the name
    if code in _MISSING:
        raise ImageError("not_found", "there is no such file any more") from None
    if code in (errno.EACCES, errno.EPERM):
        raise ImageError("forbidden", "this user may not read the file") from None
    reason = error.strerror if isinstance(error, OSError) else str(error)
    raise ImageError("read_error", f"the file cannot be read: {reason}") from None
