"""The stages as plain functions, without Ray: fetch and decode, tag, write."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tagger.collection.schema import PLAN_SCHEMA, SCHEMA
from tagger.engine.blocks import array_of, bytes_of, pack, table_of
from tagger.engine.fetch import Fetcher, FetchSettings
from tagger.engine.parts import write_group
from tagger.engine.tagging import Tagger, TagSettings
from tagger.errors import StoreUnavailable
from tagger.models import find_model, prepare
from tagger.settings import load_settings
from tagger.storage import StorageOptions
from tagger.tags import load_taxonomy
from tagger.vision import DecodeLimits


@pytest.fixture(scope="module")
def prepared(cache_dir):
    return prepare(find_model("efficientnet_lite0"), "openvino", cache_dir=cache_dir)


@pytest.fixture
def fetcher(prepared):
    one = Fetcher(FetchSettings(StorageOptions(), (prepared.framing,), DecodeLimits(), threads=4))
    yield one
    one.close()


@pytest.fixture(scope="module")
def tagger_stage(prepared):
    taxonomy = load_taxonomy(None, prepared.labels, prepared.wnids)
    settings = TagSettings(prepared, taxonomy, threshold=0.15, top_k=5, run_id="run-1", source=prepared.name)
    return Tagger((settings,), (prepared.payload(),), threads=1)


def plan_of(paths, old_part=None, old_error=None):
    rows = [
        {
            "image_id": f"file://{path}",
            "uri": f"file://{path}",
            "etag": None,
            "size_bytes": None,
            "old_part": old_part,
            "old_error": old_error,
        }
        for path in paths
    ]
    return pa.Table.from_pylist(rows, PLAN_SCHEMA)


@pytest.fixture
def photos(tmp_path, jpegs):
    paths = []
    for name, data in list(jpegs.items())[:5]:
        path = tmp_path / name.replace("/", "_")
        path.write_bytes(data)
        paths.append(path)
    return paths


def test_rows_keep_plan_order_and_every_failure_its_place(fetcher, tagger_stage, photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>not a picture</html>")
    paths = [photos[0], tmp_path / "gone.jpg", photos[1], bad, photos[2]]
    block = fetcher(pack(3, rows=plan_of(paths)))
    rows = table_of(tagger_stage(block), "rows_0").to_pylist()
    assert [row["uri"] for row in rows] == [f"file://{path}" for path in paths]
    assert [row["error"] for row in rows] == [None, "not_found", None, "unsupported_format", None]
    assert [row["status"] for row in rows] == ["tagged", "failed", "tagged", "failed", "tagged"]
    for path, row in zip(paths, rows, strict=True):
        assert row["sha256"] == (hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None)
        assert (row["embedding"] is None) == (row["status"] == "failed") == (row["colors"] is None)
        assert row["etag"] is not None or not path.exists()
        if row["embedding"] is not None:
            assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-3)


def test_a_photo_gets_the_same_row_whatever_comes_with_it(fetcher, tagger_stage, photos, tmp_path):
    def row_of(paths, number):
        rows = table_of(tagger_stage(fetcher(pack(number, rows=plan_of(paths)))), "rows_0").to_pylist()
        (row,) = [row for row in rows if row["uri"].endswith(photos[0].name)]
        return {name: value for name, value in row.items() if name != "tagged_at"}

    alone = row_of([photos[0]], 0)
    assert row_of([tmp_path / "gone.jpg", *photos[1:], photos[0]], 1) == alone


def test_pixels_are_zero_where_there_is_no_picture(fetcher, prepared, photos, tmp_path):
    block = fetcher(pack(0, rows=plan_of([tmp_path / "gone.jpg", photos[0]])))
    side = prepared.framing.size_px
    pixels = array_of(block, "pixels_0", (2, side, side, 3))
    assert not pixels[0].any()
    assert pixels[1].any()
    assert json.loads(bytes_of(block, "seconds")).keys() == {"fetch", "fetch and decode"}


def test_a_store_that_gives_nothing_stops_the_run(fetcher, tmp_path):
    gone = plan_of([tmp_path / f"gone-{n}.jpg" for n in range(150)])
    fetcher(pack(0, rows=gone))
    with pytest.raises(StoreUnavailable, match="300 reads in a row failed"):
        fetcher(pack(1, rows=gone))


def test_one_picture_in_between_is_a_sign_of_life(fetcher, photos, tmp_path):
    gone = [tmp_path / f"gone-{n}.jpg" for n in range(150)]
    fetcher(pack(0, rows=plan_of(gone)))
    fetcher(pack(1, rows=plan_of([*gone[:10], photos[0]])))
    fetcher(pack(2, rows=plan_of(gone)))


def test_images_that_were_missing_before_are_no_outage(fetcher, tagger_stage, tmp_path):
    gone = [tmp_path / f"gone-{n}.jpg" for n in range(150)]
    for number in range(3):
        fetcher(pack(number, rows=plan_of(gone, old_error="not_found")))
    fetcher(pack(3, rows=plan_of(gone, old_error="forbidden")))
    with pytest.raises(StoreUnavailable, match="300 reads in a row failed, the last with «not_found"):
        fetcher(pack(4, rows=plan_of(gone)))
    tagged = tagger_stage(fetcher(pack(5, rows=plan_of([gone[0]], old_error="not_found"))))
    receipt = write_group(
        [tagged], collections=(str(tmp_path / "c"),), options=StorageOptions(), run_id="run-1"
    )
    assert (receipt.rows, receipt.read_failures, receipt.known_failures) == (1, 1, 1)


def test_a_group_becomes_one_part_with_a_receipt(fetcher, tagger_stage, photos, tmp_path):
    first = tagger_stage(fetcher(pack(4, rows=plan_of(photos[:2]))))
    second = tagger_stage(
        fetcher(pack(2, rows=plan_of([photos[2], tmp_path / "gone.jpg"], old_part="old.parquet")))
    )
    collection = tmp_path / "collection"
    receipt = write_group(
        [first, second], collections=(str(collection),), options=StorageOptions(), run_id="run-1"
    )
    assert receipt.chunks == ((2, 2), (4, 2))
    assert (receipt.rows, receipt.tagged, receipt.errors, receipt.read_failures) == (
        4,
        3,
        {"not_found": 1},
        1,
    )
    assert receipt.replaced == {"old.parquet": [f"file://{photos[2]}", f"file://{tmp_path / 'gone.jpg'}"]}
    table = pq.read_table(collection / "tags" / receipt.parts[0].path)
    assert table.schema.names == SCHEMA.names
    assert table.column("uri").to_pylist() == [
        f"file://{path}" for path in (photos[2], tmp_path / "gone.jpg", photos[0], photos[1])
    ]
    assert receipt.seconds.keys() == {"fetch", "fetch and decode", "tag", "write"}


def test_settings_hold_no_secret(prepared, monkeypatch):
    import pickle

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAGEHEIM")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim+geheim")
    settings = FetchSettings(StorageOptions(), (prepared.framing,), DecodeLimits())
    assert b"geheim" not in pickle.dumps((settings, load_settings())).lower()
