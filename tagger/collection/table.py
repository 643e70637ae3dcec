"""The tags table: a Delta Lake table of parts that we write ourselves.

deltalake keeps the log; encoding, the fence and the checks around a commit are ours (see `commit`).
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.commit import TAGGING_APP, WRITER_APP, Order, carry_out
from tagger.collection.parts import TAGS_FOLDER, part_key
from tagger.collection.reading import scan_parts
from tagger.collection.schema import SCHEMA
from tagger.collection.trouble import store_trouble
from tagger.errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Collection as Items
    from collections.abc import Iterable, Mapping, Sequence

    from deltalake import DeltaTable

    from tagger.collection.parts import Part
    from tagger.storage import Store

CHECKPOINT_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class LivePart:
    """A part that belongs to the table at its current version, as the log describes it.

    Attributes:
        path: Name inside `tags/`.
        size_bytes: Size of the file.
        rows: Rows in it.
        least_id: Least image_id, or None where another program wrote the part without statistics.
        greatest_id: Greatest image_id, likewise.
    """

    path: str
    size_bytes: int
    rows: int
    least_id: str | None
    greatest_id: str | None


class TagsTable:
    """A handle on the table, standing at one version until `refresh` or `commit`.

    Args:
        store: The collection's root.
        handle: The opened Delta table.
        options: The storage options it was opened with.
    """

    def __init__(self, store: Store, handle: DeltaTable, options: Mapping[str, str]) -> None:
        self.store = store
        self._handle = handle
        self._options = dict(options)
        self._lock = threading.RLock()
        self._parts: tuple[int, dict[str, LivePart]] | None = None  # of that version, in any order

    @classmethod
    def create(cls, store: Store, *, serial: int) -> TagsTable:
        """Create the empty table; opens it when another process was faster.

        Args:
            store: The collection's root.
            serial: Serial of the taxonomy settings in the collection's config.

        Raises:
            RunError: The log cannot be written.
        """
        from deltalake import CommitProperties, DeltaTable, Transaction

        options = store.delta_options()
        try:
            DeltaTable.create(
                store.delta_uri(TAGS_FOLDER),
                SCHEMA,
                name="tags",
                configuration={
                    "delta.checkpointInterval": str(CHECKPOINT_EVERY),
                    "delta.dataSkippingStatsColumns": "image_id",
                },
                storage_options=options,
                commit_properties=CommitProperties(
                    max_commit_retries=0,  # of two creators the slower one must not create it once more
                    app_transactions=[Transaction(WRITER_APP, 0), Transaction(TAGGING_APP, serial)],
                ),
            )
        except Exception as error:
            opened = cls.open_or_none(store)  # somebody else may have created it meanwhile
            if opened is None:
                raise store_trouble(error, store.uri) from None
            return opened
        return cls.open(store)

    @classmethod
    def open(cls, store: Store) -> TagsTable:
        """Open the table at its newest version.

        Raises:
            CollectionError: There is no table.
            StoreUnavailable: The store does not answer, or refuses.
        """
        table = cls.open_or_none(store)
        if table is None:
            raise CollectionError(f"{store.uri} has no tags table; start `tagger tag` on it again")
        return table

    @classmethod
    def open_or_none(cls, store: Store) -> TagsTable | None:
        """Open the table at its newest version, or return None when there is none."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        options = store.delta_options()
        try:
            return cls(store, DeltaTable(store.delta_uri(TAGS_FOLDER), storage_options=options), options)
        except TableNotFoundError:
            return None
        except Exception as error:
            raise store_trouble(error, store.uri) from None

    @property
    def version(self) -> int:
        """Version of the log this handle stands at."""
        return int(self._handle.version())

    @property
    def counter(self) -> int:
        """The fence at this version: the counter of the newest commit by a tagger."""
        return int(self._handle.transaction_version(WRITER_APP) or 0)

    @property
    def serial(self) -> int:
        """Serial of the taxonomy settings that the rows at this version were made with."""
        return int(self._handle.transaction_version(TAGGING_APP) or 0)

    @property
    def handle(self) -> DeltaTable:
        """The Delta table itself, for what this class does not offer. Never write with it."""
        return self._handle

    def refresh(self) -> None:
        """Move to the newest version, with fresh credentials when they have changed.

        Raises:
            StoreUnavailable: The store does not answer, or refuses.
        """
        from deltalake import DeltaTable

        with self._lock:
            options = self.store.delta_options()
            try:
                if options == self._options:
                    self._handle.update_incremental()
                else:
                    uri = self.store.delta_uri(TAGS_FOLDER)
                    self._handle = DeltaTable(uri, storage_options=options)
                    self._options = options
            except Exception as error:
                raise store_trouble(error, self.store.uri) from None

    def live(self) -> Mapping[str, LivePart]:
        """Return the live parts at this version by path, in no order."""
        with self._lock:
            if self._parts is None or self._parts[0] != self.version:
                self._parts = (self.version, _live_parts(self._handle))
            return self._parts[1]

    def parts(self) -> list[LivePart]:
        """Return the live parts at this version, sorted by path."""
        return sorted(self.live().values(), key=lambda part: part.path)

    @property
    def rows(self) -> int:
        """Rows at this version, from the log alone."""
        return sum(part.rows for part in self.live().values())

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        parts: Iterable[str] | None = None,
        batch_rows: int = 4096,
        part_column: bool = False,
    ) -> pa.RecordBatchReader:
        """Stream rows in a fixed order: by part, then as written. Memory is bounded by a few row groups.

        Args:
            columns: Columns to read; all by default. Others are not fetched from the store.
            parts: Paths of the parts to read; all live parts by default.
            batch_rows: Most rows in a batch.
            part_column: Add a column `part` with the path of the part that holds the row.

        Raises:
            KeyError: A path in `parts` is not live at this version.
        """
        live = self.live()
        chosen = self.parts() if parts is None else [live[path] for path in parts]
        files = [(part.path, part_key(part.path), part.size_bytes) for part in chosen]
        return scan_parts(self.store, files, columns=columns, batch_rows=batch_rows, part_column=part_column)

    def read_rows(self, image_ids: Iterable[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some images; reads only the parts whose range of ids can hold them.

        Args:
            image_ids: Which images; unknown ones are left out of the answer.
            columns: Columns to return; all by default.
        """
        wanted = sorted(set(image_ids))
        names = list(SCHEMA.names if columns is None else columns)
        read = names if "image_id" in names else [*names, "image_id"]
        parts = [part.path for part in self.parts() if _may_hold(part, wanted)]
        ids = pa.array(wanted, pa.string())
        found = [
            pa.Table.from_batches([batch]).filter(pc.is_in(batch.column("image_id"), value_set=ids))
            for batch in self.scan(read, parts=parts)
        ]
        empty = pa.schema([SCHEMA.field(name) for name in read]).empty_table()
        return pa.concat_tables([empty, *found]).select(names)

    def commit(
        self,
        add: Sequence[Part],
        remove: Sequence[str],
        *,
        counter: int,
        run_id: str,
        operation: str = "write",
        serial: int | None = None,
        retry_s: float = 60.0,
    ) -> int:
        """Add and remove parts in one version of the table, behind the fence.

        Args:
            add: Parts that lie in the store.
            remove: Paths of live parts.
            counter: The counter this writer wrote or saw last; the commit writes `counter + 1`.
            run_id: Named in the commit's metadata, and in the message of whoever is taken over.
            operation: Named in the commit's metadata.
            serial: Serial of the taxonomy settings that hold from this version on; unchanged by default.
            retry_s: How long to repeat a commit that fails for passing reasons, in seconds.

        Returns:
            The version of the table that holds the commit.

        Raises:
            TakenOver: The counter is not `counter` any more: another run writes. Nothing was committed.
            RunError: A part is missing or not of its size, a removed part is not live, or the store did not
                take the commit. Nothing was committed.
        """
        order = Order(tuple(add), tuple(remove), counter, run_id, operation, serial)
        with self._lock:
            version = carry_out(self, order, retry_s=retry_s)
            self._follow(order, version)
            return version

    def _follow(self, order: Order, version: int) -> None:
        """Bring the live parts to the version of a commit of ours, if nothing else lies in between.

        Asking the log for all of them takes 7 µs a part, at every commit: in a run that writes 60,000 parts
        it would take a whole core in the end.
        """
        if self._parts is None or not self._parts[0] + 1 == version == self.version:
            return
        parts = dict(self._parts[1])  # the old one may be in somebody's hands
        for path in order.remove:
            del parts[path]
        parts.update((part.path, _live_part(part)) for part in order.add)
        self._parts = (version, parts)


def _may_hold(part: LivePart, wanted: Items[str]) -> bool:
    if part.least_id is None or part.greatest_id is None:
        return True
    return any(part.least_id <= image_id <= part.greatest_id for image_id in wanted)


def _live_parts(handle: DeltaTable) -> dict[str, LivePart]:
    actions: list[dict[str, Any]] = pa.table(handle.get_add_actions()).to_pylist()
    parts = [
        LivePart(
            unquote(row["path"]),
            row["size_bytes"],
            row["num_records"] or 0,
            (row.get("min") or {}).get("image_id"),
            (row.get("max") or {}).get("image_id"),
        )
        for row in actions
    ]
    return {part.path: part for part in parts}


def _live_part(part: Part) -> LivePart:
    """Return a part as the log describes it, once it is committed."""
    stats = json.loads(part.stats)
    least, greatest = (stats.get(name, {}).get("image_id") for name in ("minValues", "maxValues"))
    return LivePart(part.path, part.size_bytes, stats["numRecords"], least, greatest)
