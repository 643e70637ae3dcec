"""Reading embeddings from the tags table: a sample to train with, and partitions that fill an index."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.parts import part_key
from tagger.collection.reading import open_parquet
from tagger.collection.schema import SCHEMA as TABLE_SCHEMA
from tagger.errors import RunError
from tagger.index.files import entry_of, put_file
from tagger.index.ids import FACTS, FACTS_SCHEMA, facts_of
from tagger.index.manifest import FileEntry, Segment
from tagger.index.vectors import VectorWriter
from tagger.index.words import COLUMNS, Speech, hear, join_speech

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tagger.collection import LivePart, TagsTable
    from tagger.index.codes import Codes
    from tagger.index.probe import Probe
    from tagger.index.vectors import Floats, Halves, Slots
    from tagger.storage import Store

ROW_COLUMNS: Final = ("image_id", *FACTS, *COLUMNS, "status", "embedding")
"""What an index takes from the tags table."""

BATCH_ROWS: Final = 4096
_SAMPLE_THREADS: Final = 4
_SAMPLED_GROUPS: Final = 64


@dataclass
class Filled:
    """What one partition adds to an index; picklable.

    Attributes:
        facts: Rows of ids.parquet without slots, by slot.
        speech: The words of its images, by slot.
        slots: Their slots, ascending.
        segment: Its vectors.
        entry: The file they are in; None where there are none.
        codes: Its codes, as bytes; None without codes, or where they were added to the index at once.
        probe: The queries, compared with its images.
        spread: Sum of its images' squared distances from the centres of their lists.
    """

    facts: pa.Table
    speech: Speech
    slots: Slots
    segment: Segment
    entry: FileEntry | None
    codes: Any
    probe: Probe
    spread: float


def embeddings_of(rows: pa.Table | pa.RecordBatch, dim: int) -> Floats:
    """Return the embeddings of tagged rows, shape (N, D).

    Raises:
        RunError: One has another length.
    """
    column = rows.column("embedding")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    flat: Floats = column.flatten().to_numpy(zero_copy_only=False)
    if len(flat) != len(column) * dim:
        raise RunError(
            f"the table holds embeddings that have not {dim} values: `tagger check` tells which rows"
        )
    if not np.isfinite(flat.sum(dtype=np.float64)):
        raise RunError("the table holds embeddings with a NaN: `tagger check` tells which rows")
    return flat.reshape(len(column), dim)


def tagged(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows that have an embedding."""
    there = pc.and_(pc.equal(rows.column("status"), "tagged"), pc.is_valid(rows.column("embedding")))
    return rows if pc.all(there, min_count=0).as_py() else rows.filter(there)


def sample(
    store: Store, parts: Sequence[LivePart], n: int, *, dim: int, seed: int
) -> tuple[list[str], Halves]:
    """Return about `n` random images, of row groups all over the table.

    Args:
        store: The collection's root.
        parts: Where to look.
        n: How many.
        dim: Length of an embedding.
        seed: The same seed and parts give the same images.

    Returns:
        Their ids, and their embeddings, shape (N, D), in the float16 that they were rounded to; a table with
        fewer images gives all of them.
    """
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(_SAMPLE_THREADS) as pool:
        opened = list(
            pool.map(lambda part: open_parquet(store, part_key(part.path), part.size_bytes).metadata, parts)
        )
        groups = [
            (part, metadata, number, metadata.row_group(number).num_rows)
            for part, metadata in zip(parts, opened, strict=True)
            for number in range(metadata.num_row_groups)
        ]
        total = sum(group[3] for group in groups)
        # Twice the rows in at least so many groups: neighbours in the table often come from one folder.
        mean = max(1, total // max(1, len(groups)))
        wanted = min(len(groups), max(_SAMPLED_GROUPS, -(-2 * n // mean)))
        chosen = np.sort(rng.permutation(len(groups))[:wanted])
        share = min(1.0, 1.02 * n / max(1, sum(groups[place][3] for place in chosen)))

        def read(place: int) -> tuple[list[str], Halves]:
            part, metadata, number, _ = groups[place]
            file = open_parquet(store, part_key(part.path), part.size_bytes, metadata)
            columns = ["image_id", "status", "embedding"]
            rows = tagged(
                file.read_row_group(number, columns=columns, use_threads=False)
                .combine_chunks()
                .to_batches()[0]
            )
            take = np.random.default_rng([seed, place]).random(rows.num_rows) < share
            rows = rows.filter(pa.array(take))
            return rows.column("image_id").to_pylist(), embeddings_of(rows, dim).astype(np.float16)

        found = list(pool.map(read, chosen.tolist()))
    ids = [image_id for some, _ in found for image_id in some]
    vectors = np.concatenate([some for _, some in found]) if found else np.empty((0, dim), np.float16)
    return ids, vectors


def fill(
    store: Store,
    batches: Iterable[pa.RecordBatch],
    *,
    version: str,
    start: int,
    dim: int,
    codes: Codes | None,
    probe: Probe,
    folder: Path,
    reserve: int = 0,
) -> Filled:
    """Put images into an index: vectors into a file of their own, codes into `codes`.

    Args:
        store: The collection's root.
        batches: Rows with `ROW_COLUMNS`.
        version: Whose folder gets the vector file.
        start: First slot.
        dim: Length of an embedding.
        codes: Gets the codes; None for an index without.
        probe: Queries to compare the images with.
        folder: For temporary files.
        reserve: Slots to take up at least.
    """
    path = folder / f"vectors-{start:012d}.f16"
    writer = VectorWriter(path, dim)
    facts, speeches = [no_facts()], [hear(no_rows())]
    spread = 0.0
    for batch in batches:
        rows = tagged(batch)
        if not rows.num_rows:
            continue
        vectors = embeddings_of(rows, dim)
        slots = np.arange(start + writer.rows, start + writer.rows + len(vectors))
        writer.write(vectors)
        if codes is not None:
            spread += codes.add(vectors, slots)
        probe = probe.compared(rows.column("image_id").to_pylist(), vectors, slots)
        facts.append(facts_of(rows))
        speeches.append(hear(rows))
    n = writer.rows
    padded = writer.close(reserve)
    entry = put_file(store, path, entry_of(version, path)) if padded else None
    path.unlink(missing_ok=True)
    return Filled(
        pa.concat_tables(facts),
        {name: join_speech([one[name] for one in speeches]) for name in COLUMNS},
        np.arange(start, start + n),
        Segment(path.name, start, padded),
        entry,
        None,
        probe,
        spread,
    )


def no_facts() -> pa.Table:
    """Return a table of no images with the columns of `Filled.facts`."""
    return FACTS_SCHEMA.empty_table()


def no_rows() -> pa.Table:
    """Return no rows of what an index takes from the tags table."""
    return pa.schema([TABLE_SCHEMA.field(name) for name in ROW_COLUMNS]).empty_table()


def scan(table: TagsTable, parts: Sequence[str] | None = None) -> pa.RecordBatchReader:
    """Stream what an index takes from the table."""
    return table.scan(list(ROW_COLUMNS), parts=parts, batch_rows=BATCH_ROWS)
