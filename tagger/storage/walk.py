"""Walking a folder of any size, with names as bytes."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH: Final = 1000
# One stat is one round trip on a network file system, so several are under way at a time.
_THREADS: Final = 8
_GONE: Final = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)

Found = tuple[bytes, os.stat_result]


class Unlistable(OSError):
    """A folder may not be listed; any other error of a walk is about a file."""


def walk(
    root: bytes,
    *,
    enter: Callable[[bytes], bool] = lambda _: True,
    want: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[list[Found]]:
    """Yield every regular file below a folder, as batches of (absolute path, status).

    Within a folder, names come in the order of their bytes. Symbolic links to files and folders are followed,
    except into a folder that holds the link itself. Links that lead nowhere, pipes, sockets and devices are
    not files. What vanishes meanwhile is left out.

    Args:
        root: The folder; a missing one yields nothing.
        enter: Whether to go into the folder of this path.
        want: Whether the file of this path is missed, if it cannot be looked at; asked of no other.

    Raises:
        Unlistable: A folder may not be listed.
        OSError: A file may not be looked at. Nothing is left out silently.
    """
    batch: list[os.DirEntry[bytes]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for entry in _files(root, enter):
            batch.append(entry)
            if len(batch) == BATCH:
                yield _look(pool, batch, want)
                batch = []
        if batch:
            yield _look(pool, batch, want)


def _look(
    pool: ThreadPoolExecutor, entries: list[os.DirEntry[bytes]], want: Callable[[bytes], bool]
) -> list[Found]:
    step = -(-len(entries) // _THREADS)
    slices = [entries[i : i + step] for i in range(0, len(entries), step)]
    return [found for part in pool.map(partial(_look_at, want), slices) for found in part]


def _look_at(want: Callable[[bytes], bool], entries: list[os.DirEntry[bytes]]) -> list[Found]:
    found = []
    for entry in entries:
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in _GONE or not want(entry.path):
                continue
            raise
        if stat.S_ISREG(status.st_mode):
            found.append((entry.path, status))
    return found


def _files(root: bytes, enter: Callable[[bytes], bool]) -> Iterator[os.DirEntry[bytes]]:
    # An explicit stack of open folders: recursion would end at a depth of 1000.
    stack = [(_entries(root), _identity(root))]
    ancestors = {stack[0][1]}
    while stack:
        entries, identity = stack[-1]
        if not entries:
            stack.pop()
            ancestors.discard(identity)
            continue
        entry = entries.pop()
        if not _leads_to_folder(entry):
            yield entry
            continue
        here = _identity(entry.path)
        if here not in ancestors and enter(entry.path):
            stack.append((_entries(entry.path), here))
            ancestors.add(here)


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # the stat to come says what is wrong with it


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name, reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Unlistable(error.errno, error.strerror, folder) from None


def _identity(folder: bytes) -> tuple[int, int]:
    try:
        status = os.stat(folder)  # noqa: PTH116 - a path of bytes
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino
