"""Building an index from one version of the tags table; no image is read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.checks import HEADS_FOLDER
from tagger.index.codes import FLAT_MOST, Codes, plan_codes
from tagger.index.files import entry_of, put_file
from tagger.index.filling import Filled, fill, no_facts, no_rows, sample, scan
from tagger.index.ids import IDS_NAME, write_ids
from tagger.index.ids import SCHEMA as IDS_SCHEMA
from tagger.index.manifest import FileEntry, Kind, Manifest, Segment
from tagger.index.probe import EXACT, QUERIES, Effort, Probe, choose_effort
from tagger.index.words import (
    COLUMNS,
    POSTINGS_NAME,
    WORDS_NAME,
    Speech,
    hear,
    join_speech,
    make_words,
    write_arrow,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from tagger.collection import Collection, LivePart
    from tagger.index.vectors import Slots
    from tagger.storage import Store

CODES_NAME: Final = "codes.faiss"
PROBE_NAME: Final = "probe.arrow"

_SEED: Final = 20_240
_PQ_SHARE: Final = 0.4  # of this machine's memory that 8-bit codes may take
_PARTITION_ROWS: Final = 1_000_000  # whose vectors wait on disk to be stored


FillAll = Callable[[Sequence["LivePart"], "Codes | None", Probe, str], Iterator[Filled]]
"""Puts parts of the table into an index: (parts, codes or None, queries to compare with, version)."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Parts of the table that one task puts into the index.

    Attributes:
        parts: Their paths.
        rows: Rows in them, with those of failed images.
    """

    parts: tuple[str, ...]
    rows: int


@dataclass
class Content:
    """An index that is being made, before it is written.

    Attributes:
        facts: Rows of ids.parquet without slots.
        speech: The words of the same images.
        slots: Their slots, ascending.
        segments: Vector files, by slot.
        entries: Their entries.
        codes: None for `flat`.
        probe: Queries with their exact neighbours.
        spread: Mean squared distance from the centres of the lists.
    """

    facts: pa.Table
    speech: Speech
    slots: Slots
    segments: tuple[Segment, ...]
    entries: tuple[FileEntry, ...]
    codes: Codes | None
    probe: Probe
    spread: float


def choose_kind(count: int, dim: int, memory_bytes: int) -> Kind:
    """Choose how `count` vectors are searched.

    Exactly while that takes a few milliseconds; then by 8-bit codes; by product-quantised ones where those
    would take too much of the machine's memory.
    """
    if count <= FLAT_MOST:
        return "flat"
    return "ivf" if count * dim // 4 <= memory_bytes * _PQ_SHARE else "ivf-pq"


def build(
    collection: Collection,
    version: str,
    *,
    kind: Kind | None,
    memory_bytes: int,
    folder: Path,
    fill_all: FillAll,
    say: Callable[[str], None],
    started: float,
) -> Manifest:
    """Make a version of the index from all tagged rows, and store its files; it is not served yet.

    Args:
        collection: Opened at the version of its table that the index is to show.
        version: The name it gets.
        kind: How vectors are searched; None chooses by their number.
        memory_bytes: Of this machine.
        folder: For temporary files.
        fill_all: Puts parts of the table into the index: that of `fill_here`, or of `parallel.fill_on_ray`.
        say: Takes a line at a time for the person who waits.
        started: When the work began, on the monotonic clock.
    """
    dim = collection.config.dim
    parts = collection.table.parts()
    count = count_tagged(collection)
    kind = kind or choose_kind(count, dim, memory_bytes)
    codes, probe = None, Probe.of([], np.empty((0, dim), np.float32))
    if kind != "flat" and count:
        codes, probe = _train(collection, kind, count, parts, say)
    say(f"reading {count:,} embeddings")
    filled = list(fill_all(parts, codes, probe, version))
    content = gather(filled, codes, probe)
    return write(
        collection,
        content,
        kind=codes.kind if codes else "flat",
        version=version,
        trained_count=count if codes else 0,
        folder=folder,
        started=started,
        say=say,
    )


def _train(
    collection: Collection, kind: Kind, count: int, parts: list[LivePart], say: Callable[[str], None]
) -> tuple[Codes, Probe]:
    plan = plan_codes(kind, count)
    queries = min(QUERIES, count // 10)
    ids, vectors = sample(
        collection.store, parts, plan.train_rows + queries, dim=collection.config.dim, seed=_SEED
    )
    order = np.random.default_rng(_SEED).permutation(len(ids))
    held_out, rest = order[:queries], np.sort(order[queries:])
    lists = plan.lists
    while lists > 1 and lists * 40 > len(rest):  # fewer images than the table's rows promised
        lists //= 2
    say(f"training {lists:,} lists with {len(rest):,} embeddings")
    codes = Codes.train(vectors[rest], replace(plan, lists=lists))
    return codes, Probe.of([ids[place] for place in held_out], vectors[held_out].astype(np.float32))


def partitions(parts: Sequence[LivePart], rows: int) -> list[Partition]:
    """Group parts of the table into partitions of about `rows` rows."""
    groups: list[list[LivePart]] = []
    room = 0
    for part in parts:
        if not groups or part.rows > room:
            groups.append([])
            room = rows
        groups[-1].append(part)
        room -= part.rows
    return [
        Partition(tuple(part.path for part in group), sum(part.rows for part in group)) for group in groups
    ]


def fill_here(collection: Collection, folder: Path) -> FillAll:
    """Return a function that fills an index in this process, one partition after the other."""

    def fill_all(
        parts: Sequence[LivePart], codes: Codes | None, probe: Probe, version: str
    ) -> Iterator[Filled]:
        start = 0
        for partition in partitions(parts, _PARTITION_ROWS):
            filled = fill(
                collection.store,
                scan(collection.table, partition.parts),
                version=version,
                start=start,
                dim=collection.config.dim,
                codes=codes,
                probe=probe,
                folder=folder,
            )
            start += filled.segment.rows
            yield filled

    return fill_all


def gather(filled: Sequence[Filled], codes: Codes | None, probe: Probe) -> Content:
    """Put partitions together: FAISS merges their lists, the probe keeps the nearest of all."""
    for one in filled:
        if codes is not None and one.codes is not None:
            codes.merge(Codes.from_bytes(one.codes))
        probe = probe.joined(one.probe)
    facts = pa.concat_tables([no_facts(), *(one.facts for one in filled)])
    speech = {
        name: join_speech([hear(no_rows())[name], *(one.speech[name] for one in filled)]) for name in COLUMNS
    }
    slots = np.concatenate([np.empty(0, np.int64), *(one.slots for one in filled)])
    spread = sum(one.spread for one in filled) / max(1, len(slots))
    some = [one for one in filled if one.entry is not None]
    return Content(
        facts,
        speech,
        slots,
        tuple(one.segment for one in some),
        tuple(one.entry for one in some if one.entry is not None),
        codes,
        probe,
        spread,
    )


def write(
    collection: Collection,
    content: Content,
    *,
    kind: Kind,
    version: str,
    trained_count: int = 0,
    folder: Path,
    started: float,
    say: Callable[[str], None],
    older: Manifest | None = None,
    drift: float = 1.0,
) -> Manifest:
    """Store the files of a version, and return its manifest.

    Args:
        collection: What it is of.
        content: What is in it.
        kind: How vectors are searched.
        version: Its name.
        trained_count: Images when it was trained, where that is now.
        folder: For temporary files.
        started: When the work began, on the monotonic clock.
        say: Takes a line at a time for the person who waits.
        older: The version that this one was made from: where a file comes out the same, that one's is used,
            and with the same images its codes and their recall, too.
        drift: How far the newest images are from the centres of their lists, compared with those it was
            trained with.
    """
    store, config = collection.store, collection.config
    known = {(entry.name, entry.sha256): entry for entry in older.files} if older else {}

    def keep(name: str, make: Callable[[Path], None]) -> FileEntry:
        path = folder / name
        make(path)
        fresh = entry_of(version, path)
        entry = known.get((name, fresh.sha256)) or put_file(store, path, fresh)
        path.unlink(missing_ok=True)
        return entry

    def keep_codes() -> tuple[Effort, list[FileEntry]]:
        if content.codes is not None:
            return choose_effort(content.codes, content.probe, _effort_of(older)), [
                keep(CODES_NAME, content.codes.write),
                keep(PROBE_NAME, lambda path: write_arrow(path, content.probe.to_table())),
            ]
        if older is not None and kind != "flat":  # the same images
            return _effort_of(older), [older.file(CODES_NAME), older.file(PROBE_NAME)]
        return EXACT, []

    def keep_words(order: npt.NDArray[np.int64]) -> list[FileEntry]:
        words, postings = make_words(content.speech, content.slots, order)
        return [
            keep(WORDS_NAME, partial(write_arrow, table=words)),
            keep(POSTINGS_NAME, partial(write_arrow, table=postings)),
        ]

    with ThreadPoolExecutor(1) as pool:  # beside FAISS and the disk
        of_codes = pool.submit(keep_codes)
        order = pc.sort_indices(content.facts.column("image_id")).to_numpy()
        entries = [*content.entries, *keep_words(order)]
        facts = content.facts.append_column("slot", pa.array(content.slots, pa.int64())).take(order)
        entries.append(keep(IDS_NAME, lambda path: write_ids(path, facts.select(IDS_SCHEMA.names))))
        effort, more = of_codes.result()
    entries += more
    if content.codes is not None:
        recall = "not measured" if effort.recall is None else f"{effort.recall:.3f}"
        say(f"recall@10 {recall} with {effort.nprobe} lists and {effort.depth} candidates")
    tagging = config.tagging
    return Manifest(
        version=version,
        model_id=config.model_id,
        model=config.model,
        dim=config.dim,
        kind=kind,
        count=len(content.slots),
        slots=sum(segment.rows for segment in content.segments),
        table_version=collection.table.version,
        serial=tagging.serial,
        heads=heads_of(store),
        taxonomy_file=tagging.taxonomy_file,
        trained_count=older.trained_count if older else trained_count,
        trained_spread=older.trained_spread if older else content.spread,
        drift=round(drift, 4),
        nprobe=effort.nprobe,
        depth=effort.depth,
        recall_at_10=effort.recall,
        recall_queries=effort.queries,
        segments=content.segments,
        files=tuple(entries),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
    )


def _effort_of(older: Manifest | None) -> Effort:
    if older is None:
        return EXACT
    return Effort(older.nprobe, older.depth, older.recall_at_10, older.recall_queries)


def count_tagged(collection: Collection) -> int:
    """Return how many images of the table have an embedding."""
    if not collection.table.rows:
        return 0
    return sum(
        int(pc.sum(pc.equal(batch.column("status"), "tagged")).as_py() or 0)
        for batch in collection.table.scan(["status"], batch_rows=65_536)
    )


def heads_of(store: Store) -> str:
    """Return a fingerprint of the taught heads, whose tags are among the words."""
    found = sorted((info.name, info.etag or "") for page in store.list(f"{HEADS_FOLDER}/") for info in page)
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]
