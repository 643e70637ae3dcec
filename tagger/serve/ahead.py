"""The index on its way from the disk into memory while the server still loads its libraries."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

_STEP_BYTES: Final = 512 << 10
"""Linux reads no more for one call than the disk takes at once: for a whole file next to nothing."""


def read_ahead(collection: str) -> None:
    """Ask the system to read the served version of a local collection's index, in a thread of its own.

    Only a hint: nothing is checked here, and nothing is told when it fails. Whoever opens the index meets the
    same files. It needs nothing but the standard library, so that it can begin before anything else.

    Args:
        collection: Folder, or its file:// address; others are left alone.
    """
    if collection.startswith("file://"):
        root = Path(os.fsdecode(unquote_to_bytes(collection.removeprefix("file://"))))
    elif "://" not in collection:
        root = Path(collection)
    else:
        return
    threading.Thread(target=_read, args=(root,), name="tagger-read-ahead", daemon=True).start()


def _read(root: Path) -> None:
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        version = (root / "index" / "CURRENT").read_text().split()[0]
        manifest = json.loads((root / "index" / version / "index.json").read_bytes())
        for entry in manifest["files"]:
            with (root / "index" / entry["version"] / entry["name"]).open("rb") as file:
                for start in range(0, os.fstat(file.fileno()).st_size, _STEP_BYTES):
                    os.posix_fadvise(file.fileno(), start, _STEP_BYTES, os.POSIX_FADV_WILLNEED)
