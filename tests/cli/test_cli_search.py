"""`tagger index`, `search` and `recommend` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from driving import tagger

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("index", "collection")]
from index_kit import add, collection_of, names, rows_of, vectors_of  # noqa: E402

DIM = 8


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of forty images with an index."""
    place = tmp_path_factory.mktemp("cli") / "c"
    ids = [*names(0, 39), "s3://photos/\x1b[31m\tred.jpg"]
    collection_of(place, [rows_of(ids, vectors_of(40, dim=DIM, seed=0), seed=1)], dim=DIM)
    made = tagger("index", place, "--json").require().json
    assert list(made) == [
        *("version", "kind", "count", "dim", "recall_at_10", "seconds", "bytes", "table_version", "how")
    ]
    assert (made["kind"], made["count"], made["dim"], made["how"]) == ("flat", 40, DIM, "built")
    return place


def ids_of(record: dict[str, Any]) -> list[str]:
    return [match["image_id"] for match in record["matches"]]


def test_index_says_what_it_did(indexed: Path) -> None:
    said = tagger("index", indexed).require()
    assert said.stdout.startswith("index    is up to date: 40 images, flat, 0.")
    assert "recall   1.000 of the ten nearest (exact)" in said.stdout


def test_search_by_id_and_by_tag(indexed: Path) -> None:
    image_id = names(3, 4)[0]
    record = tagger("search", indexed, image_id, "-k", "4", "--json").require().json
    assert list(record) == ["model_id", "index_version", "matches", "next_offset"]
    assert len(record["matches"]) == 4
    assert image_id not in ids_of(record)
    assert record["next_offset"] == 4
    by_tag = (
        tagger("search", indexed, "cat", "--not-tag", "tabby", "--min-score", "0.3", "--json").require().json
    )
    assert by_tag["matches"]
    assert all(match["score"] >= 0.3 for match in by_tag["matches"])
    assert not any(tag["tag"] == "tabby" for match in by_tag["matches"] for tag in match["tags"])


def test_what_a_person_sees_is_one_line_a_match_and_obeys_no_name(indexed: Path) -> None:
    said = tagger("search", indexed, names(3, 4)[0], "-k", "100").require()
    assert len(said.stdout.splitlines()) == 39
    assert "\\x1b[31m\\tred.jpg" in said.stdout
    assert "\x1b" not in said.stdout + said.stderr
    nothing = tagger("search", indexed, names(3, 4)[0], "--color", "navy").require()
    assert (nothing.stdout, nothing.stderr) == ("", "no image matches\n")


def test_recommend(indexed: Path) -> None:
    liked, disliked = names(3, 4)[0], names(9, 10)[0]
    arguments = ("--like", liked, "--dislike", disliked, "-k", "5", "--diversity", "0", "--json")
    record = tagger("recommend", indexed, *arguments).require().json
    assert len(record["matches"]) == 5
    assert {liked, disliked}.isdisjoint(ids_of(record))
    assert all(match["because"] == liked for match in record["matches"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("search", "COLLECTION", "dgo"),
            "'dgo' is neither an image file, nor an image_id of the index, nor a tag",
        ),
        (("search", "COLLECTION", "cat", "-k", "0"), "k must be a whole number from 1 to 10,000, got 0"),
        (("search", "COLLECTION", "cat", "--color", "purpel"), "there is no colour 'purpel'"),
        (("search", "COLLECTION", "cat", "--min-score", "7"), "min_score must be in [0, 1], got 7.0"),
        (("recommend", "COLLECTION"), "name at least one liked image with --like, or a file with --events"),
        (("recommend", "COLLECTION", "--like", "nothing"), "there is no image 'nothing' in the index"),
        (("index", "NOWHERE"), "is not a collection"),
        (("search", "NOWHERE", "cat"), "is not a collection"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else "",
)
def test_wrong_use_is_one_sentence(
    indexed: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    places = {"COLLECTION": indexed, "NOWHERE": tmp_path / "nowhere"}
    outcome = tagger(*(places.get(word, word) for word in arguments)).require(2)
    assert said in outcome.sentence
    assert outcome.stdout == ""


def test_no_index_and_an_index_behind_its_table(tmp_path: Path) -> None:
    place = tmp_path / "c"
    collection = collection_of(place, [rows_of(names(0, 9), vectors_of(9, dim=DIM, seed=0))], dim=DIM)
    none = tagger("search", place, names(0, 1)[0]).require(2)
    assert f"has no index yet: `tagger index {collection.uri}` makes one" in none.sentence
    tagger("index", place).require()
    add(collection, rows_of(names(9, 12), vectors_of(3, dim=DIM, seed=1)))
    behind = tagger("search", place, names(0, 1)[0]).require()
    assert "the index shows version 1 of the table, which is at 2" in behind.stderr
    noted = tagger("check", place, "--json").require().json
    assert any("the index shows version 1 of the table, which is at 2" in note for note in noted["notes"])
    assert "index    was updated: 12 images" in tagger("index", place).require().stdout
    words = max((place / "index").rglob("words.arrow"), key=lambda path: path.stat().st_mtime_ns)
    words.write_bytes(words.read_bytes()[:-1] + b"X")
    found = tagger("check", place, "--json").require(1).json
    assert any("words.arrow is not the file that was published" in finding for finding in found["findings"])
