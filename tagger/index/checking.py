"""What `tagger check` says of an index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagger.errors import IndexUnusable
from tagger.index.manifest import INDEX_FOLDER, read_pointer
from tagger.index.opened import Index

if TYPE_CHECKING:
    from tagger.collection import Collection


def check_index(collection: Collection) -> tuple[list[str], list[str]]:
    """Verify the served index: every file against its sums, and that they fit together.

    Returns:
        Findings, a sentence for every broken promise, and notes; both are empty where there is no index.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    try:
        if read_pointer(collection.store) is None:
            left = any(page for page in collection.store.list(f"{INDEX_FOLDER}/"))
            note = f"{INDEX_FOLDER}/ holds files but no CURRENT: no index is served until `tagger index`"
            return [], [note] if left else []
        manifest = Index.open(collection, thorough=True).manifest
    except IndexUnusable as error:
        return [str(error)], []
    if manifest.table_version > collection.table.version:
        return [
            f"the index shows version {manifest.table_version} of the table, which has no such version"
        ], []
    behind = manifest.behind(collection.table.version)
    return [], [f"{behind}: `tagger index` brings it up to date"] if behind else []
