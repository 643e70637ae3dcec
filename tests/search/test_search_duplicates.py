"""Groups of duplicates against brute force: hashes, chains, crowds, the best of each group, the file."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from driving import tagger as command
from hypothesis import given, settings
from hypothesis import strategies as st
from index_kit import collection_of, names, rows_of, turned, vectors_of

import tagger
from tagger.collection import SCHEMA
from tagger.errors import IndexUnusable, QueryError, UsageError
from tagger.search.duplicates import find_duplicates
from tagger.search.grouping import measured
from tagger.search.hashes import MOST_BITS, Hashes, mirrored

DIM = 32


def made(place, rows):
    """A collection, indexed, of rows that a test has altered."""
    collection = collection_of(place, [pa.Table.from_pylist(rows, SCHEMA)], dim=DIM)
    opened = tagger.open(collection.uri)
    opened.index()
    return opened


def strangers(n, seed=1):
    """Rows of pictures that have nothing in common."""
    rows = rows_of(names(0, n), vectors_of(n, dim=DIM, seed=seed), seed=seed).to_pylist()
    for row in rows:
        row["width_px"] = row["height_px"] = 100
    return rows


def flipped(phash, bits):
    return f"{int(phash, 16) ^ ((1 << bits) - 1):016x}"


def like(row, *, phash=None, cosine=1.0, sha256=None, seed=5):
    """What makes a row a copy of another."""
    return {
        "phash": row["phash"] if phash is None else phash,
        "embedding": turned(row["embedding"], cosine, seed),
        **({} if sha256 is None else {"sha256": sha256}),
    }


def grouped(opened, **options):
    """The groups as lists of image_ids, the best first, with the kinds of the others."""
    index = opened.opened_index()
    found = find_duplicates(index, measured(index, opened, "sharpness"), **options)
    ids = index.ids.image_ids(index.ids.slots)
    groups = {}
    for place in found.grouped.tolist():
        groups.setdefault(int(found.best[place]), []).append(
            (ids[place], None if found.kind[place] < 0 else ("bytes", "picture", "near")[found.kind[place]])
        )
    return list(groups.values())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, MOST_BITS), st.integers(1, 120))
def test_near_hashes_are_those_of_brute_force(seed, bits, n):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**63, n).astype(np.uint64) * np.uint64(2)
    for row in range(n // 2):  # half of them near another, by up to ten bits anywhere
        flips = rng.choice(64, rng.integers(0, 11), replace=False)
        hashes[row] = hashes[rng.integers(n)] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    queries = hashes[: max(1, n // 3)]
    expected = np.argwhere(np.bitwise_count(queries[:, None] ^ hashes[None, :]) <= bits)
    left, right = Hashes(hashes).near(queries, bits)
    assert np.array_equal(np.stack([left, right], axis=1), expected)


def test_more_bits_than_are_found_for_certain_are_refused():
    with pytest.raises(ValueError, match="at most 7"):
        Hashes(np.zeros(1, np.uint64)).near(np.zeros(1, np.uint64), 8)


def test_each_kind_joins_what_it_should(tmp_path):
    rows = strangers(60)
    rows[1] |= like(rows[0], sha256=rows[0]["sha256"])
    rows[2] |= like(rows[0], phash=flipped(rows[0]["phash"], 6), cosine=0.91)
    rows[3] |= like(rows[0], phash=flipped(rows[0]["phash"], 17), cosine=0.91)  # neither hash nor look
    rows[56] |= like(rows[55], phash=flipped(rows[55]["phash"], 16), cosine=0.84)  # nor
    rows[51] |= like(rows[50], phash=flipped(rows[50]["phash"], 16), cosine=0.86)  # cropped
    rows[11] |= like(rows[10], phash=flipped(rows[10]["phash"], 30), cosine=0.96)
    rows[16] |= like(rows[15], phash=flipped(rows[15]["phash"], 20), cosine=0.93)
    rows[21] |= like(rows[20], phash=flipped(rows[20]["phash"], 3), cosine=0.8)  # recoloured
    turned_over = f"{int(mirrored(np.array([int(rows[30]['phash'], 16)], np.uint64))[0]):016x}"
    rows[31] |= like(rows[30], phash=flipped(turned_over, 4), cosine=0.85)
    rows[41] |= like(rows[40], phash=flipped(rows[40]["phash"], 2), cosine=0.5)  # near hashes by chance
    opened = made(tmp_path / "c", rows)
    name = [row["image_id"] for row in rows]
    assert grouped(opened, kind="bytes") == [[(name[0], None), (name[1], "bytes")]]
    assert grouped(opened, kind="picture") == [[(name[0], None), (name[1], "bytes"), (name[2], "picture")]]
    assert grouped(opened) == [
        [(name[0], None), (name[1], "bytes"), (name[2], "picture")],
        [(name[10], None), (name[11], "near")],
        [(name[20], None), (name[21], "near")],
        [(name[30], None), (name[31], "near")],
        [(name[50], None), (name[51], "near")],
    ]
    assert [(name[15], None), (name[16], "near")] in grouped(opened, min_cosine=0.92)
    for wrong in ({"kind": "same"}, {"min_cosine": 0.5}, {"min_cosine": float("nan")}):
        with pytest.raises(QueryError):
            grouped(opened, **wrong)


def test_the_best_is_the_largest_then_the_sharpest(tmp_path):
    rows = strangers(20)
    for copy, (width, sharpness) in enumerate([(100, 5.0), (300, 1.0), (300, 9.0), (200, 99.0)], 1):
        rows[copy] |= like(rows[1], sha256=rows[1]["sha256"]) | {"width_px": width, "sharpness": sharpness}
    opened = made(tmp_path / "c", rows)
    name = [row["image_id"] for row in rows]
    (group,) = grouped(opened)
    assert group[0] == (name[3], None)
    assert {one for one, _ in group} == {name[n] for n in (1, 2, 3, 4)}


def test_likeness_does_not_wander_from_copy_to_copy(tmp_path):
    """A chain of steps of 10 degrees: its ends have nothing to do with each other."""
    rows = strangers(40)
    first = np.asarray(rows[0]["embedding"], np.float64)
    aside = turned(first, 0.0, 3).astype(np.float64)
    for step in range(12):
        angle = np.radians(10 * step)
        rows[step]["embedding"] = (np.cos(angle) * first + np.sin(angle) * aside).astype(np.float32)
    groups = grouped(made(tmp_path / "c", rows))
    by_id = {row["image_id"]: np.asarray(row["embedding"]) for row in rows}
    assert groups
    for group in groups:
        assert len(group) <= 3
        vectors = np.array([by_id[one] for one, _ in group])
        assert (vectors @ vectors.T).min(axis=0).max() >= 0.95 - 1e-3  # all are like one of them


def test_the_image_that_most_are_like_makes_the_group_and_the_best_leads_it(tmp_path):
    """The best is like one of four; what is like that one is in its group all the same."""
    rows = strangers(30)
    for n in range(1, 5):
        rows[n] |= like(rows[0], phash=flipped(rows[0]["phash"], 30), cosine=0.96, seed=n)
        rows[n]["phash"] = f"{int(rows[n]['phash'], 16) ^ (0xFFFFFFFF << (4 * n)):016x}"
    rows[3]["width_px"] = 900
    opened = made(tmp_path / "c", rows)
    name = [row["image_id"] for row in rows]
    (group,) = grouped(opened)
    assert group[0] == (name[3], None)
    assert dict(group[1:]) == {name[n]: "near" for n in (0, 1, 2, 4)}


def test_what_a_copy_stands_for_follows_it(tmp_path):
    """Equal files under a copy that is itself a copy of something better."""
    rows = strangers(20)
    rows[1] |= like(rows[0], phash=flipped(rows[0]["phash"], 2), cosine=0.95)
    rows[2] |= {key: rows[1][key] for key in ("sha256", "phash", "embedding")}
    rows[3] |= like(rows[0], phash=flipped(rows[0]["phash"], 30), cosine=0.97)
    rows[0]["width_px"] = 500
    opened = made(tmp_path / "c", rows)
    name = [row["image_id"] for row in rows]
    (group,) = grouped(opened)
    assert group[0] == (name[0], None)
    assert dict(group[1:]) == {name[1]: "picture", name[2]: "picture", name[3]: "near"}


def test_a_crowd_with_one_hash_costs_no_squares(tmp_path):
    """Blank pictures all have one hash; what they look like decides, and few of each are compared."""
    rows = strangers(3000)
    for row in rows[100:2100]:
        row["phash"] = "8000000000000000"
    for n in range(2100, 3000):
        rows[n].update(like(rows[2100], phash="8000000000000001", cosine=0.995, seed=n))
    opened = made(tmp_path / "c", rows)
    groups = grouped(opened, kind="picture")
    assert [len(group) for group in groups] == [900]


def test_the_file_and_what_is_told(tmp_path):
    rows = strangers(30)
    rows[5]["image_id"] = rows[5]["uri"] = "=1+1.jpg"
    rows[6] |= like(rows[5], sha256=rows[5]["sha256"])
    rows[8] |= like(rows[7], phash=flipped(rows[7]["phash"], 2), cosine=0.95)
    rows[9] |= like(rows[7], phash=flipped(rows[7]["phash"], 3), cosine=0.96)
    opened = made(tmp_path / "c", rows)
    found = opened.duplicates(tmp_path / "groups.parquet")
    assert (found.groups, found.images) == (2, 5)
    assert found.kinds == {"bytes": 1, "picture": 2, "near": 0}
    written = pq.read_table(tmp_path / "groups.parquet").to_pylist()
    assert [row["group"] for row in written] == sorted(row["group"] for row in written)
    assert [row["best"] for row in written].count(True) == 2
    assert found.largest[0]["rows"] == [
        row for row in written if row["image_id"] in {rows[n]["image_id"] for n in (7, 8, 9)}
    ]
    assert found.largest[0]["rows"][0]["cosine"] == 1
    assert found.largest[0]["rows"][1]["kind"] == "picture"
    opened.duplicates(tmp_path / "groups.csv")
    with (tmp_path / "groups.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert "'=1+1.jpg" in {row["image_id"] for row in told}
    assert {row["best"] for row in told} == {"true", "false"}
    with pytest.raises(UsageError, match=r"\.parquet or \.csv"):
        opened.duplicates(tmp_path / "groups.txt")


def test_nothing_twice_is_an_empty_file(tmp_path):
    opened = made(tmp_path / "c", strangers(20))
    assert opened.duplicates(tmp_path / "groups.csv").groups == 0
    assert (tmp_path / "groups.csv").read_text().count("\n") == 1


def test_without_an_index_it_says_what_to_do(tmp_path):
    collection = collection_of(tmp_path / "c", [pa.Table.from_pylist(strangers(5), SCHEMA)], dim=DIM)
    with pytest.raises(IndexUnusable, match="tagger index"):
        tagger.open(collection.uri).duplicates()


def test_the_commands_tell_what_they_did_and_what_is_wrong(tmp_path):
    rows = strangers(30)
    rows[6] |= like(rows[5], sha256=rows[5]["sha256"])
    place = made(tmp_path / "c", rows).uri
    said = command("duplicates", place, "--json").require().json
    assert (said["groups"], said["images"], said["kinds"]["bytes"], said["out"]) == (1, 2, 1, None)
    text = command("duplicates", place).require().stdout
    assert rows[5]["image_id"] in text
    assert "groups   1 with 2 images: copies 1 bytes" in text
    said = (
        command("outliers", place, "--share", "0.1", "--out", tmp_path / "far.csv", "--json").require().json
    )
    assert (said["images"], said["outliers"], said["out"]) == (30, 3, str(tmp_path / "far.csv"))
    assert (tmp_path / "far.csv").read_text().startswith("rank,image_id,percentile,distance,nearest\n")
    for words, sentence in (
        (["duplicates", tmp_path / "nothing"], "not a collection"),
        (["duplicates", place, "--out", "s3://bucket/x.csv"], "on this machine"),
        (["duplicates", place, "--out", tmp_path / "x.txt"], "--out must end in"),
        (["duplicates", place, "--min-cosine", "2"], "cosine must be from"),
        (["duplicates", place, "--kind", "same"], "--kind"),
        (["outliers", place, "--share", "0"], "share"),
        (["outliers", place, "--within", "catt"], "similar: cat"),
    ):
        assert sentence in command(*words).require(2).stderr
    assert not (tmp_path / "x.txt").exists()
