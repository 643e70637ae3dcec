"""Which images: everything in a bucket, prefix or folder, one file, or the rows of a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagger.errors import ImageError, SourceError, StoreUnavailable
from tagger.source.listing import LISTING_SCHEMA, Source
from tagger.source.names import Globs, Names
from tagger.source.places import FolderSource, PrefixSource, SingleSource, file_path
from tagger.storage import (
    LocalStore,
    StorageOptions,
    Store,
    canonical_uri,
    open_store,
    split_uri,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LISTING_SCHEMA", "Source", "open_source"]


def open_source(
    source: str,
    *,
    options: StorageOptions = StorageOptions(),  # noqa: B008 - frozen
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    leave_out: str | None = None,
) -> Source:
    """Open a source, and see whether it is there.

    Args:
        source: A bucket, a prefix, a local folder, one image, or a manifest: a file that ends in .parquet,
            .csv, .jsonl or .ndjson (the last three also .gz), or the manifest.json of an S3 Inventory. A
            prefix means the folder of that name: `s3://b/pho` lists `pho/…`, never `photos/…`.
        options: How to reach it.
        include: Patterns of keys to keep; see `Globs`.
        exclude: Patterns of keys to leave out of those.
        leave_out: Address of the collection, which is never listed.

    Raises:
        SourceError: There is no such bucket or folder, or the manifest cannot be used.
        UsageError: The address, the credentials or the patterns cannot be used.
        StoreUnavailable: The store does not answer.
    """
    from tagger.source.manifest import ManifestSource, is_manifest_name

    globs = Globs(include, exclude)
    out = None if leave_out is None else canonical_uri(leave_out)
    scheme, bucket, key = split_uri(source)
    if scheme == "file":
        return _open_local(source, options, globs, out)
    # Files are asked for by their whole key: cut at its slashes, an odd one would become another.
    whole = open_store(f"{scheme}://{bucket}", options)
    if is_manifest_name(key) and _is_there(whole, key):
        return ManifestSource(whole, key, globs, out)
    place = open_store(source, options)
    place.check()
    if next(place.list(), None) is None and key and not key.endswith("/") and _is_there(whole, key):
        return SingleSource(whole, key, globs)
    # An empty prefix is a source without images: for --prune that means something, for others it is refused.
    return PrefixSource(place, Names(place.uri, globs, out))


def _open_local(source: str, options: StorageOptions, globs: Globs, out: str | None) -> Source:
    from tagger.source.manifest import ManifestSource, is_manifest_name

    place = LocalStore(source, options)
    if place.root_is_folder():
        leave_out = file_path(out) if out is not None and out.startswith("file://") else None
        return FolderSource(place, Names(place.uri, globs, out), leave_out)
    folder, _, name = place.uri.rpartition("/")
    beside = LocalStore(folder + "/", options)
    try:
        there = beside.exists(name)
    except ImageError as error:
        raise SourceError(f"{source} cannot be opened: {error.detail}") from None
    if not there:
        raise SourceError(f"there is no file or folder {source}")
    if is_manifest_name(name):
        return ManifestSource(beside, name, globs, out)
    return SingleSource(beside, name, globs)


def _is_there(store: Store, name: str) -> bool:
    try:
        return store.exists(name)
    except ImageError:
        return False  # the listing to come says what is wrong
    except StoreUnavailable:
        store.check()  # before any work, refused credentials are wrong usage
        raise
