"""Folders for what does not fit into memory, removed at the latest by the next run, and databases in them."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tagger.errors import RunError


@contextlib.contextmanager
def spill_folder(cache: Path, name: str) -> Iterator[Path]:
    """Give a folder for temporary files, and remove it in the end.

    Those of processes that were killed are removed, too: nobody holds their lock any more.

    Args:
        cache: The cache folder.
        name: Names the folder; unique among everything that runs.

    Raises:
        RunError: The cache folder is full or cannot be written.
    """
    base = cache / "spill"
    folder = base / name
    held = contextlib.ExitStack()
    try:
        base.mkdir(parents=True, exist_ok=True)
        with _locked(base / ".lock", wait=True):  # nobody may take a folder that is being made for an old one
            for old in base.iterdir():
                with contextlib.suppress(OSError), _locked(old / ".lock"):
                    shutil.rmtree(old)
            folder.mkdir()
            held.enter_context(_locked(folder / ".lock"))
    except OSError as error:
        raise RunError(
            f"there is no room to work in {base}: {error.strerror or error}; free some space there, or name "
            "another folder in TAGGER_CACHE"
        ) from None
    with held:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def open_database(path: str = ":memory:", **config: Any) -> Any:
    """Open a DuckDB database that says nothing of its own.

    By itself DuckDB draws a bar on stdout, where results go, as soon as a query takes two seconds; and the
    option that turns it off cannot be given when it is opened.

    Args:
        path: Its file.
        config: Options of DuckDB.
    """
    import duckdb

    database = duckdb.connect(path, config=config)
    database.execute("SET enable_progress_bar = false")
    return database


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
