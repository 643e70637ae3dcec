"""Quality flags, words and alternative texts of products."""

import pyarrow.parquet as pq
import pytest
from catalog_kit import SHOP, rows, shop
from index_kit import turned

from tagger.catalog import FLAGS, EnrichOptions, FlagRules, enrich
from tagger.catalog.describing import MOST_ALT, alt_text


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Rows by product id, and the summary."""
    made = rows(["a.jpg", "b.jpg", "c.jpg", "copy.jpg", "bad.jpg"], failed=["bad.jpg"])
    made[0] |= {"sharpness": 5.0, "brightness": 0.1}
    made[1] |= {"width_px": 499}
    made[3] |= {"phash": made[0]["phash"], "embedding": turned(made[0]["embedding"], 0.97, 1)}
    made[0]["tags"] = [
        {"tag": "tabby", "score": 0.5, "source": "m"},
        {"tag": "lynx", "score": 0.25, "source": "m"},
    ]
    made[1]["tags"] = [{"tag": "lynx", "score": 0.75, "source": "m"}]
    made[2]["tags"] = []
    made[2]["categories"] = [{"tag": "cat", "score": 0.6}, {"tag": "flower", "score": 0.4}]
    for row, shades in ((made[0], [("red", 0.5), ("blue", 0.2)]), (made[1], [("blue", 0.75)])):
        row["colors"] = [{"hex": "#000000", "name": name, "fraction": part} for name, part in shades]
    made[2]["colors"] = [{"hex": "#000000", "name": "green", "fraction": 0.1}]
    folder = tmp_path_factory.mktemp("shop")
    opened = shop(folder / "c", made)
    lines = [
        "id,images",
        "1,a.jpg|b.jpg",
        "2,c.jpg",
        "3,copy.jpg",
        "4,",
        "5,gone.jpg",
        "6,bad.jpg|a.jpg",
        "7,c.jpg",
    ]
    (folder / "in.csv").write_text("\n".join(lines))
    done = enrich(opened, folder / "in.csv", folder / "out.parquet")
    found = {row["id"]: row for row in pq.read_table(folder / "out.parquet").to_pylist()}
    loose = FlagRules(min_sharpness=1, min_side_px=10, min_brightness=0.05)
    enrich(opened, folder / "in.csv", folder / "loose.parquet", options=EnrichOptions(flags=loose))
    return found, done, pq.read_table(folder / "loose.parquet").to_pylist()


def test_flags_name_the_image_and_why(told):
    found, done, _ = told
    flags = {
        name: [
            (one["flag"], one["image"] and one["image"].removeprefix(SHOP), one["detail"])
            for one in row["quality_flags"]
        ]
        for name, row in found.items()
    }
    assert flags == {
        "1": [
            ("blurred", "a.jpg", "sharpness 5"),
            ("too_small", "b.jpg", "499 x 800 pixels"),
            ("too_dark", "a.jpg", "brightness 0.10"),
        ],
        "2": [],
        "3": [("duplicate_of", "copy.jpg", "1")],
        "4": [("image_missing", None, "the catalog names no image")],
        "5": [("image_missing", "gone.jpg", "no image of the collection has this name")],
        "6": [
            ("blurred", "a.jpg", "sharpness 5"),
            ("too_dark", "a.jpg", "brightness 0.10"),
            ("duplicate_of", "a.jpg", "1"),
            ("image_failed", "bad.jpg", "corrupt: the file ends in the middle"),
        ],
        "7": [("duplicate_of", "c.jpg", "2")],
    }
    assert done.flags == {
        "blurred": 2,
        "too_small": 1,
        "too_dark": 2,
        "duplicate_of": 3,
        "image_missing": 2,
        "image_failed": 1,
    }
    assert set(done.flags) < set(FLAGS)


def test_rules_can_be_changed(told):
    _, _, loose = told
    kinds = {one["flag"] for row in loose for one in row["quality_flags"]}
    assert kinds == {"duplicate_of", "image_missing", "image_failed"}


def test_words_are_merged_over_the_images(told):
    found, _, _ = told
    assert found["1"]["tags"] == [{"tag": "lynx", "score": 0.75}, {"tag": "tabby", "score": 0.5}]
    assert found["1"]["colors"] == [{"name": "blue", "fraction": 0.475}, {"name": "red", "fraction": 0.25}]
    assert found["1"]["alt_text"] == ["Tabby, mainly red and blue", "Lynx, mainly blue"]
    assert found["2"]["tags"] == []
    assert found["2"]["alt_text"] == ["Cat"]
    assert found["4"]["tags"] is None
    assert found["4"]["alt_text"] == []


def test_alternative_texts_are_short():
    text = alt_text("x" * 200, ["red"])
    assert len(text) == MOST_ALT
    assert text.endswith("…")
