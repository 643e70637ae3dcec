"""Outliers against brute force, within a tag, with copies, and with too few images."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_kit import collection_of, names, rows_of, vectors_of

import tagger
from tagger.collection import SCHEMA
from tagger.errors import QueryError
from tagger.search.outliers import distances

DIM = 24
N = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four heaps and three strangers, one of them there twice."""
    vectors = vectors_of(N, dim=DIM, seed=3, clusters=4)
    strange = vectors_of(3, dim=DIM, seed=9)
    rows = rows_of(names(0, N), vectors, seed=3).to_pylist()
    for place, vector in zip((100, 200, 300), strange, strict=True):
        rows[place]["embedding"] = vector
    rows[301]["embedding"] = strange[2]
    collection = collection_of(
        tmp_path_factory.mktemp("outliers") / "c", [pa.Table.from_pylist(rows, SCHEMA)], dim=DIM
    )
    opened = tagger.open(collection.uri)
    opened.index()
    return opened, rows


def brute_force(rows, k=10):
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    cosine[cosine >= 0.98] = -np.inf
    best = -np.sort(-cosine, axis=1)[:, :k]
    return 1 - np.array([row[np.isfinite(row)].mean() for row in best])


def test_distances_are_those_of_brute_force(made):
    opened, rows = made
    index = opened.opened_index()
    far = distances(index)
    by_id = dict(zip(index.ids.image_ids(far.slots), far.distance.tolist(), strict=True))
    expected = brute_force(rows)
    assert [by_id[row["image_id"]] for row in rows] == pytest.approx(expected.tolist(), abs=1e-4)
    assert far.percentile.max() < 1
    order = np.argsort(far.distance)
    assert (np.diff(far.percentile[order]) >= 0).all()


def test_strangers_come_first_also_when_they_are_there_twice(made, tmp_path):
    opened, rows = made
    found = opened.outliers(tmp_path / "far.parquet", share=0.02)
    assert (found.images, found.outliers) == (N, 8)
    first = {row["image_id"] for row in found.first[:4]}
    assert first == {rows[place]["image_id"] for place in (100, 200, 300, 301)}
    written = pq.read_table(tmp_path / "far.parquet").to_pylist()
    assert written == found.first
    assert [row["rank"] for row in written] == list(range(1, 9))
    assert all(row["nearest"] not in (None, row["image_id"]) for row in written)


def test_within_a_tag_its_images_are_each_others_peers(made):
    opened, rows = made
    with_tag = [row for row in rows if any(tag["tag"] in ("tabby", "lynx") for tag in row["tags"])]
    found = opened.outliers(within="cat", share=1)
    assert found.images == len(with_tag)
    expected = dict(zip((row["image_id"] for row in with_tag), brute_force(with_tag).tolist(), strict=True))
    for row in found.first:
        assert row["distance"] == pytest.approx(expected[row["image_id"]], abs=1e-4)
        assert row["nearest"] in expected


def test_wrong_use_is_told(made):
    opened, _ = made
    for share in (0, 1.5, float("nan")):
        with pytest.raises(QueryError, match="share"):
            opened.outliers(share=share)
    with pytest.raises(QueryError, match="similar: cat"):
        opened.outliers(within="catt")


def test_an_image_without_peers_is_no_outlier(tmp_path):
    """All are copies of one picture."""
    vectors = np.repeat(vectors_of(1, dim=DIM, seed=1), 5, axis=0)
    collection = collection_of(tmp_path / "c", [rows_of(names(0, 5), vectors)], dim=DIM)
    opened = tagger.open(collection.uri)
    opened.index()
    assert {row["nearest"] for row in opened.outliers(share=1).first} == {None}
    two = collection_of(tmp_path / "d", [rows_of(names(0, 2), vectors[:2])], dim=DIM)
    opened = tagger.open(two.uri)
    opened.index()
    with pytest.raises(QueryError, match="at least 3"):
        opened.outliers()
