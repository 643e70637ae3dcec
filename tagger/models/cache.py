"""Converted models on the driver's disk: checked on every use, made whole or not at all.

    CACHE/models/known/<key>.json    what a spec with these weights turned out to be (model_id, labels, …)
    CACHE/models/<key>/              one converted model: meta.json with the sha256 of every other file

An entry is written to a folder of its own and renamed into place, so that two processes may make the same
one. An entry whose files do not have their sha256 counts as absent and is replaced.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tagger.errors import ModelError


def sha256(data: bytes) -> str:
    """Return the sha256 of `data`, hex."""
    return hashlib.sha256(data).hexdigest()


def key_of(about: Mapping[str, Any]) -> str:
    """Return a short key of JSON-like data; equal data has equal keys."""
    return sha256(json.dumps(about, sort_keys=True).encode())[:24]


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON record that was written by `write_record`; None if it is absent, damaged or altered."""
    try:
        stored = json.loads(path.read_bytes())
        record: dict[str, Any] = stored["record"]
        intact = stored["sha256"] == sha256(json.dumps(record, sort_keys=True).encode())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if intact else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON record with its own checksum, atomically.

    Raises:
        ModelError: The cache folder cannot be written.
    """
    digest = sha256(json.dumps(record, sort_keys=True).encode())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump({"record": record, "sha256": digest}, file)
        Path(file.name).replace(path)
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def read_entry(folder: Path) -> dict[str, Any] | None:
    """Return an entry's meta data, or None if any of its files is absent or altered."""
    meta = read_record(folder / "meta.json")
    if meta is None:
        return None
    for name, digest in meta["files"].items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return None
        except OSError:
            return None
    return meta


def write_entry(folder: Path, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Write an entry, or take the one that another process made meanwhile.

    Args:
        folder: Where it belongs.
        files: Contents by name.
        meta: JSON-like; `files` (name to sha256) is added.

    Returns:
        The meta data as `read_entry` gives it.

    Raises:
        ModelError: The cache folder cannot be written.
    """
    full = {**meta, "files": {name: sha256(data) for name, data in files.items()}}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            write_record(fresh / "meta.json", full)
            while True:
                try:
                    fresh.rename(folder)
                except OSError:
                    if not folder.exists():
                        raise
                else:
                    return full
                if (theirs := read_entry(folder)) is not None:
                    return theirs
                _set_aside(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder.parent, error) from None


def _set_aside(folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
    try:
        folder.rename(aside / "entry")
    except FileNotFoundError:
        pass  # another process set it aside first
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> ModelError:
    return ModelError(f"the model cache {folder} cannot be written: {error.strerror or error}")
