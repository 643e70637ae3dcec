"""A shop of plain vectors: images with the facts that a test says, indexed."""

from __future__ import annotations

import pyarrow as pa
from index_kit import collection_of, rows_of, vectors_of

import tagger
from tagger.collection import SCHEMA

DIM = 32
SHOP = "s3://shop/"


def rows(names, *, vectors=None, seed=1, failed=()):
    """Rows of sharp, bright, large pictures that have nothing in common; those that failed are corrupt."""
    names = [f"{SHOP}{name}" for name in names]
    vectors = vectors_of(len(names), dim=DIM, seed=seed) if vectors is None else vectors
    found = rows_of(names, vectors, seed=seed, failed=[f"{SHOP}{name}" for name in failed]).to_pylist()
    for row in found:
        if row["error"] is None:
            row |= {"width_px": 1000, "height_px": 800, "sharpness": 500.0, "brightness": 0.5}
    return found


def shop(place, made):
    """A collection, indexed, of rows that a test has altered."""
    collection = collection_of(place, [pa.Table.from_pylist(made, SCHEMA)], dim=DIM)
    opened = tagger.open(collection.uri)
    opened.index()
    return opened
