"""Reads collections with deltalake and pyarrow alone: an oracle that shares no code with what it judges."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable

if TYPE_CHECKING:
    import pyarrow as pa

VOLATILE = ("run_id", "tagged_at")
"""Columns that may differ between two runs over the same images."""


def rows_of(collection: str, *, drop: tuple[str, ...] = VOLATILE) -> pa.Table:
    """Return the live rows by image_id, without volatile columns."""
    table = delta(collection).to_pyarrow_table()
    return table.select([name for name in table.column_names if name not in drop]).sort_by("image_id")


def delta(collection: str) -> DeltaTable:
    """Open the tags table at its newest version."""
    options = None
    if collection.startswith("s3://"):
        options = {
            "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
            "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"],
            "aws_region": os.environ["AWS_REGION"],
            "aws_allow_http": "true",
        }
    return DeltaTable(f"{collection}/tags", storage_options=options)


def by_name(collection: str, *, drop: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the rows by the last component of their image_id."""
    rows = rows_of(collection, drop=drop).to_pylist()
    named = {row["image_id"].rpartition("/")[2]: row for row in rows}
    assert len(named) == len(rows)
    return named


def runs_of(collection: str) -> dict[str, int]:
    """Return how many live rows each run has written."""
    column = rows_of(collection, drop=()).column("run_id").value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in column}


def assert_same_rows(one: pa.Table, other: pa.Table) -> None:
    """Compare row for row and column for column, exactly."""
    ids, others = one.column("image_id").to_pylist(), other.column("image_id").to_pylist()
    assert len(set(ids)) == len(ids), "an image has two rows"
    assert sorted(set(ids) ^ set(others)) == []
    assert ids == others
    assert one.schema == other.schema
    different = [name for name in one.column_names if one.column(name) != other.column(name)]
    for name in different:
        pairs = zip(one.column(name).to_pylist(), other.column(name).to_pylist(), strict=True)
        first = next((n, a, b) for n, (a, b) in enumerate(pairs) if a != b)
        raise AssertionError(
            f"{name} of {ids[first[0]]} differs: {str(first[1])[:200]} / {str(first[2])[:200]}"
        )
