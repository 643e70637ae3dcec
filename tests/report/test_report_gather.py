"""Counting a table, against a plain-Python oracle."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_samples import rows_table

from tagger.report.gather import COLUMNS, SHAPES, gather

WORDS = ["cat", "dog", "Käse", "<b>", "tag\u202e"]
SCORE = st.floats(0, 1, width=32)


def _tag_list(*, sources: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    entry = {"tag": st.sampled_from(WORDS), "score": SCORE}
    if sources:
        entry["source"] = st.sampled_from(["model", "head"])
        return st.lists(st.fixed_dictionaries(entry), max_size=4, unique_by=lambda t: (t["tag"], t["source"]))
    return st.lists(st.fixed_dictionaries(entry), max_size=4, unique_by=lambda t: t["tag"])


TAGGED = st.fixed_dictionaries(
    {
        "status": st.just("tagged"),
        "size_bytes": st.none() | st.integers(0, 10**9),
        "width_px": st.none() | st.integers(1, 5000),
        "height_px": st.none() | st.integers(1, 5000),
        "format": st.none() | st.sampled_from(["JPEG", "PNG"]),
        "tags": st.none() | _tag_list(sources=True),
        "categories": st.none() | _tag_list(sources=False),
        "colors": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {
                    "hex": st.integers(0, 0xFFFFFF).map("#{:06x}".format),
                    "name": st.sampled_from(["red", "grey", "blue"]),
                    "fraction": SCORE,
                }
            ),
            max_size=3,
            unique_by=lambda color: color["name"],
        ),
        "sharpness": st.none() | st.floats(0, 5000, width=32),
        "brightness": st.none() | SCORE,
        "phash": st.none() | st.integers(0, 20).map("{:016x}".format),
    }
)
FAILED = st.fixed_dictionaries(
    {
        "status": st.just("failed"),
        "size_bytes": st.none() | st.integers(0, 100),
        "error": st.sampled_from(["corrupt", "empty", "timeout"]),
        "error_detail": st.none() | st.text(max_size=5),
    }
)
ROWS = st.lists(TAGGED | FAILED, max_size=30).map(
    lambda rows: [
        {"image_id": f"id{i * 7 % 31:02d}", "uri": f"s3://b/{i}"} | row for i, row in enumerate(rows)
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, batch_rows=st.integers(1, 31))
def test_counts_equal_those_of_plain_python(rows: list[dict[str, Any]], batch_rows: int):
    table = rows_table(rows).select(list(COLUMNS))
    found = gather(
        table.to_batches(max_chunksize=batch_rows), sheets=3, samples_per_sheet=4, examples_per_reason=2
    )
    tagged = [row for row in rows if row["status"] == "tagged"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert (found.images, found.tagged, found.failed) == (len(rows), len(tagged), len(failed))
    assert found.bare == sum(not row["tags"] for row in tagged)

    scores: dict[str, list[float]] = defaultdict(list)
    for row in tagged:
        best: dict[str, float] = {}
        for tag in row["tags"] or []:
            best[tag["tag"]] = max(best.get(tag["tag"], 0.0), tag["score"])
        for word, score in best.items():
            scores[word].append(score)
    expected = sorted(
        ((word, len(some)) for word, some in scores.items()), key=lambda item: (-item[1], item[0])
    )
    assert [(one.word, one.images) for one in found.tags] == expected
    for one in found.tags:
        assert one.score == pytest.approx(np.mean(scores[one.word]), abs=1e-6)

    categories = Counter(tag["tag"] for row in tagged for tag in row["categories"] or [])
    assert {one.word: one.images for one in found.categories} == categories
    assert {one.word: one.images for one in found.formats} == Counter(
        r["format"] for r in tagged if r["format"]
    )
    per_image = Counter(len(row["tags"] or []) for row in tagged)
    assert {n: int(count) for n, count in enumerate(found.tags_per_image) if count} == per_image

    sized = [(r["width_px"], r["height_px"]) for r in tagged if r["width_px"] and r["height_px"]]
    shapes = Counter(
        "square" if max(w, h) <= 1.05 * min(w, h) else "landscape" if w > h else "portrait" for w, h in sized
    )
    assert {one.word: one.images for one in found.shapes} == {name: shapes[name] for name in SHAPES}
    assert found.pixels.count == len(sized)
    sizes = [row["size_bytes"] for row in rows if row["size_bytes"] is not None]
    assert found.size_bytes.count == len(sizes)
    assert found.size_bytes.total == pytest.approx(sum(sizes), rel=1e-6)

    area: Counter[str] = Counter()
    dominant: Counter[str] = Counter()
    for row in tagged:
        for i, color in enumerate(row["colors"] or []):
            area[color["name"]] += color["fraction"]
            dominant[color["name"]] += i == 0
    whole = max(sum(area.values()), 1e-12)
    assert {hue.name: hue.dominant for hue in found.colors} == dominant
    assert {hue.name: hue.area for hue in found.colors} == pytest.approx(
        {name: value / whole for name, value in area.items()}, abs=1e-6
    )

    assert {one.error: one.images for one in found.reasons} == Counter(row["error"] for row in failed)
    for one in found.reasons:
        ids = sorted((r["image_id"], r["error_detail"]) for r in failed if r["error"] == one.error)[:2]
        assert [(image.image_id, image.detail) for image in one.examples] == ids

    full = [("tag", word) for word, n in expected if n >= 4]
    shared = [("category", one.word) for one in found.categories if one.images > 1]
    shared = [(kind, word) for kind, word in shared if ("tag", word) not in full[:3]]
    scarce = [("tag", word) for word, n in expected if n < 4]
    assert [(sheet.kind, sheet.word.word) for sheet in found.sheets] == (full + shared + scarce)[:3]
    rows_of = {row["uri"]: row for row in tagged}
    for sheet in found.sheets:
        column = "tags" if sheet.kind == "tag" else "categories"
        copies: dict[str, float] = {}
        for row in tagged:
            for tag in row[column] or []:
                if tag["tag"] == sheet.word.word:
                    key = row["phash"] or row["image_id"]
                    copies[key] = max(copies.get(key, 0.0), tag["score"])
        best_first = sorted(copies.values(), reverse=True)[:4]
        assert [sample.score for sample in sheet.samples] == pytest.approx(best_first, abs=1e-7)
        for sample in sheet.samples:
            row = rows_of[sample.uri]
            assert row["image_id"] == sample.image_id
            assert any(tag["tag"] == sheet.word.word for tag in row[column])


def test_samples_do_not_depend_on_the_batches():
    rng = np.random.default_rng(5)
    rows = [
        {
            "image_id": f"i{i:05d}",
            "uri": f"s3://b/{i}",
            "status": "tagged",
            "phash": f"{int(rng.integers(0, 400)):016x}",
            "tags": [{"tag": WORDS[i % 3], "score": float(rng.integers(0, 5)) / 4, "source": "m"}],
        }
        for i in range(2000)
    ]
    table = rows_table(rows).select(list(COLUMNS))
    whole = gather(table.to_batches()).sheets
    shuffled = table.take(pa.array(rng.permutation(len(rows))))
    pieces = gather(shuffled.to_batches(max_chunksize=97)).sheets
    by_uri = {row["uri"]: row["phash"] for row in rows}
    for one, other in zip(whole, pieces, strict=True):
        # Which of several copies of one picture is shown may differ; scores and pictures may not.
        shown = [(sample.score, by_uri[sample.uri]) for sample in one.samples]
        assert shown == [(sample.score, by_uri[sample.uri]) for sample in other.samples]
        assert len({phash for _, phash in shown}) == 12


def test_an_empty_table_counts_nothing():
    found = gather([])
    assert (found.images, found.tags, found.reasons, found.sheets) == (0, [], [], [])
    assert [one.images for one in found.shapes] == [0, 0, 0]
