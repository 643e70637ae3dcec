"""A collection: its config, its table, its writer."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tagger.collection.config import CONFIG_NAME, MODEL_FOLDER, TAXONOMY_FOLDER, Config, taxonomy_name
from tagger.collection.lease import TTL_S
from tagger.collection.parts import TAGS_FOLDER
from tagger.collection.runs import RUNS_FOLDER, RunRecord, read_runs
from tagger.collection.table import TagsTable
from tagger.collection.writer import Writer
from tagger.errors import CollectionError, ImageError, RunError, UsageError
from tagger.storage import AlreadyExists, PreconditionFailed, StorageOptions, Store, open_store, split_uri
from tagger.storage.uris import decode_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from tagger.collection.config import Tagging
    from tagger.tags import Taxonomy

_CONFIG_BYTES: Final = 16 * 1024 * 1024
_HEAD_BYTES: Final = 1024 * 1024 * 1024

# What a creation that was cut short, or another one at the same time, may have left.
_OURS: Final = re.compile(
    rf"{re.escape(CONFIG_NAME)}|{TAXONOMY_FOLDER}/[0-9a-f]{{64}}\.json|{MODEL_FOLDER}/[0-9a-f]{{64}}\.safetensors"
)

# Files under names of the moment, of a run that is about to create the table.
_STAGED: Final = re.compile(r"#\d+$|\.tmp$")

_ODD: Final = re.compile(r"%[0-9A-Fa-f]{2}|\\|[\x00-\x1f\x7f]")
_ODD_KEY: Final = re.compile(rf"{_ODD.pattern}|[#?]|(^|/)(\.{{0,2}})/|(^|/)\.{{1,2}}$")


class Collection:
    """A folder or prefix that holds the tags of images, all by one model.

    Use `create_or_open`, or `open` to read only.

    Attributes:
        store: The collection's root.
        config: As it holds for the rows at the table's version.
        table: The tags table.
    """

    def __init__(self, store: Store, config: Config, table: TagsTable) -> None:
        self.store = store
        self.config = config
        self.table = table

    @property
    def uri(self) -> str:
        """Where the collection lives."""
        return self.store.uri

    @classmethod
    def create_or_open(
        cls,
        uri: str,
        config: Config,
        options: StorageOptions | None = None,
        *,
        taxonomy: Taxonomy | None = None,
        head: Callable[[], bytes] | None = None,
    ) -> Self:
        """Open the collection at `uri`, or make it when the folder is new or empty.

        Args:
            uri: Folder or prefix.
            config: What a new collection gets. An existing one keeps its taxonomy settings; compare them
                with `Config.require_tagging`.
            options: How to reach the store.
            taxonomy: What `config.tagging` was made of; a new collection keeps it.
            head: Gives the file whose sha256 is `config.head_sha256`; a new collection keeps it.

        Raises:
            CollectionError: It was made by another model or format, or the folder holds other things.
            UsageError: There is no such bucket, or it refuses the credentials.
            StoreUnavailable: The store does not answer.
        """
        store = open_store(uri, options or StorageOptions())
        _require_usable(store.uri)
        _require_open_door(store)
        found = _read_config(store) or _require_empty(store)
        if found is None:
            if taxonomy is not None:
                store.put(taxonomy_name(taxonomy), taxonomy.to_json().encode())
            if head is not None and config.head_file is not None:
                store.put(config.head_file, head())
            try:
                store.put(CONFIG_NAME, config.to_json(), if_absent=True)
            except AlreadyExists:
                found = _read_config(store)
        held = config if found is None else Config.from_json(found[0], store.uri)
        held.require_model(config, store.uri)
        table = TagsTable.open_or_none(store) or _require_no_parts(store)
        if table is None:
            table = TagsTable.create(store, serial=held.tagging.serial)
        return cls(store, held.in_force(table.serial), table)

    @classmethod
    def find(cls, uri: str, config: Config, options: StorageOptions | None = None) -> Self | None:
        """Do as `create_or_open` does, but make nothing: None where it would make a collection.

        Raises:
            CollectionError, UsageError, StoreUnavailable: As for `create_or_open`.
        """
        store = open_store(uri, options or StorageOptions())
        _require_usable(store.uri)
        _require_open_door(store)
        found = _read_config(store) or _require_empty(store)
        if found is None:
            return None
        Config.from_json(found[0], store.uri).require_model(config, store.uri)
        if (TagsTable.open_or_none(store) or _require_no_parts(store)) is None:
            return None
        return cls.open(uri, options)

    @classmethod
    def open(cls, uri: str, options: StorageOptions | None = None) -> Self:
        """Open an existing collection at its newest version.

        Raises:
            CollectionError: There is none, or its format is unknown.
            UsageError: There is no such bucket, or it refuses the credentials.
            StoreUnavailable: The store does not answer.
        """
        store = open_store(uri, options or StorageOptions())
        _require_open_door(store)
        for _ in range(5):
            found = _read_config(store)
            if found is None:
                raise CollectionError(f"{store.uri} is not a collection; `tagger tag SOURCE {uri}` makes one")
            config = Config.from_json(found[0], store.uri)
            table = TagsTable.open(store)
            held = config.in_force(table.serial)
            if held.tagging.serial == table.serial:
                return cls(store, held, table)
            # Settings were changed between the two reads: read both again.
        raise CollectionError(
            f"{store.uri}/{CONFIG_NAME} is not of its tags table; was one of them restored?"
        )

    def writer(self, run_id: str, command: str, *, ttl_s: float = TTL_S) -> Writer:
        """Return the context manager through which one run may change the collection; see `Writer`."""
        return Writer(self, run_id, command, ttl_s=ttl_s)

    def record(self, run_id: str) -> RunRecord:
        """Return the record of a run, to be written."""
        return RunRecord(self.store, run_id)

    def runs(self) -> Iterator[dict[str, Any]]:
        """Yield the records of all runs, oldest first."""
        return read_runs(self.store)

    def run_uri(self, run_id: str) -> str:
        """Return the folder of a run: its record, its plan, its report."""
        return f"{self.uri}/{RUNS_FOLDER}/{run_id}"

    def taxonomy(self) -> Taxonomy:
        """Return the taxonomy the rows were tagged with.

        Raises:
            CollectionError: Its file is missing or was altered.
        """
        name = self.config.tagging.taxonomy_file
        if name is None:
            raise CollectionError(f"{self.uri} was made without a taxonomy; name one with --taxonomy")
        return read_taxonomy(self.store, name)

    def head(self) -> bytes | None:
        """Return the file of the model's last layer; None where the collection keeps none.

        Raises:
            CollectionError: It is missing or was altered.
        """
        name = self.config.head_file
        if name is None:
            return None
        try:
            data = self.store.read(name, max_bytes=_HEAD_BYTES)
        except ImageError as error:
            raise CollectionError(f"{self.uri}/{name} cannot be read: {error.detail}") from None
        if hashlib.sha256(data).hexdigest() != self.config.head_sha256:
            raise CollectionError(f"{self.uri}/{name} is not the model's last layer that {CONFIG_NAME} names")
        return data

    def tags(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Stream the rows of all images; `.read_all()` makes a table of it.

        Args:
            columns: Columns to read; all by default.
        """
        return self.table.scan(columns)

    def failures(self) -> pa.RecordBatchReader:
        """Stream image_id, error and error_detail of every image that failed."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = ["image_id", "error", "error_detail"]
        reader = self.table.scan(columns)
        failed = (batch.filter(pc.is_valid(batch.column("error"))) for batch in reader)
        return pa.RecordBatchReader.from_batches(reader.schema, (batch for batch in failed if batch.num_rows))

    def store_taxonomy(self, taxonomy: Taxonomy) -> None:
        """Keep a taxonomy in the collection; rows do not change."""
        self.store.put(taxonomy_name(taxonomy), taxonomy.to_json().encode())

    def announce(self, tagging: Tagging) -> None:
        """Write the settings that hold once the table has their serial; for writers, under the lease."""
        self._update(lambda config: replace(config, next=tagging))

    def settle(self) -> None:
        """Read collection.json again and finish or drop a change of settings that was interrupted.

        For writers: call it under the lease, with the table at its newest version.
        """
        self._update(lambda config: config)

    def _update(self, change: Callable[[Config], Config]) -> None:
        for _ in range(5):
            found = _read_config(self.store)
            if found is None:
                raise CollectionError(f"{self.uri}/{CONFIG_NAME} is gone")
            data, etag = found
            held = Config.from_json(data, self.uri)
            held.require_model(self.config, self.uri)
            now = held.in_force(self.table.serial)
            if now.tagging.serial != self.table.serial:
                raise CollectionError(f"{self.uri}/{CONFIG_NAME} is not of its tags table; was one restored?")
            changed = change(now)
            if changed.to_json() != data:
                try:
                    self.store.put(CONFIG_NAME, changed.to_json(), if_match=etag)
                except PreconditionFailed:
                    continue
            self.config = now
            return
        raise RunError(f"{self.uri}/{CONFIG_NAME} keeps changing; another program writes it")


def read_taxonomy(store: Store, name: str) -> Taxonomy:
    """Return a taxonomy that a collection keeps.

    Args:
        store: The collection's root.
        name: Where it is; the name holds its sha256.

    Raises:
        CollectionError: It is missing or was altered.
    """
    from tagger.tags import Taxonomy

    try:
        data = store.read(name, max_bytes=_CONFIG_BYTES)
    except ImageError as error:
        raise CollectionError(f"{store.uri}/{name} cannot be read: {error.detail}") from None
    if f"{TAXONOMY_FOLDER}/{hashlib.sha256(data).hexdigest()}.json" != name:
        raise CollectionError(f"{store.uri}/{name} is not the taxonomy that {CONFIG_NAME} names")
    return Taxonomy.from_json(data.decode())


def _read_config(store: Store) -> tuple[bytes, str | None] | None:
    try:
        return store.fetch(CONFIG_NAME, max_bytes=_CONFIG_BYTES)
    except ImageError as error:
        if error.code == "not_found":
            return None
        raise CollectionError(f"{store.uri}/{CONFIG_NAME} cannot be read: {error.detail}") from None


def _require_usable(uri: str) -> None:
    """Refuse addresses that other readers of a Delta table would take for another place."""
    scheme, _, path = split_uri(uri)
    if scheme == "memory":
        raise UsageError(f"{uri}: a collection does not fit into memory://; name a folder or a bucket")
    if scheme == "file":
        _require_folder(Path(os.fsdecode(decode_path(path))), uri)
    odd = _ODD if scheme == "file" else _ODD_KEY
    if odd.search(path):
        raise UsageError(
            f"{uri}: a collection's address may not hold %XX, a backslash or control characters"
            f"{'' if scheme == 'file' else ', # or ?, or empty or dotted components'}; name another place"
        )


def _require_folder(path: Path, uri: str) -> None:
    """Refuse what cannot be a folder that is written to, before anything is made."""
    try:
        there = next(one for one in (path, *path.parents) if one.exists() or one.is_symlink())
        is_folder = there.is_dir()
    except OSError as error:  # not missing, as `exists` says, but out of reach, or a name that is too long
        raise CollectionError(
            f"{uri} cannot be a collection: {error.strerror} ({error.filename}); name another folder"
        ) from None
    if not is_folder:
        raise CollectionError(f"{uri} cannot be a collection: {there} is not a folder; name another one")
    if there != path and not os.access(there, os.W_OK | os.X_OK):
        raise CollectionError(f"{uri} cannot be made: this user may not write to {there}; name another one")


def _require_open_door(store: Store) -> None:
    """See whether the bucket is there and lets us in: before any work that is a matter of wrong settings."""
    if split_uri(store.uri)[0] != "file":  # a missing folder is made, or missed by name
        store.check()


def _require_no_parts(store: Store) -> TagsTable | None:
    """Refuse to make a table where one was: its log is lost, and its parts would be orphans.

    Returns:
        The table, if another run has made it since it was looked for.
    """
    listed = store.list(f"{TAGS_FOLDER}/")
    if not any(_STAGED.search(info.name) is None for page in listed for info in page):
        return None
    table = TagsTable.open_or_none(store)
    if table is None:
        raise CollectionError(
            f"{store.uri}/{TAGS_FOLDER} holds parts but no transaction log; restore "
            f"{TAGS_FOLDER}/_delta_log, or make a new collection"
        )
    return table


def _require_empty(store: Store) -> tuple[bytes, str | None] | None:
    """Refuse to make a collection among other files: a mistyped or swapped folder.

    Returns:
        The config, if another run has made the collection since it was looked for.
    """
    for page in store.list():
        for info in page:
            hidden = info.name.rpartition("/")[2].startswith(".") or info.name.endswith("/")
            if not (hidden or _OURS.fullmatch(info.name)):
                found = _read_config(store)
                if found is None:
                    raise CollectionError(
                        f"{store.uri} is not a collection and holds other files ({info.name}); "
                        "name a new or empty folder"
                    )
                return found
    return None
