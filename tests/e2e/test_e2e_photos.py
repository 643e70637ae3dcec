"""Real photos, alone and among hundreds of bad files, through the whole engine from a local folder."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from badfiles import bad_files, local_names
from driving import Driver, Outcome, tagger
from tables import assert_same_rows, by_name, rows_of

from tagger.testing import make_photos

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

# Top-k of 10 and a low threshold, so that the best tag of every photo is there to compare.
TAGS = ("--threshold", "0.05", "--top-k", "10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the good photos of the corpus."""
    folder = tmp_path_factory.mktemp("photos")
    for case in bad_files():
        if case.name.startswith("good-"):
            (folder / case.name).write_bytes(case.data)
    return folder


@pytest.fixture(scope="module")
def good(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, str]:
    """A run over the good photos, into a collection inside the source, moved away afterwards."""
    collection = folder / "results" / "collection"
    outcome = tagger("tag", folder, collection, *TAGS, "--json").require()
    again = tagger("tag", folder, collection, "--json").require().json
    assert (again["listed"], again["planned"]) == (outcome.json["listed"], 0)  # its own files are not listed
    moved = tmp_path_factory.mktemp("moved") / "collection"
    shutil.move(collection, moved)
    collection.parent.rmdir()
    return outcome, str(moved)


@pytest.fixture(scope="module")
def mixed(folder: Path, good: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, str]:
    """A run over the same photos with every bad file and every odd name among them."""
    for case in bad_files():
        if not case.name.startswith("good-"):
            (folder / case.name).write_bytes(case.data)
    for name, data in odd_local_photos().items():
        path = folder / "names" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        broken = folder / "broken" / os.fsdecode(name)
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_bytes(b"this is not an image")
    collection = tmp_path_factory.mktemp("mixed") / "collection"
    return tagger("tag", folder, collection, *TAGS, "--json"), str(collection)


def odd_local_photos() -> dict[bytes, bytes]:
    """Return a different photo for every odd local name."""
    names = local_names()
    return dict(zip(names, (data for _, data in make_photos(len(names), seed=5)), strict=True))


def test_words_of_a_shop_from_the_start_later_and_back(folder: Path, tmp_path: Path) -> None:
    """`tag --taxonomy` and `retag --taxonomy` give the same rows; the default words come back exactly."""
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(folder.glob("good-*"))[:12]:
        shutil.copy(path, few)
    words = tmp_path / "shop.yaml"
    words.write_text("rename: {cat: house cat}\ncategories: {Pet supplies: [cat, dog], Drinks: [espresso]}\n")
    shop, plain = str(tmp_path / "shop"), str(tmp_path / "plain")
    tagger("tag", few, shop, *TAGS, "--taxonomy", words).require()
    tagger("tag", few, plain, *TAGS).require()
    before = rows_of(plain)
    tagger("retag", plain, "--taxonomy", words, *TAGS).require()
    assert_same_rows(rows_of(shop), rows_of(plain))
    named = {one["tag"] for row in rows_of(plain).column("categories").to_pylist() for one in row or ()}
    assert {"house cat", "Pet supplies"} <= named
    assert "cat" not in named
    (tmp_path / "plain.yaml").write_text("defaults: on\n")
    tagger("retag", plain, "--taxonomy", tmp_path / "plain.yaml", *TAGS).require()
    assert_same_rows(before, rows_of(plain))
    tagger("check", plain).require()


def test_torch_sees_what_openvino_sees(good: tuple[Outcome, str], folder: Path, tmp_path: Path) -> None:
    collection = str(tmp_path / "collection")
    line = ("--backend", "torch", "--precision", "f32", "--include", "good-*", "--limit", "16", "--json")
    record = tagger("tag", folder, collection, *TAGS, *line).require().json
    assert (record["tagged"], record["failed"]) == (16, 0)
    theirs = by_name(good[1])
    for name, row in by_name(collection).items():
        assert np.dot(row["embedding"], theirs[name]["embedding"]) >= 0.99
        assert row["model_id"] == theirs[name]["model_id"]
        best, second = (*row["tags"], {"score": 0}, {"score": 0})[:2]
        if best["score"] - second["score"] > 0.1:
            assert best["tag"] == theirs[name]["tags"][0]["tag"]


def test_every_photo_is_tagged(good: tuple[Outcome, str]) -> None:
    outcome, collection = good
    record = outcome.json
    assert record["listed"] == record["planned"] == record["tagged"] == len(rows_of(collection)) >= 50
    assert record["failed"] == record["skipped"] == record["deferred"] == 0


def test_the_photos_get_the_right_tags(good: tuple[Outcome, str]) -> None:
    rows = by_name(good[1])
    cat = {entry["tag"]: entry["score"] for entry in rows["good-chelsea.png"]["categories"]}
    assert cat["cat"] >= 0.8
    assert cat["animal"] >= cat["cat"]
    assert _best(rows["good-coffee.png"]) == "espresso"
    assert _best(rows["good-rocket.jpg"]) == "missile"


