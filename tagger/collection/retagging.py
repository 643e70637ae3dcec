"""Another taxonomy, threshold or top_k for every row, from the stored embeddings alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection.config import Tagging
from tagger.collection.parts import PartWriter, part_key, part_name
from tagger.collection.reading import read_row_groups
from tagger.collection.runs import new_run_id
from tagger.collection.schema import SCHEMA, TAG
from tagger.errors import TaggerError
from tagger.tags import probabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from tagger.collection.opening import Collection
    from tagger.collection.parts import Part
    from tagger.collection.table import LivePart
    from tagger.collection.writer import Writer
    from tagger.tags import Taxonomy

    Floats = npt.NDArray[np.float32]
    LogitsOf = Callable[[Floats, Floats], Floats]

_MOST_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Retagged:
    """What a retag did.

    Attributes:
        run_id: Name of the run.
        rows: Rows of the table.
        tagged: Rows that got new tags.
        table_version: Version of the table that holds them.
        seconds: Wall time.
    """

    run_id: str
    rows: int
    tagged: int
    table_version: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger retag --json` prints."""
        return asdict(self)


def retag(
    collection: Collection,
    logits_of: LogitsOf,
    *,
    taxonomy: Taxonomy | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    run_id: str | None = None,
) -> Retagged:
    """Give every tagged row new tags and categories; all other columns stay as they are.

    The table changes in one commit, so a crash leaves the old rows or the new ones, never a mixture, and the
    same call afterwards finishes the work (see `config` for how collection.json keeps step).

    Tags from taught heads are kept.

    Args:
        collection: What to change.
        logits_of: From embeddings (N, D) and their norms (N,) to logits (N, L): the model's last layer.
        taxonomy: The new one; None keeps the collection's.
        threshold: The new one; None keeps the collection's.
        top_k: The new one; None keeps the collection's.
        run_id: Name of the run, made up by default.

    Raises:
        CollectionBusy: Another run is writing.
        RunError: A part cannot be read or written; the collection is as it was.
    """
    started = time.monotonic()
    run_id = run_id or new_run_id()
    with collection.writer(run_id, "tagger retag") as writer:
        held = collection.config.tagging
        names = taxonomy or collection.taxonomy()
        collection.store_taxonomy(names)
        tagging = Tagging.of(
            names,
            threshold=held.threshold if threshold is None else threshold,
            top_k=held.top_k if top_k is None else top_k,
            serial=held.serial + 1,
        )
        record = collection.record(run_id)
        record.start({"command": "retag", **asdict(tagging)})
        try:
            tagged = _retag(collection, writer, logits_of, names, tagging)
        except BaseException:
            with contextlib.suppress(TaggerError):
                record.finish("failed", {})
            raise
        result = Retagged(
            run_id=run_id,
            rows=collection.table.rows,
            tagged=tagged,
            table_version=collection.table.version,
            seconds=round(time.monotonic() - started, 3),
        )
        record.finish("done", result.to_json())
        return result


def _retag(
    collection: Collection, writer: Writer, logits_of: LogitsOf, taxonomy: Taxonomy, tagging: Tagging
) -> int:
    """Announce the settings, rewrite every part, swap them all at once; returns the rows with tags."""
    collection.announce(tagging)
    tagger = _Tagger(collection, logits_of, taxonomy, tagging)
    live = collection.table.parts()
    with _one_blas_thread(), ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(lambda part: tagger.rewrite(part, part_name(writer.run_id)), live))
    new = {old.path: part for old, (part, _) in zip(live, parts, strict=True)}
    writer.swap(new, operation="retag", serial=tagging.serial)
    collection.settle()
    return sum(tagged for _, tagged in parts)


def _one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    """Let each of our threads compute on its own core.

    The threads of several BLAS calls at a time wait for each other in busy loops: 0.25 ms of CPU a row
    instead of 0.1.
    """
    try:
        return importlib.import_module("threadpoolctl").threadpool_limits(limits=1, user_api="blas")  # type: ignore[no-any-return]
    except ImportError:
        return contextlib.nullcontext()


class _Tagger:
    """Rewrites parts with new words; threads may share it."""

    def __init__(
        self, collection: Collection, logits_of: LogitsOf, taxonomy: Taxonomy, tagging: Tagging
    ) -> None:
        self._store = collection.store
        self._config = replace(collection.config, tagging=tagging)
        self._logits_of = logits_of
        self._taxonomy = taxonomy

    def rewrite(self, part: LivePart, name: str) -> tuple[Part, int]:
        """Write a part again with new tags, row group by row group; returns it and its tagged rows."""
        out = PartWriter()
        tagged = 0
        for rows in read_row_groups(self._store, part_key(part.path), size_bytes=part.size_bytes):
            out.write(self._with_words(rows))
            tagged += rows.num_rows - rows.column("embedding").null_count
        written = out.store(self._store, name)
        assert written is not None  # a live part has rows
        return written, tagged

    def _with_words(self, rows: pa.Table) -> pa.Table:
        embedding = rows.column("embedding").combine_chunks()
        there = embedding.is_valid()
        norm = rows.column("embedding_norm").combine_chunks().filter(there)
        values = embedding.filter(there).flatten().to_numpy(zero_copy_only=False)
        vectors = values.reshape(len(norm), -1 if len(norm) else self._config.dim)
        logits = self._logits_of(vectors, norm.to_numpy(zero_copy_only=False))
        tagging, activation = self._config.tagging, self._config.activation
        tags, categories = self._taxonomy.assign(
            probabilities(logits, activation),
            source=self._config.model,
            threshold=tagging.threshold,
            top_k=tagging.top_k,
            activation=activation,
        )
        if len(norm) < rows.num_rows:
            # Back to the places of their rows; failed rows have no words.
            place = pc.if_else(there, pc.cumulative_sum(there.cast(pa.int64())), pa.scalar(None, pa.int64()))
            place = pc.subtract(place, 1)
            tags, categories = tags.take(place), categories.take(place)
        tags = _with_taught(tags, rows.column("tags").combine_chunks(), self._config.model)
        for column, new in (("tags", tags), ("categories", categories)):
            field = SCHEMA.field(column)
            rows = rows.set_column(rows.schema.get_field_index(column), field, new.cast(field.type))
        return rows


def _with_taught(new: pa.ListArray, old: pa.ListArray, model: str) -> pa.ListArray:
    """Merge the tags that taught heads gave into the model's new ones, best first."""
    taught = pc.not_equal(old.flatten().field("source"), model)
    if not pc.any(taught, min_count=0).as_py():
        return new
    kept = old.flatten().filter(taught)
    row_of_kept = pc.list_parent_indices(old).filter(taught).to_numpy()
    words = pa.concat_arrays([new.flatten().cast(TAG), kept.cast(TAG)])
    row = np.concatenate([pc.list_parent_indices(new).to_numpy(), row_of_kept])
    score = words.field("score").to_numpy(zero_copy_only=False)
    order = np.lexsort((np.arange(len(row)), -score, row))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(new)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), words.take(pa.array(order)), mask=new.is_null())
