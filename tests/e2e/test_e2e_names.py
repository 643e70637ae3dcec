"""Odd keys on S3: one row each, and the right object read."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from badfiles import odd_names
from driving import tagger
from tables import rows_of

from tagger.testing import RawS3, make_photos

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_odd_keys_are_only_names(tmp_path: Path) -> None:
    # SeaweedFS folds `//` and `\\` to `/` and refuses `..`; Amazon keeps every key, and so does RawS3.
    names = odd_names()
    photos = dict(zip(names, (data for _, data in make_photos(len(names), seed=3)), strict=True))
    collection = str(tmp_path / "collection")
    with RawS3({**photos, "folder/": b"", "deep/.hidden.jpg": b"x", "_SUCCESS": b""}) as server:
        record = tagger("tag", server.uri, collection, "--json", env=server.env()).require().json
        again = tagger("tag", server.uri, collection, "--json", env=server.env()).require().json
        # The same images by a manifest: a list of addresses, each as raw as it is.
        manifest = tmp_path / "list.jsonl"
        manifest.write_text("".join(json.dumps({"uri": f"{server.uri}/{name}"}) + "\n" for name in names))
        listed = tagger("tag", manifest, collection, "--json", env=server.env()).require().json
        rows = {row["uri"].removeprefix(f"{server.uri}/"): row for row in rows_of(collection).to_pylist()}
    assert record["listed"] == record["tagged"] == len(photos)
    assert sorted(rows) == sorted(photos)
    wrong = [
        name
        for name, data in photos.items()
        if rows[name]["sha256"] != hashlib.sha256(data).hexdigest()
        or rows[name]["image_id"] != rows[name]["uri"]
        or rows[name]["size_bytes"] != len(data)
    ]
    assert wrong == []
    assert (again["planned"], again["skipped"]) == (0, len(photos))
    assert (listed["planned"], listed["skipped"]) == (0, len(photos))
    tagger("check", collection).require()
