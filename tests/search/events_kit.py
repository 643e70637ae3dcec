"""A small index and files of events, with plain Python that says what should come of them."""

from __future__ import annotations

import csv
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from collection_kit import DIM, add_rows, ids, make_collection, make_rows, np

from tagger.collection import Collection
from tagger.index import Index, index
from tagger.search.events import EventOptions, Events

IMAGES = ids(0, 30)
DAY = 86_400
START = 1_767_225_600  # 2026-01-01


def make_index(folder, image_ids=IMAGES, same=(), blank=None, embeddings=()):
    """An index where every third image is a lynx, the others tabbies; `same`: pairs of one picture.

    `embeddings`: pairs of an id and its vector.
    """
    rows = make_rows(image_ids).to_pylist()
    by_id = {row["image_id"]: row for row in rows}
    for number, row in enumerate(rows):
        row["tags"] = [{"tag": "lynx" if number % 3 == 0 else "tabby", "score": 0.75, "source": "tiny"}]
    for one, other in same:
        for name in ("sha256", "phash", "embedding"):
            by_id[other][name] = by_id[one][name]
    for one, vector in dict(embeddings).items():
        by_id[one]["embedding"] = np.asarray(vector, np.float16).astype(np.float32).tolist()
    if blank:
        by_id[blank]["embedding"] = [0.0] * DIM
    collection = make_collection(folder)
    add_rows(collection, pa.Table.from_pylist(rows, schema=make_rows([]).schema))
    index(collection)
    return Index.open(Collection.open(collection.uri))


def write_events(path, events, columns=("user_id", "image_id", "event", "timestamp")):
    """Write rows as CSV or Parquet, by the ending of the path."""
    path = Path(path)
    if path.suffix == ".parquet":
        kinds = {name: pa.string() for name in columns if name not in ("timestamp", "weight")}
        lists = list(zip(*events, strict=True)) or [[] for _ in columns]
        arrays = {name: pa.array(found, kinds.get(name)) for name, found in zip(columns, lists, strict=True)}
        pq.write_table(pa.table(arrays), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *events])
    return path


@contextmanager
def reading(opened, path, products=None, **options):
    """The events of a file, read."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Events(
            opened,
            Path(path),
            options=EventOptions(**options),
            products=products and Path(products),
            folder=Path(folder),
            memory_bytes=256 << 20,
            threads=2,
        ) as events,
    ):
        yield events


def tastes_of(events):
    """{user_id: {slot: weight}}"""
    found = {}
    for batch in events.batches(2):
        for user_id in batch.user_ids:
            found[user_id] = {}
        for user, slot, weight in zip(batch.users, batch.slots, batch.weights, strict=True):
            found[batch.user_ids[user]][int(slot)] = float(weight)
    return found


def vectors_of(opened):
    return opened.vectors.take(np.arange(opened.manifest.slots))


__all__ = [name for name in dir() if not name.startswith("_")]
