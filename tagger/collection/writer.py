"""The one writer of a collection: lease, fence, and commits that replace rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.lease import TTL_S, Lease, acquire
from tagger.collection.parts import Part, Receipt, part_name, rewrite_part
from tagger.errors import TakenOver

if TYPE_CHECKING:
    from collections.abc import Collection as Items
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from tagger.collection.opening import Collection

_REWRITE_THREADS: Final = 4

GROUP_PARTS: Final = 64
"""Parts that a removal rewrites in one commit: bounds its memory, and what it does again after a kill."""


class Writer:
    """A context manager that may change the table; get it from `Collection.writer`.

    Entering takes the lease and, when it was taken from a run that did not give it back, bumps the fence, so
    that the other run commits nothing more should it go on. Make plans after entering: only then do the
    parts they name stay where they are.

    Args:
        collection: What to write.
        run_id: This run, from `new_run_id`.
        command: What the operator started, for the message of those who are refused.
        ttl_s: Time to live of the lease, in seconds.
    """

    def __init__(self, collection: Collection, run_id: str, command: str, *, ttl_s: float = TTL_S) -> None:
        self.collection = collection
        self.run_id = run_id
        self.command = command
        self._ttl_s = ttl_s
        self._lease: Lease | None = None
        self._counter = 0
        self._moved: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        self._lease = acquire(self.collection.store, self.run_id, self.command, ttl_s=self._ttl_s)
        try:
            self._claim()
            self.collection.settle()
        except BaseException:
            self._lease.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._lease.release()

    @property
    def version(self) -> int:
        """The table's version after this writer's last commit."""
        return self.collection.table.version

    @property
    def took_over(self) -> bool:
        """Whether the run before this one ended without giving its lease back."""
        return self._lease is not None and self._lease.stale

    def check(self) -> None:
        """Tell early that another run took over; every commit does so by itself.

        Raises:
            TakenOver: The lease is lost, or the fence was bumped.
        """
        if self._lease is None:
            raise RuntimeError("enter the writer before you use it")
        self._lease.check()

    def current(self, path: str) -> str | None:
        """Return where the rows of a part are now, after this writer's commits; None when all are gone."""
        at: str | None = path
        while at is not None and at in self._moved:
            at = self._moved[at]
        return at

    def commit(
        self,
        add: Sequence[Receipt | Part] = (),
        *,
        replaced: Mapping[str, Items[str]] | None = None,
        rewritten: Mapping[str, Part | None] | None = None,
        operation: str = "write",
        serial: int | None = None,
    ) -> int:
        """Add parts and take the rows they replace out of older ones, in one version of the table.

        Args:
            add: What workers wrote.
            replaced: image_ids to take out, by the part that held them when this writer was entered or
                later; parts that this writer has rewritten since are followed.
            rewritten: Survivors written elsewhere by `rewrite_part`, by the part's *current* path and for
                exactly the ids in `replaced`; None: no row survives. Parts not named are rewritten here.
            operation: Named in the commit's metadata.
            serial: Serial of the taxonomy settings that hold from now on.

        Returns:
            The table's version with the commit; without anything to do the version as it is.

        Raises:
            TakenOver: Another run writes; nothing was committed.
            RunError: A part is missing, or the store did not take the commit; nothing was committed.
            ValueError: The ids in `replaced` are not where the caller says.
        """
        self.check()
        drop: dict[str, set[str]] = {}
        for path, image_ids in (replaced or {}).items():
            if not image_ids:
                continue
            at = self.current(path)
            if at is None:
                raise ValueError(f"all rows of {path} have been replaced already")
            drop.setdefault(at, set()).update(image_ids)
        parts = [item.part if isinstance(item, Receipt) else item for item in add]
        if not parts and not drop and serial is None:
            return self.collection.table.version
        survivors = self._rewrite(drop, rewritten or {})
        version = self._write([*parts, *(p for p in survivors.values() if p)], list(drop), operation, serial)
        self._moved.update((path, part.path if part else None) for path, part in survivors.items())
        return version

    def swap(self, parts: Mapping[str, Part], *, operation: str, serial: int | None = None) -> int:
        """Put each of some live parts in the place of another with the same rows, in one version."""
        self.check()
        for path, part in parts.items():
            rows = self.collection.table.live()[path].rows
            if part.rows != rows:
                raise ValueError(f"{part.path} has {part.rows} rows instead of the {rows} of {path}")
        version = self._write(list(parts.values()), list(parts), operation, serial)
        self._moved.update((path, part.path) for path, part in parts.items())
        return version

    def remove_rows(
        self,
        rows: Iterable[pa.Table | pa.RecordBatch],
        *,
        operation: str = "remove",
        group_parts: int = GROUP_PARTS,
    ) -> int:
        """Take rows out of the table, some parts at a time.

        Args:
            rows: Columns `image_id` and `part` (as `TagsTable.scan` adds it), best ordered by part: a part
                that comes again in a later group is rewritten again.
            operation: Named in the commits' metadata.
            group_parts: Most parts that one commit rewrites.

        Returns:
            Rows removed.
        """
        removed = 0
        group: dict[str, set[str]] = {}
        for batch in rows:
            for image_id, path in zip(
                batch.column("image_id").to_pylist(), batch.column("part").to_pylist(), strict=True
            ):
                if path not in group and len(group) >= group_parts:
                    removed += self._remove_group(group, operation)
                    group = {}
                group.setdefault(path, set()).add(image_id)
        return removed + self._remove_group(group, operation)

    def remove_ids(self, image_ids: Iterable[str], *, operation: str = "remove") -> int:
        """Take the rows of some images out of the table; unknown ids are ignored. Returns rows removed."""
        wanted = set(image_ids)
        table = self.collection.table
        with_part = table.scan(["image_id"], part_column=True)

        def found() -> Iterable[pa.Table]:
            ids = pa.array(sorted(wanted), pa.string())
            for batch in with_part:
                rows = pa.Table.from_batches([batch])
                hits = rows.filter(pc.is_in(rows.column("image_id"), value_set=ids))
                if hits.num_rows:
                    yield hits

        return self.remove_rows(list(found()), operation=operation)

    def _remove_group(self, group: Mapping[str, set[str]], operation: str) -> int:
        self.commit(replaced=group, operation=operation)
        return sum(len(image_ids) for image_ids in group.values())

    def _rewrite(
        self, drop: Mapping[str, set[str]], done: Mapping[str, Part | None]
    ) -> dict[str, Part | None]:
        store = self.collection.store
        live = self.collection.table.live()
        unknown = [path for path in (*drop, *done) if path not in live]
        if unknown:
            raise ValueError(f"{unknown[0]} is not a live part at version {self.collection.table.version}")

        def survivors(path: str) -> Part | None:
            if path not in done:
                return rewrite_part(store, path, drop[path], name=part_name(self.run_id))
            part = done[path]
            expected = live[path].rows - len(drop[path])
            if (part.rows if part else 0) != expected:
                raise ValueError(f"{path} keeps {part.rows if part else 0} rows instead of {expected}")
            return part

        if not drop:
            return {}
        with ThreadPoolExecutor(_REWRITE_THREADS) as pool:
            return dict(zip(drop, pool.map(survivors, drop), strict=True))

    def _write(self, add: list[Part], remove: list[str], operation: str, serial: int | None) -> int:
        version = self.collection.table.commit(
            add, remove, counter=self._counter, run_id=self.run_id, operation=operation, serial=serial
        )
        self._counter += 1
        return version

    def _claim(self) -> None:
        """Make this run the one whose commits count."""
        table = self.collection.table
        for attempt in range(10):
            table.refresh()
            self._counter = table.counter
            if not self.took_over:
                return
            try:
                self._write([], [], "fence", None)
            except TakenOver:
                if attempt == 9:
                    raise
                continue  # the run before us was faster once more; the next bump is after its commit
            return
