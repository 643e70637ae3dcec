"""Manifests: files that name the images one by one."""

from __future__ import annotations

import functools
import os
import tempfile
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from tagger.errors import ImageError, SourceError, UsageError
from tagger.settings import load_settings
from tagger.source.inventory import inventory_tables
from tagger.source.listing import LISTING_SCHEMA, Source
from tagger.source.names import is_hidden
from tagger.source.repeats import refuse_repeats
from tagger.source.rows import Rows, read_rows
from tagger.storage import LocalStore, Store, encode_path, given_path, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tagger.source.names import Globs

_SUFFIXES: Final = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_PIECE_BYTES: Final = 64 << 20


def is_manifest_name(name: str) -> bool:
    """Tell whether a file of this name is read as a manifest.

    >>> [is_manifest_name(name) for name in ("list.CSV", "manifest.json", "a.json", "b.ndjson.gz", "c.jpg")]
    [True, True, False, True, False]
    """
    return name.lower().endswith(_SUFFIXES) or is_inventory_name(name)


def is_inventory_name(name: str) -> bool:
    """Tell whether a file of this name is read as the manifest of an S3 Inventory."""
    return name.rpartition("/")[2] == "manifest.json"


class ManifestSource(Source):
    """The images that a file names.

    It has a column `uri`, or `bucket` and `key` (S3), and may have `image_id`, `etag` and `size_bytes`. A
    path that is not absolute is relative to the folder of the manifest. Opening reads the whole file once, so
    that what is wrong with it is known before any work.

    Args:
        store: Folder or bucket that holds the file.
        name: Its name there.
        globs: The operator's patterns; compared with the whole address.
        leave_out: Canonical address of the collection; None for none.

    Raises:
        SourceError: The file cannot be used; the text names the line.
    """

    is_manifest = True

    def __init__(self, store: Store, name: str, globs: Globs, leave_out: str | None) -> None:
        super().__init__(store.address(name))
        self._store = store
        self._name = name
        self._globs = globs
        self._left_out = None if leave_out is None else f"{leave_out}/"
        self._is_inventory = is_inventory_name(name)
        with _fetched(store, name) as path:
            rows = refuse_repeats(lambda: self._checked(path), self.uri, load_settings().cache_dir)
        if rows == 0:
            raise SourceError(f"{self.uri} names no image")

    def covers(self, uri: str) -> bool:  # noqa: ARG002, D102 - as in Source
        return False

    def _tables(self) -> Iterator[pa.Table]:
        with _fetched(self._store, self._name) as path:
            for table, _ in self._checked(path):
                keep = [self._keep(uri) for uri in table.column("uri").to_pylist()]
                yield table if all(keep) else table.filter(pa.array(keep))

    def _keep(self, uri: str) -> bool:
        if self._left_out is not None and uri.startswith(self._left_out):
            return False
        return self._globs.match(uri)

    def _checked(self, path: Path) -> Iterator[tuple[pa.Table, Sequence[int]]]:
        """Yield tables of `LISTING_SCHEMA`, and the line of each row."""
        if self._is_inventory:
            for rows in inventory_tables(path, self._store, self.uri):
                yield self._inventory_listing(rows)
            return
        for rows in read_rows(path, self._name, self.uri):
            uris = [self._address(given, line) for given, line in zip(rows.uris, rows.lines, strict=True)]
            ids = rows.image_ids or uris
            named = [image_id or uri for image_id, uri in zip(ids, uris, strict=True)]
            yield _listing(named, uris, rows.etags, rows.sizes), rows.lines

    def _inventory_listing(self, rows: Rows) -> tuple[pa.Table, Sequence[int]]:
        """Apply the rules of a listing, since an inventory lists a bucket."""
        sizes = rows.sizes or [None] * len(rows.uris)
        keep = [not _is_no_image(uri, size) for uri, size in zip(rows.uris, sizes, strict=True)]
        table = _listing(rows.uris, rows.uris, rows.etags, sizes).filter(pa.array(keep, pa.bool_()))
        return table, list(compress(rows.lines, keep))

    def _address(self, given: str | None, line: int) -> str:
        if not given:
            raise SourceError(f"{self.uri} line {line}: names no image")
        try:
            scheme, _, key = split_uri(given)
        except UsageError as error:
            raise SourceError(f"{self.uri} line {line}: {error}") from None
        if scheme != "file":
            if not key:
                raise SourceError(f"{self.uri} line {line}: {given} is a bucket, not an image")
            return given[: len(scheme)].lower() + given[len(scheme) :]
        if not isinstance(self._store, LocalStore):
            if given.startswith("/") or "://" in given:
                raise SourceError(f"{self.uri} line {line}: a local file in a manifest that is not local")
            beside = self._name.rpartition("/")[0]
            return self._store.address(f"{beside}/{given}" if beside else given)
        path = os.path.join(self._store.root, given_path(given))  # noqa: PTH118 - a path of bytes
        folder, base = os.path.split(path)
        if not base:
            raise SourceError(f"{self.uri} line {line}: {given} is a folder, not an image")
        return "file://" + encode_path(os.path.join(_real_folder(folder), base))  # noqa: PTH118


def _listing(
    ids: Sequence[str | None],
    uris: Sequence[str | None],
    etags: Sequence[str | None] | None,
    sizes: Sequence[int | None] | None,
) -> pa.Table:
    # What a manifest says of a local file is another store's etag: ours are made of time, size and inode.
    etags = [
        etag.strip('"') or None if etag and uri and not uri.startswith("file://") else None
        for etag, uri in zip(etags or [None] * len(uris), uris, strict=True)
    ]
    columns = [
        pa.array(ids, pa.string()),
        pa.array(uris, pa.string()),
        pa.array(etags, pa.string()),
        pa.array(sizes or [None] * len(uris), pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=LISTING_SCHEMA)


def _is_no_image(uri: str | None, size_bytes: int | None) -> bool:
    # An inventory lists a bucket, so the rules of a listing hold.
    _, _, key = split_uri(uri or "")
    return is_hidden(key) or (size_bytes == 0 and key.endswith("/"))


@functools.lru_cache(maxsize=10_000)
def _real_folder(folder: bytes) -> bytes:
    return os.path.realpath(folder)


@contextmanager
def _fetched(store: Store, name: str) -> Iterator[Path]:
    """Give the path of a local copy of a file for as long as it is needed.

    Raises:
        SourceError: It cannot be read.
    """
    if isinstance(store, LocalStore):
        yield Path(os.fsdecode(store.path(name)))
        return
    with tempfile.TemporaryDirectory(prefix="tagger-manifest-") as folder:
        path = Path(folder) / "manifest"
        copy_to(store, name, path)
        yield path


def copy_to(store: Store, name: str, path: Path) -> None:
    """Copy an object to a local file, in pieces that fit in memory.

    Raises:
        SourceError: It cannot be read.
    """
    try:
        found = store.head(name)
        if found is None:
            raise SourceError(f"there is no {store.address(name)}")
        with path.open("wb") as out:
            for start in range(0, found.size_bytes, _PIECE_BYTES):
                out.write(store.read_range(name, start, _PIECE_BYTES))
    except ImageError as error:
        raise SourceError(f"{store.address(name)} cannot be read: {error.detail}") from None
    if path.stat().st_size != found.size_bytes:
        raise SourceError(f"{store.address(name)} changed while it was read: start again")
