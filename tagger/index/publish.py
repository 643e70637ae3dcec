"""Publishing: a version becomes the served one in a single conditional write of CURRENT."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tagger.errors import RunError
from tagger.index.manifest import (
    CURRENT_NAME,
    INDEX_FOLDER,
    MANIFEST_NAME,
    Manifest,
    Pointer,
    read_manifest,
    read_pointer,
)
from tagger.storage import AlreadyExists, PreconditionFailed

if TYPE_CHECKING:
    from tagger.storage import Store

_TRIES = 5


def publish(store: Store, manifest: Manifest, before: Pointer | None) -> Manifest:
    """Serve a version whose files are stored already.

    Args:
        store: The collection's root.
        manifest: The version.
        before: What CURRENT said when the work began, or of a damaged one its etag; None if there was none.

    Returns:
        What is served now: this version, or one that another process has published meanwhile of a newer
        version of the table.

    Raises:
        RunError: CURRENT keeps changing.
        StoreUnavailable: The store cannot be written.
    """
    data = manifest.to_json()
    store.put(f"{INDEX_FOLDER}/{manifest.version}/{MANIFEST_NAME}", data)
    pointer = Pointer(manifest.version, hashlib.sha256(data).hexdigest())
    etag = before.etag if before else None
    for _ in range(_TRIES):
        try:
            if etag is None:
                store.put(CURRENT_NAME, pointer.to_bytes(), if_absent=True)
            else:
                store.put(CURRENT_NAME, pointer.to_bytes(), if_match=etag)
        except (AlreadyExists, PreconditionFailed):
            found = read_pointer(store)
            if found is not None:
                other = read_manifest(store, found)
                if other.table_version > manifest.table_version:
                    return other
            etag = found.etag if found else None
        else:
            return manifest
    raise RunError(f"{store.address(CURRENT_NAME)} keeps changing: another program writes it")
