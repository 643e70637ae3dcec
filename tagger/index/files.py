"""The files of an index: written once, and checked against their BLAKE3 before anything reads them.

index.json has the sha256 of every file, which any machine can compute, and its BLAKE3, which is as hard to
forge and four times as fast: three gigabytes are checked in half a second instead of two.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import mmap
import os
import time
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from blake3 import blake3

from tagger.errors import ImageError, IndexUnusable, RunError
from tagger.index.manifest import REMEDY, FileEntry
from tagger.storage import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from tagger.storage import Store

    Bytes = npt.NDArray[np.uint8]

PAGE_BYTES: Final = 65_536
"""Files that are mapped one behind the other end on this boundary: the largest page of any machine."""

_HASH_BYTES: Final = 4 << 20
_HASH_THREADS: Final = 8
_KEEP_S: Final = 24 * 3600
_LOCK_NAME: Final = ".lock"


def sha256_of(data: Bytes) -> str:
    """Return the sha256 of bytes, in hex; lets other threads work meanwhile."""
    digest = hashlib.sha256()
    for start in range(0, len(data), _HASH_BYTES):
        digest.update(data[start : start + _HASH_BYTES].data)
    return digest.hexdigest()


def blake3_of(data: Bytes) -> str:
    """Return the BLAKE3 of bytes, in hex; computed on all cores, and lets other threads work meanwhile."""
    return blake3(data.data, max_threads=blake3.AUTO).hexdigest()


def entry_of(version: str, path: Path) -> FileEntry:
    """Return the entry of a file that is to go into a version's folder."""
    sha256, fast = hashlib.sha256(), blake3()
    with path.open("rb") as file:
        while part := file.read(_HASH_BYTES):
            sha256.update(part)
            fast.update(part)
    return FileEntry(path.name, version, path.stat().st_size, sha256.hexdigest(), fast.hexdigest())


def put_file(store: Store, path: Path, entry: FileEntry) -> FileEntry:
    """Store a file in the folder of its version; the file at `path` is used up."""
    store.upload(entry.key, path)
    return entry


