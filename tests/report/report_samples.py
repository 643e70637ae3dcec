"""Collections for the tests of the report: real photos, real facts about them, made-up tags."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tagger.collection import Collection, Config, RunRecord, Tagging, new_run_id, part_name, write_part
from tagger.collection.schema import SCHEMA
from tagger.tags import Entry, Taxonomy
from tagger.vision import DecodeLimits, Facts, Framing
from tagger.vision.decode import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MODEL_ID = "0123456789abcdef" * 4
TAXONOMY = Taxonomy(tags=(Entry("a", ("thing",)), Entry("b", ("thing",))), nodes=(Entry("thing"),))
_FRAMING = Framing(size_px=32, resize_px=36)


def new_collection(folder: Path | str, *, threshold: float = 0.1, top_k: int = 5, dim: int = 4) -> Collection:
    """Make an empty collection."""
    config = Config(
        model_id=MODEL_ID,
        model="efficientnet_lite0",
        dim=dim,
        labels=TAXONOMY.names,
        activation="softmax",
        tagging=Tagging.of(TAXONOMY, threshold=threshold, top_k=top_k),
    )
    return Collection.create_or_open(str(folder), config, taxonomy=TAXONOMY)


def tagged_row(uri: str, facts: Facts, tags: Sequence[tuple[str, float]], **values: Any) -> dict[str, Any]:
    """Return the row of a tagged image; its categories are `thing` and what `values` say."""
    return {
        "image_id": uri,
        "uri": uri,
        "size_bytes": 1000,
        "status": "tagged",
        "width_px": facts.width_px,
        "height_px": facts.height_px,
        "format": facts.format,
        "tags": [{"tag": tag, "score": score, "source": "efficientnet_lite0"} for tag, score in tags],
        "categories": [{"tag": "thing", "score": 0.9}],
        "colors": [color._asdict() for color in facts.colors],
        "sharpness": facts.sharpness,
        "brightness": facts.brightness,
        "phash": facts.phash,
        "embedding": [0.5, 0.5, 0.5, 0.5],
        "embedding_norm": 1.0,
        **values,
    }


def failed_row(uri: str, error: str, detail: str | None, **values: Any) -> dict[str, Any]:
    """Return the row of an image that failed."""
    return {"image_id": uri, "uri": uri, "status": "failed", "error": error, "error_detail": detail, **values}


def peers(n: int, *, dim: int = 32, strange: Iterable[int] = ()) -> np.ndarray:
    """Return unit vectors of shape (n, dim) around one direction; those in `strange` point anywhere."""
    vectors = 0.1 * np.random.default_rng(n).normal(size=(n, dim))
    vectors[:, 0] += 1
    for place in strange:
        vectors[place] = np.random.default_rng(place % n).normal(size=dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def facts_of(data: bytes) -> Facts:
    """Return the real measurements of an image file."""
    return decode(data, (_FRAMING,), DecodeLimits()).facts


def rows_table(rows: Iterable[Mapping[str, Any]], run_id: str = "r") -> pa.Table:
    """Return rows as a table of the collection's schema."""
    constant = {"model_id": MODEL_ID, "run_id": run_id, "tagged_at": datetime(2026, 1, 2, tzinfo=UTC)}
    whole = [{name: (constant | dict(row)).get(name) for name in SCHEMA.names} for row in rows]
    return pa.Table.from_pylist(whole, SCHEMA)


def add_run(
    collection: Collection,
    rows: Sequence[Mapping[str, Any]],
    *,
    state: Any = "done",
    settings: Mapping[str, Any] | None = None,
    **result: Any,
) -> str:
    """Commit rows as one run with its record; returns the run's id."""
    run_id = new_run_id()
    record = RunRecord(collection.store, run_id)
    record.start({"command": "tag", "source": "photos", "model": "efficientnet_lite0", **(settings or {})})
    with collection.writer(run_id, "tag") as writer:
        if rows:
            part = write_part(collection.store, rows_table(rows, run_id), part_name(run_id))
            writer.commit([part])
    failed = sum(row["status"] == "failed" for row in rows)
    seconds = max(1.0, len(rows) / 300)
    record.finish(
        state,
        {
            "listed": len(rows),
            "skipped": 0,
            "planned": len(rows),
            "tagged": len(rows) - failed,
            "failed": failed,
            "seconds": seconds,
            "images_per_s": round(len(rows) / seconds, 1),
            "stage_seconds": {
                "fetch": 0.0018 * len(rows),
                "fetch and decode": 0.0021 * len(rows),
                "tag": 0.0039 * len(rows),
            },
            **result,
        },
    )
    return run_id


def photo_rows(
    folder: Path, photos: Iterable[tuple[str, bytes, str]], *, seed: int = 0
) -> list[dict[str, Any]]:
    """Store (name, bytes, tag) photos in a folder; returns a row for each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows = []
    for name, data, tag in photos:
        path = folder / name
        path.write_bytes(data)
        tags = [(tag, round(rng.uniform(0.4, 0.99), 4)), ("picture", round(rng.uniform(0.1, 0.4), 4))]
        rows.append(tagged_row(f"file://{path}", facts_of(data), tags, size_bytes=len(data)))
    return rows
