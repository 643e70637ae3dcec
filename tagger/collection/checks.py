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
from tagger.errors import TaggerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tagger.collection.opening import Collection
    from tagger.collection.table import LivePart

_MEMORY_LIMIT: Final = "512MB"
_MOST_NAMED: Final = 20  # findings of one kind that are named one by one


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

    Reads every row once. The table is looked at as of its newest version; a run may be writing meanwhile.

    Args:
        collection: What to verify.
        spill_dir: Where the search for doubled ids may spill; a temporary folder by default.

    Raises:
        StoreUnavailable: The store does not answer. What is wrong with the collection is no exception.
    """
    result = CheckResult()
    collection.table.refresh()
    _check_settings(collection, result)
    readable = _check_parts(collection, result)
    by_run = _check_rows(collection, readable, result, spill_dir)
    _check_runs(collection, by_run, result)
    _note_orphans(collection, result)
    return result


def _check_settings(collection: Collection, result: CheckResult) -> None:
    if collection.config.tagging.taxonomy_file is None:
        return
    try:
        collection.taxonomy()
    except TaggerError as error:
        result.findings.append(str(error))


def _check_parts(collection: Collection, result: CheckResult) -> list[LivePart]:
    """Compare every live part with the store; returns those that can be read."""
    readable, broken = [], []
    for part in collection.table.parts():
        try:
            info = collection.store.head(part_key(part.path))
            if info is None:
                broken.append(f"part {part.path} is missing, with {part.rows} rows")
                continue
            if info.size_bytes != part.size_bytes:
                broken.append(f"part {part.path} has {info.size_bytes} bytes, the log says {part.size_bytes}")
                continue
            rows = open_parquet(collection.store, part_key(part.path), part.size_bytes).metadata.num_rows
        except TaggerError as error:
            broken.append(str(error))
            continue
        if rows != part.rows:
            broken.append(f"part {part.path} has {rows} rows, the log says {part.rows}")
        readable.append(part)
    _add(result, broken, "parts are missing or broken")
    return readable


def _check_rows(
    collection: Collection, parts: list[LivePart], result: CheckResult, spill_dir: Path | None
) -> Counter[str]:
    """Read every row once: the rules of a row on the way, doubled ids in DuckDB."""
    import duckdb

    rules = RowRules(collection.config)
    by_run: Counter[str] = Counter()
    schema = pa.schema([pa.field("image_id", pa.string(), nullable=False)])
    broken: list[str] = []

    def ids() -> Iterator[pa.RecordBatch]:
        for part in parts:
            try:
                for batch in collection.table.scan(parts=[part.path]):
                    rules.apply(batch)
                    for run in pc.value_counts(batch.column("run_id")).to_pylist():
                        by_run[run["values"]] += run["counts"]
                    yield pa.record_batch([batch.column("image_id")], schema=schema)
            except TaggerError as error:
                broken.append(str(error))

    with tempfile.TemporaryDirectory(prefix="tagger-check-", dir=spill_dir) as folder:
        settings = {
            "memory_limit": _MEMORY_LIMIT,
            "temp_directory": folder,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        with duckdb.connect(":memory:", config=settings) as database:
            database.register("ids", pa.RecordBatchReader.from_batches(schema, ids()))
            database.execute(
                "CREATE TEMP TABLE doubled AS "
                "SELECT image_id, count(*) AS times FROM ids GROUP BY image_id HAVING count(*) > 1"
            )
            doubled = database.execute("SELECT * FROM doubled ORDER BY image_id LIMIT 3").fetchall()
            total = database.execute("SELECT count(*) FROM doubled").fetchall()[0][0]
    _add(result, broken, "parts cannot be read")
    if total:
        shown = ", ".join(f"{image_id} ({times} rows)" for image_id, times in doubled)
        result.findings.append(f"{total} image_ids have more than one row: {shown}")
    result.findings += rules.findings()
    result.rows, result.tagged, result.failed = rules.rows, rules.tagged, rules.failed
    return by_run


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
    except TaggerError as error:
        wrong.append(str(error))
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


def _add(result: CheckResult, found: list[str], kind: str) -> None:
    result.findings += found[:_MOST_NAMED]
    if len(found) > _MOST_NAMED:
        result.findings.append(f"{len(found) - _MOST_NAMED} more {kind}")
