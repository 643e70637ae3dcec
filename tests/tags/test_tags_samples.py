"""The sample photos: small, real, and each with a licence."""

from pathlib import Path

from PIL import Image

import tagger

SAMPLES = Path(tagger.__file__).parent / "samples"
DOCS = Path(__file__).parents[2] / "docs" / "licences.md"


def licence_rows(text: str) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if ".jpg | " in line]
    return {row[0]: row[3] for row in rows}


def test_every_photo_is_a_small_jpeg():
    files = sorted(SAMPLES.glob("*.jpg"))
    assert 24 <= len(files) <= 40
    assert {"chelsea.jpg", "coffee.jpg", "rocket.jpg"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 2_500_000
    for file in files:
        assert file.stat().st_size <= 100_000, file
        with Image.open(file) as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert max(image.size) <= 800


def test_every_photo_has_a_free_licence_in_both_lists():
    rows = licence_rows((SAMPLES / "LICENCES.md").read_text(encoding="utf-8"))
    assert set(rows) == {file.name for file in SAMPLES.glob("*.jpg")}
    for name, licence in rows.items():
        assert licence.startswith(("public domain", "CC0", "CC BY ")), name
    assert licence_rows(DOCS.read_text(encoding="utf-8")) == rows