def test_top_1_on_labelled_photos(good: tuple[Outcome, str]) -> None:
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    rows = {name: row for name, row in by_name(good[1]).items() if name.startswith("good-imagenet_")}
    labelled = {name: row for name, row in rows.items() if not name.endswith("-small.jpg")}
    assert len(labelled) == 20
    right = [
        _best(row).lower() == _IMAGENET_CATEGORIES[int(Path(name).stem.rpartition("_")[2])].lower()
        for name, row in labelled.items()
    ]
    assert sum(right) / len(right) >= 0.90


def test_every_bad_file_is_one_row_with_its_code(folder: Path, mixed: tuple[Outcome, str]) -> None:
    outcome, collection = mixed
    table = rows_of(collection)
    record = outcome.json
    cases = bad_files()
    assert record["listed"] == record["planned"] == record["tagged"] + record["failed"] == len(table)
    assert record["listed"] == len(cases) + 2 * len(local_names())
    base = f"file://{folder}/"
    rows = {row["uri"].removeprefix(base): row for row in table.to_pylist()}
    wrong = {
        case.name: (row["error"], row["error_detail"], sorted(case.expected))
        for case in cases
        for row in [rows[case.name]]
        if (row["error"] or "tagged") not in case.expected
        or (row["status"] == "tagged") != (row["error"] is None)
        or (row["error"] is None) != (row["error_detail"] is None)
        or row["size_bytes"] != len(case.data)
        or row["sha256"] != hashlib.sha256(case.data).hexdigest()
        or (case.size_px and case.size_px != (row["width_px"], row["height_px"]))
    }
    assert wrong == {}
    assert outcome.code == 3  # far more than 5 % failed
    tagger("check", collection).require()


def test_good_photos_are_the_same_with_bad_ones_around(
    good: tuple[Outcome, str], mixed: tuple[Outcome, str]
) -> None:
    alone, among = rows_of(good[1]), rows_of(mixed[1])
    ids = alone.column("image_id").to_pylist()
    assert_same_rows(alone, among.filter([one in set(ids) for one in among.column("image_id").to_pylist()]))


def test_every_command_ends_with_one_json_object(good: tuple[Outcome, str], tmp_path: Path) -> None:
    collection = good[1]
    rows = len(rows_of(collection))
    before = rows_of(collection, drop=("run_id", "tagged_at", "tags"))
    said = {
        "check": tagger("check", collection, "--json").require(),
        "failures": tagger("failures", collection, "--json").require(),
        "report": tagger("report", collection, "--json", "--out", tmp_path / "report.html").require(),
        "retag": tagger("retag", collection, "--json", "--top-k", "1").require(),
    }
    assert said["check"].json.items() >= {"ok": True, "rows": rows, "tagged": rows, "failed": 0}.items()
    assert said["failures"].json == {"failures": []}
    assert Path(said["report"].json["out"].removeprefix("file://")).stat().st_size > 10_000
    assert said["retag"].json["rows"] == rows
    assert all(len(outcome.stdout.splitlines()) == 1 for outcome in said.values())
    assert_same_rows(before, rows_of(collection, drop=("run_id", "tagged_at", "tags")))
    assert all(len(row["tags"]) <= 1 for row in rows_of(collection).to_pylist())
    tagger("retag", collection, "--top-k", "10").require()
    tagger("check", collection).require()


def test_odd_local_names_are_only_names(folder: Path, mixed: tuple[Outcome, str]) -> None:
    base = f"file://{folder}/names/"
    rows = [row for row in rows_of(mixed[1]).to_pylist() if row["uri"].startswith(base)]
    expected = odd_local_photos()
    found = {_local_name(row["uri"].removeprefix(base), expected): row for row in rows}
    assert len(rows) == len(found) == len(expected)
    for name, data in expected.items():
        assert found[name]["sha256"] == hashlib.sha256(data).hexdigest(), name
        assert found[name]["status"] == "tagged"


def test_what_is_printed_about_them_is_harmless(mixed: tuple[Outcome, str]) -> None:
    outcome, collection = mixed
    failed = outcome.json["failed"]
    for args in (("failures", collection), ("check", collection)):
        said = tagger(*args, env={"PYTHONIOENCODING": "latin-1"}).require()
        assert [char for char in said.stdout + said.stderr if not char.isprintable() and char != "\n"] == []
    assert len(tagger("failures", collection).require().stdout.splitlines()) == failed
    listed = tagger("failures", collection, "--json").require().json["failures"]
    with_comma = tagger("failures", collection, "--csv").require().stdout
    cells = list(csv.reader(io.StringIO(with_comma, newline="")))
    assert cells[0] == ["image_id", "error", "error_detail"] == list(listed[0])
    assert sorted(cells[1:]) == sorted([*map(str, entry.values())] for entry in listed)
    assert len(listed) == failed > 2 * len(local_names())
    # On a terminal, CSV is for reading.
    with Driver("failures", collection, "--csv", to_terminal=True) as driver:
        driver.wait().require()
        shown = driver.raw.decode().replace("\r", "")
    assert [char for char in shown if not char.isprintable() and char != "\n"] == []


def _best(row: dict[str, Any]) -> str:
    return str(row["tags"][0]["tag"]) if row["tags"] else ""


def _local_name(name: str, expected: dict[bytes, bytes]) -> bytes:
    """Undo the %XX that stands for bytes that are not UTF-8, and for nothing else (DESIGN §2)."""
    plain = name.encode()
    return plain if plain in expected else unquote_to_bytes(name)