class Shelf:
    """Files of an index as memory, whole and checked.

    A local collection's files are mapped where they are. Others are fetched into the cache folder, under
    their sha256, by one process of this machine while the others wait, and checked there again whenever they
    are opened.

    Args:
        store: The collection's root.
        cache: The cache folder.
        thorough: Also compare the sha256 of every file.
    """

    def __init__(self, store: Store, cache: Path, *, thorough: bool = False) -> None:
        self._store = store
        self._thorough = thorough
        self._cache = cache / "index" / hashlib.sha256(store.uri.encode()).hexdigest()[:16]

    def open(self, entry: FileEntry) -> Bytes:
        """Return the bytes of a file, mapped.

        Raises:
            IndexUnusable: It is missing, or not the one that index.json names.
            StoreUnavailable: The store does not answer.
        """
        return self._open([entry])[1][0]

    def open_joined(self, entries: Sequence[FileEntry]) -> Bytes:
        """Return several files as one array; each but the last fills its pages.

        Raises:
            IndexUnusable, StoreUnavailable: As for `open`.
        """
        whole, _ = self._open(entries)
        return whole[: sum(entry.size_bytes for entry in entries)]

    def _open(self, entries: Sequence[FileEntry]) -> tuple[Bytes, list[Bytes]]:
        paths = [self._path(entry) for entry in entries]
        try:
            whole, pieces = map_files(paths, [entry.size_bytes for entry in entries])
        except OSError as error:
            raise self._refused(entries[0], f"cannot be read ({error.strerror})") from None
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            whole_ones = list(pool.map(self._is_whole, pieces, entries))
        for path, entry, is_whole in zip(paths, entries, whole_ones, strict=True):
            if not is_whole:
                if not isinstance(self._store, LocalStore):
                    path.unlink(missing_ok=True)  # the next try fetches it anew
                raise self._refused(entry, "is not the file that was published")
        return whole, pieces

    def _is_whole(self, data: Bytes, entry: FileEntry) -> bool:
        if blake3_of(data) != entry.blake3:
            return False
        return not self._thorough or sha256_of(data) == entry.sha256

    def require_sizes(self, entries: Sequence[FileEntry]) -> None:
        """See whether all files are there, with their sizes; reads none of them.

        Raises:
            IndexUnusable: One is missing or has another size.
        """
        for entry in entries:
            try:
                found = self._store.head(entry.key)
            except ImageError as error:
                raise self._refused(entry, f"cannot be read ({error.detail})") from None
            if found is None:
                raise self._refused(entry, "is missing")
            if found.size_bytes != entry.size_bytes:
                raise self._refused(entry, f"has {found.size_bytes:,} bytes instead of {entry.size_bytes:,}")

    def tidy(self, entries: Sequence[FileEntry]) -> None:
        """Remove files of other versions from the cache that nobody has opened for a day."""
        keep = {entry.sha256 for entry in entries}
        with contextlib.suppress(OSError):
            for path in self._cache.iterdir():
                if path.name not in keep | {_LOCK_NAME} and time.time() - path.stat().st_atime > _KEEP_S:
                    path.unlink(missing_ok=True)

    def _path(self, entry: FileEntry) -> Path:
        """Return where a file of the right size is on this machine."""
        if isinstance(self._store, LocalStore):
            path = Path(os.fsdecode(self._store.path(entry.key)))
            try:
                size = path.stat().st_size
            except OSError as error:
                raise self._refused(entry, f"cannot be read ({error.strerror})") from None
        else:
            path = self._cache / entry.sha256
            if not _has_size(path, entry.size_bytes):
                with self._alone():
                    if not _has_size(path, entry.size_bytes):  # nobody fetched it meanwhile
                        self._fetch(entry, path)
            size = path.stat().st_size
        if size != entry.size_bytes:
            raise self._refused(entry, f"has {size:,} bytes instead of {entry.size_bytes:,}")
        return path

    def _fetch(self, entry: FileEntry, path: Path) -> None:
        temporary = path.with_name(f".{entry.sha256}-{uuid.uuid4().hex}")
        try:
            self._store.download(entry.key, temporary, entry.size_bytes)
            temporary.replace(path)
        except ImageError as error:
            raise self._refused(entry, f"cannot be read ({error.detail})") from None
        except OSError as error:
            raise self._no_place(error) from None
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes and threads of this machine from fetching into the folder meanwhile.

        The lock is the system's and ends with its process, however that ends.
        """
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            lock = (self._cache / _LOCK_NAME).open("ab")
        except OSError as error:
            raise self._no_place(error) from None
        with lock:
            with contextlib.suppress(OSError):  # a folder without locks: then each fetches for itself
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _no_place(self, error: OSError) -> RunError:
        return RunError(
            f"the index cannot be kept in {self._cache} ({error.strerror}): free some space there, or "
            "name another folder in TAGGER_CACHE"
        )

    def _refused(self, entry: FileEntry, why: str) -> IndexUnusable:
        return IndexUnusable(f"{self._store.address(entry.key)} {why}: {REMEDY}")


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def map_files(paths: Sequence[Path], sizes: Sequence[int]) -> tuple[Bytes, list[Bytes]]:
    """Map files read-only, each behind the pages of the one before, into one range of addresses.

    `mmap.mmap` cannot place a mapping; and hundreds of segments that are one array in memory need one FAISS
    search instead of hundreds.

    Args:
        paths: The files.
        sizes: Their sizes, in bytes.

    Returns:
        The whole range, and the part of it that is each file. The mapping lives as long as any of them.
    """
    spans = [-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes]
    total = max(PAGE_BYTES, sum(spans))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = _mapped(libc.mmap(None, total, mmap.PROT_READ, private, -1, 0))
    block = (ctypes.c_uint8 * total).from_address(base)
    weakref.finalize(block, libc.munmap, base, total)
    offset = 0
    for path, size, span in zip(paths, sizes, spans, strict=True):
        if size:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fixed = mmap.MAP_SHARED | _MAP_FIXED
                _mapped(libc.mmap(base + offset, size, mmap.PROT_READ, fixed, descriptor, 0))
            finally:
                os.close(descriptor)
        offset += span
    whole: Bytes = np.frombuffer(memoryview(block), np.uint8)
    whole.flags.writeable = False
    starts = [0, *np.cumsum(spans).tolist()]
    return whole, [whole[start : start + size] for start, size in zip(starts, sizes, strict=False)]


_MAP_FIXED: Final = 0x10  # the same on Linux and macOS; the mmap module does not name it


def _mapped(address: int | None) -> int:
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address
