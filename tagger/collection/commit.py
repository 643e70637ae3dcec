"""One commit to the tags table, behind the fence.

Delta's own check refuses a commit only if the log moved since the handle's snapshot; it accepts files that
do not exist and removals of files long gone; and it answers an error for a commit that was applied when the
store's answer got lost. So around every commit: look at the newest log, check fence, parts and removals, and
after any error look for the commit's own uuid before judging.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tagger.collection.parts import TAGS_FOLDER, Part, part_key
from tagger.collection.schema import SCHEMA
from tagger.collection.trouble import is_passing, store_trouble
from tagger.errors import ImageError, RunError, StoreUnavailable, TaggerError, TakenOver

if TYPE_CHECKING:
    from tagger.collection.table import TagsTable

WRITER_APP: Final = "tagger.writer"
"""Application transaction whose version is the fence: one more with every commit."""

TAGGING_APP: Final = "tagger.tagging"
"""Application transaction whose version is the serial of the taxonomy settings the rows were made with."""

_HEAD_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Order:
    """What a commit is to do; see `TagsTable.commit`."""

    add: tuple[Part, ...]
    remove: tuple[str, ...]
    counter: int
    run_id: str
    operation: str
    serial: int | None


def carry_out(table: TagsTable, order: Order, *, retry_s: float) -> int:
    """Carry out `order` once, however often the store has to be asked; returns the version that holds it."""
    token = uuid.uuid4().hex
    deadline = time.monotonic() + retry_s
    pause_s = 0.25
    base: int | None = None  # the newest version seen before the first attempt: the commit is none of those
    checked = False
    while True:
        try:
            table.refresh()
            if base is None:
                base = table.version
            elif (found := _find(table, base, token)) is not None:
                return found
            check_fence(table, order.counter)
            if not checked:
                _check_parts(table, order)
                checked = True
            _check_removals(table, order)
            _write(table, order, token)
        except (TakenOver, ValueError, TypeError):
            raise
        except Exception as error:
            trouble = error if isinstance(error, TaggerError) else store_trouble(error, table.store.uri)
            if base is not None and (found := _settle(table, base, token)) is not None:
                return found
            if not is_passing(trouble) or time.monotonic() + pause_s > deadline:
                raise trouble from None
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, not a secret
            pause_s = min(2 * pause_s, 8.0)
            continue
        return _landed(table, base, token)


def check_fence(table: TagsTable, counter: int) -> None:
    """Compare the fence with what this writer wrote last.

    Raises:
        TakenOver: They differ.
    """
    if table.counter != counter:
        by = _last_run(table)
        raise TakenOver(
            f"another run took over {table.store.uri}{f' ({by})' if by else ''}; "
            "this one committed nothing more"
        )


def _write(table: TagsTable, order: Order, token: str) -> None:
    from deltalake import CommitProperties, Transaction
    from deltalake.transaction import AddAction, RemoveAction

    now_ms = int(time.time() * 1000)
    live = table.live() if order.remove else {}
    actions: list[Any] = [AddAction(p.path, p.size_bytes, {}, now_ms, True, p.stats) for p in order.add]
    actions += [
        RemoveAction(path, True, now_ms, size=live[path].size_bytes, partition_values={})
        for path in order.remove
    ]
    transactions = [Transaction(WRITER_APP, order.counter + 1)]
    if order.serial is not None:
        transactions.append(Transaction(TAGGING_APP, order.serial))
    table.handle.create_write_transaction(
        actions,
        "append",
        SCHEMA,
        commit_properties=CommitProperties(
            custom_metadata={"tagger": {"uuid": token, "run_id": order.run_id, "operation": order.operation}},
            app_transactions=transactions,
        ),
    )


def _landed(table: TagsTable, base: int, token: str) -> int:
    """Return the version of a commit that deltalake called done."""
    for attempt in range(5):
        try:
            table.refresh()
        except StoreUnavailable:
            # It is committed; only the look at it failed. The next refresh will see it.
            time.sleep(0.2 * 2**attempt)
            continue
        if table.version == base + 1:
            return table.version
        found = _find(table, base, token)
        return table.version if found is None else found
    return base + 1


def _settle(table: TagsTable, base: int, token: str) -> int | None:
    """Look for a commit whose answer was an error; None: not in the log, or the log cannot be read now."""
    try:
        table.refresh()
        return _find(table, base, token)
    except (TaggerError, OSError):
        return None  # the next attempt looks again, before it writes


def _find(table: TagsTable, base: int, token: str) -> int | None:
    """Return the version after `base` that carries our uuid.

    Reads the log's files itself: `DeltaTable.history` keeps Python's lock while it waits for the store, and
    with it every other thread, the one that renews the lease among them.
    """
    for version in range(base + 1, table.version + 1):
        if _said(table, version).get("uuid") == token:
            return version
    return None


def _said(table: TagsTable, version: int) -> dict[str, Any]:
    """Return what a tagger wrote about itself into a commit; empty for the commits of others."""
    try:
        text = table.store.read(f"{TAGS_FOLDER}/_delta_log/{version:020}.json").decode()
    except ImageError as error:
        if error.code == "not_found":  # a log that was cleaned up; our commit is younger than that
            return {}
        raise StoreUnavailable(
            f"version {version} of {table.store.uri} cannot be read: {error.detail}"
        ) from None
    for line in text.splitlines():
        said = json.loads(line).get("commitInfo", {}).get("tagger")
        if isinstance(said, dict):
            return said
    return {}


def _last_run(table: TagsTable) -> str | None:
    try:
        for version in range(table.version, max(-1, table.version - 10), -1):
            if run_id := _said(table, version).get("run_id"):
                return str(run_id)
    except (TaggerError, ValueError):
        return None  # only decorates a message
    return None


def _check_parts(table: TagsTable, order: Order) -> None:
    def size(part: Part) -> int | None:
        info = table.store.head(part_key(part.path))
        return None if info is None else int(info.size_bytes)

    with ThreadPoolExecutor(_HEAD_THREADS) as pool:
        sizes = list(pool.map(size, order.add))
    for part, found in zip(order.add, sizes, strict=True):
        where = f"{table.store.uri}/{TAGS_FOLDER}/{part.path}"
        if found is None:
            raise RunError(
                f"{where} is missing, so its {part.rows} rows are not committed; start the run again"
            )
        if found != part.size_bytes:
            raise RunError(f"{where} has {found} bytes instead of {part.size_bytes}; start the run again")
    if len({part.path for part in order.add}) != len(order.add):
        raise ValueError("a part is added twice")


def _check_removals(table: TagsTable, order: Order) -> None:
    if not order.remove and not order.add:
        return
    live = table.live()
    for path in order.remove:
        if path not in live:
            raise RunError(
                f"{path} is no longer part of the table at {table.store.uri}: another program rewrote it; "
                "start the run again"
            )
    for part in order.add:
        if part.path in live:
            raise ValueError(f"{part.path} is in the table already")
