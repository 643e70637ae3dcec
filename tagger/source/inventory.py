"""S3 Inventory: a bucket's own list of its objects, as Amazon writes it once a day or week."""

from __future__ import annotations

import hashlib
import json
import tempfile
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

import pyarrow as pa

from tagger.errors import SourceError
from tagger.source.rows import (
    UNREADABLE,
    Rows,
    csv_rows,
    in_one_line,
    open_text,
    parquet_tables,
    whole_numbers,
)
from tagger.storage import LocalStore, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tagger.source.rows import Lined
    from tagger.storage import Store

# Names of the fields in a CSV inventory's schema, and those of the same columns in Parquet.
_FIELDS: Final = {
    "Bucket": "bucket",
    "Key": "key",
    "Size": "size",
    "ETag": "e_tag",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}
_BATCH: Final = 10_000


def inventory_tables(path: Path, store: Store, uri: str) -> Iterator[Rows]:
    """Yield the rows of an S3 Inventory: latest versions of objects that are not deleted.

    Args:
        path: The manifest.json.
        store: Folder or prefix where it lies.
        uri: Its address, for messages.

    Raises:
        SourceError: It is no inventory, or one of its data files is missing, damaged or of another format.
    """
    manifest = _manifest(path, uri)
    kind = str(manifest.get("fileFormat", "")).upper()
    if kind not in {"CSV", "PARQUET"}:
        raise SourceError(f"{uri} is an inventory in {kind or 'no'} format: make it CSV or Parquet")
    fields = [field.strip() for field in str(manifest.get("fileSchema", "")).split(",")]
    if kind == "CSV" and not {"Bucket", "Key"} <= set(fields):
        raise SourceError(f"{uri} has no Bucket and Key in its fileSchema")
    for file in manifest["files"]:
        with tempfile.TemporaryDirectory(prefix="tagger-inventory-") as folder:
            data, name = _data_file(file, Path(folder), path, store, uri)
            try:
                if kind == "CSV":
                    tables = _csv_tables(data, fields, name)
                else:
                    tables = parquet_tables(data, list(_FIELDS.values()))
                for lines, table in tables:
                    yield _current(table, lines, name, decode=kind == "CSV")
            except UNREADABLE as error:
                raise SourceError(f"{name} cannot be read: {in_one_line(error)}") from None


def _manifest(path: Path, uri: str) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, OSError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        raise SourceError(f"{uri} is not the manifest of an S3 Inventory: it has no list of files")
    if not all(isinstance(file, dict) and isinstance(file.get("key"), str) for file in manifest["files"]):
        raise SourceError(f"{uri} is not the manifest of an S3 Inventory: a file in it has no key")
    return manifest


def _data_file(
    file: dict[str, Any], folder: Path, manifest: Path, store: Store, uri: str
) -> tuple[Path, str]:
    """Return a local copy of a data file, verified, and its name for messages."""
    key = file["key"]
    if isinstance(store, LocalStore):
        # Copied from its bucket: somewhere beside or above the manifest, under the end of its key.
        parts = key.split("/")
        ends = ["/".join(parts[i:]) for i in range(len(parts))]
        places = [base / end for base in manifest.resolve().parents for end in ends]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise SourceError(f"{uri} names the data file {key}, which is not there")
        name = f"file://{path}"
    else:
        from tagger.source.manifest import copy_to
        from tagger.storage import open_store

        scheme, bucket, _ = split_uri(store.uri)
        path = folder / "data"
        copy_to(open_store(f"{scheme}://{bucket}", store.options), key, path)
        name = f"{scheme}://{bucket}/{key}"
    expected = file.get("MD5checksum")
    if expected:
        with path.open("rb") as data:
            found = hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != str(expected).lower():
            raise SourceError(f"{name} is damaged: its MD5 is not the one in the manifest")
    return path, name


def _csv_tables(path: Path, fields: list[str], name: str) -> Iterator[Lined]:
    wanted = [(place, _FIELDS[field]) for place, field in enumerate(fields) if field in _FIELDS]
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
    lines: list[int] = []
    rows: list[list[str]] = []

    def table() -> pa.Table:
        return pa.table(
            {column: pa.array([row[place] for row in rows], pa.string()) for place, column in wanted}
        )

    with open_text(path, gzipped=gzipped) as file:
        for line, row in csv_rows(file):
            if len(row) != len(fields):
                raise SourceError(f"{name} line {line}: has {len(row)} fields, and the schema {len(fields)}")
            lines.append(line)
            rows.append(row)
            if len(rows) == _BATCH:
                yield lines, table()
                lines, rows = [], []
    yield lines, table()


def _current(table: pa.Table, lines: Sequence[int], name: str, *, decode: bool) -> Rows:
    """Return the objects that are there now: latest versions that are no delete markers."""
    columns = set(table.column_names)
    if not {"bucket", "key"} <= columns:
        raise SourceError(f"{name} has no columns bucket and key")
    nothing = [None] * table.num_rows
    latest = table.column("is_latest").to_pylist() if "is_latest" in columns else nothing
    deleted = table.column("is_delete_marker").to_pylist() if "is_delete_marker" in columns else nothing
    keep = [
        _truth(is_latest, default=True) and not _truth(is_deleted, default=False)
        for is_latest, is_deleted in zip(latest, deleted, strict=True)
    ]
    keys = table.column("key").to_pylist()
    if decode:
        keys = [unquote_plus(key) for key in keys]
    pairs = zip(table.column("bucket").to_pylist(), keys, strict=True)
    etags = table.column("e_tag").to_pylist() if "e_tag" in columns else nothing
    sizes = whole_numbers(table, "size", lines, name) if "size" in columns else nothing
    return Rows(
        list(compress(lines, keep)),
        list(compress((f"s3://{bucket}/{key}" for bucket, key in pairs), keep)),
        None,
        list(compress(etags, keep)),
        list(compress(sizes, keep)),
    )


def _truth(value: object, *, default: bool) -> bool:
    if value is None or value == "":
        return default
    return str(value).lower() == "true"
