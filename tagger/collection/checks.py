"""`check`: verify every promise about a collection, with memory that does not grow with its rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.check_rows import RowRules
from tagger.collection.parts import TAGS_FOLDER, part_key
from tagger.collection.reading import open_parquet
from tagger.collection.runs import RUNS_FOLDER
from tagger.errors import CollectionError, ImageError, RunError, StoreUnavailable, TaggerError, TaxonomyError
from tagger.spill import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tagger.collection.opening import Collection
    from tagger.collection.table import LivePart
    from tagger.tags import Taxonomy

HEADS_FOLDER: Final = "heads"

_MEMORY_LIMIT: Final = "512MB"
_MOST_NAMED: Final = 20  # findings of one kind that are named one by one
_IDS: Final = pa.schema([pa.field("image_id", pa.string(), nullable=False)])
_NOT_SERVED: Final = frozenset({"timeout", "read_error", "forbidden"})


@dataclass
class CheckResult:
    """What `check` found.

    Attributes:
        rows: Rows that could be read.
        tagged: Of these, with status `tagged`.
        failed: Of these, with status `failed`.
        findings: One sentence for every broken promise.
        notes: What is worth knowing but breaks no promise, such as files left by killed runs.
    """

    rows: int = 0
    tagged: int = 0
    failed: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise holds."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger check --json` prints."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "tagged": self.tagged,
            "failed": self.failed,
            "findings": self.findings,
            "notes": self.notes,
        }


def check(collection: Collection, *, spill_dir: Path | None = None) -> CheckResult:
    """Verify a collection: its parts, its rows, its settings and the records of its runs.

    Reads every row once. The table is looked at as of its newest version, with the settings that hold for it;
    a run may be writing meanwhile.

    A finding is what the store showed to be wrong: an object that is missing, or whose content is not what
    was promised. An object that the store does not serve (timeout, read_error, forbidden) may be whole, and
    nobody should replace it because of a slow or closed store. So it is no finding, and it ends the check at
    once: the other objects are likely to fail too, each after the patience of a request, and what is left
    out could not be called verified. The error names the part, for a store that has lost just that one.

    Args:
        collection: What to verify.
        spill_dir: Where the search for doubled ids may spill; a temporary folder by default.

    Raises:
        StoreUnavailable: The store does not answer, refuses the credentials, or does not serve an object.
        UsageError: The store refuses to list, or the settings are not of the table, as in `Collection.open`.
    """
    result = CheckResult()
    collection = _newest(collection)
    taxonomy = _check_settings(collection, result)
    rules = RowRules(collection.config, taxonomy, _heads(collection))
    readable = _check_parts(collection, result)
    by_run = _check_rows(collection, readable, rules, result, spill_dir)
    _check_runs(collection, by_run, result)
    _note_orphans(collection, result)
    return result


def _newest(collection: Collection) -> Collection:
    """Return the collection at its newest version, with the settings of that version."""
    collection.table.refresh()
    if collection.table.serial == collection.config.tagging.serial:
        return collection
    return type(collection).open(collection.uri, collection.store.options)  # it was retagged since


def _check_settings(collection: Collection, result: CheckResult) -> Taxonomy | None:
    """Return the taxonomy of the rows; None if the collection has none, or not the one it names."""
    name = collection.config.tagging.taxonomy_file
    if name is None:
        return None
    try:
        return collection.taxonomy()
    except (CollectionError, TaxonomyError) as error:
        result.findings.append(_finding(error, collection.store.address(name)))
        return None


def _heads(collection: Collection) -> set[str]:
    """Return the names of the taught heads: every folder of `heads/`."""
    listed = collection.store.list(f"{HEADS_FOLDER}/")
    paths = (info.name.split("/") for page in listed for info in page)
    return {path[1] for path in paths if len(path) > 2}


def _check_parts(collection: Collection, result: CheckResult) -> list[LivePart]:
    """Compare every live part with the store; returns those that can be read."""
    readable, broken = [], []
    for part in collection.table.parts():
        name = part_key(part.path)
        try:
            info = collection.store.head(name)
            if info is None:
                broken.append(f"part {part.path} is missing, with {part.rows} rows")
                continue
            if info.size_bytes != part.size_bytes:
                broken.append(f"part {part.path} has {info.size_bytes} bytes, the log says {part.size_bytes}")
                continue
            rows = open_parquet(collection.store, name, part.size_bytes).metadata.num_rows
        except (ImageError, RunError) as error:
            broken.append(_finding(error, collection.store.address(name)))
            continue
        if rows != part.rows:
            broken.append(f"part {part.path} has {rows} rows, the log says {part.rows}")
        readable.append(part)
    _add(result, broken, "parts are missing or broken")
    return readable


def _check_rows(
    collection: Collection,
    parts: list[LivePart],
    rules: RowRules,
    result: CheckResult,
    spill_dir: Path | None,
) -> Counter[str]:
    """Read every row once: the rules of a row on the way, doubled ids in DuckDB."""
    by_run: Counter[str] = Counter()
    broken: list[str] = []
    unavailable: list[StoreUnavailable] = []  # what passes through DuckDB comes out as an error of its own

    def ids() -> Iterator[pa.RecordBatch]:
        for part in parts:
            try:
                for batch in collection.table.scan(parts=[part.path]):
                    rules.apply(batch)
                    for run in pc.value_counts(batch.column("run_id")).to_pylist():
                        by_run[run["values"]] += run["counts"]
                    yield pa.record_batch([batch.column("image_id")], schema=_IDS)
            except RunError as error:
                try:
                    broken.append(_finding(error, collection.store.address(part_key(part.path))))
                except StoreUnavailable as trouble:
                    unavailable.append(trouble)
                    return

    total, doubled = _doubled(pa.RecordBatchReader.from_batches(_IDS, ids()), spill_dir)
    if unavailable:
        raise unavailable.pop()
    _add(result, broken, "parts cannot be read")
    if total:
        shown = ", ".join(f"{image_id} ({times} rows)" for image_id, times in doubled)
        result.findings.append(f"{total} image_ids have more than one row: {shown}")
    result.findings += rules.findings()
    result.rows, result.tagged, result.failed = rules.rows, rules.tagged, rules.failed
    return by_run


def _doubled(ids: pa.RecordBatchReader, spill_dir: Path | None) -> tuple[int, list[tuple[str, int]]]:
    """Count the ids that come more than once; returns that and the first three with their rows."""
    with tempfile.TemporaryDirectory(prefix="tagger-check-", dir=spill_dir) as folder:
        settings: dict[str, Any] = {
            "memory_limit": _MEMORY_LIMIT,
            "temp_directory": folder,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        with open_database(**settings) as database:
            database.register("ids", ids)
            database.execute(
                "CREATE TEMP TABLE doubled AS "
                "SELECT image_id, count(*) AS times FROM ids GROUP BY image_id HAVING count(*) > 1"
            )
            first = database.execute("SELECT * FROM doubled ORDER BY image_id LIMIT 3").fetchall()
            total = database.execute("SELECT count(*) FROM doubled").fetchall()[0][0]
    return total, first


def _check_runs(collection: Collection, by_run: Counter[str], result: CheckResult) -> None:
    wrong = []
    try:
        for run in collection.runs():
            counts = run.get("result") or {}
            if run.get("state") != "done" or not {"listed", "planned", "tagged", "failed"} <= counts.keys():
                continue
            run_id, planned = run.get("run_id"), counts["planned"]
            ended = counts["tagged"] + counts["failed"]
            listed = counts.get("skipped", 0) + planned + counts.get("deferred", 0)
            if counts["listed"] != listed:
                wrong.append(f"run {run_id} listed {counts['listed']} images and accounts for {listed}")
            if planned != ended:
                wrong.append(f"run {run_id} planned {planned} images, and tagged or failed {ended}")
            if by_run[str(run_id)] > planned:
                wrong.append(f"run {run_id} planned {planned} images, and {by_run[str(run_id)]} rows name it")
    except RunError as error:
        wrong.append(_finding(error, collection.store.address(RUNS_FOLDER)))
    _add(result, wrong, "records of runs do not add up")


def _note_orphans(collection: Collection, result: CheckResult) -> None:
    live = collection.table.live()
    orphans = size = 0
    for page in collection.store.list(f"{TAGS_FOLDER}/"):
        for info in page:
            path = info.name.removeprefix(f"{TAGS_FOLDER}/")
            if path.endswith(".parquet") and "/" not in path and path not in live:
                orphans += 1
                size += info.size_bytes
    if orphans:
        result.notes.append(
            f"{orphans} files in {TAGS_FOLDER}/ ({size / 1e6:.1f} MB) are not part of the table: "
            "replaced, or left by a run that was killed; they do no harm"
        )


def _finding(error: TaggerError, address: str) -> str:
    """Return what an error says of the collection.

    Args:
        error: Raised while `address` was read.
        address: Where in the store, for the message.

    Raises:
        StoreUnavailable: It says something of the store instead; see `check`.
    """
    for cause in _causes(error):
        if isinstance(cause, StoreUnavailable):
            raise cause from None
        if isinstance(cause, ImageError) and cause.code in _NOT_SERVED:
            raise StoreUnavailable(f"{address} is not served ({cause.code}): {cause.detail}") from None
    return str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it: readers word errors anew, and Arrow wraps those that cross it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _add(result: CheckResult, found: list[str], kind: str) -> None:
    result.findings += found[:_MOST_NAMED]
    if len(found) > _MOST_NAMED:
        result.findings.append(f"{len(found) - _MOST_NAMED} more {kind}")
