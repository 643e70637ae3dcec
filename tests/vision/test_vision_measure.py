import io

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFilter, ImageOps

from tagger.vision import DecodeLimits, Framing
from tagger.vision.colors import COLOR_NAMES, color_name, dominant_colors, to_lab
from tagger.vision.decode import decode
from tagger.vision.measure import measure, phash
from tagger.vision.picture import Facts

FRAMING = Framing(224, 256)


def facts(image: Image.Image, kind: str = "PNG", **options: object) -> Facts:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return decode(out.getvalue(), [FRAMING], DecodeLimits()).facts


def test_phash_equals_imagehash_on_the_same_pixels(photos: dict[str, Image.Image]):
    for name, image in photos.items():
        assert phash(image) == str(imagehash.phash(image)), name
        assert facts(image).phash == str(imagehash.phash(image)), name


def test_phash_of_reduced_jpegs_is_that_of_the_full_picture(photo_bytes: dict[str, bytes]):
    """Two bits of 64 at most, and nearly always none: near-duplicates are looked for within about 8."""
    distances = []
    for data in photo_bytes.values():
        full = imagehash.phash(Image.open(io.BytesIO(data)).convert("RGB"))
        mine = decode(data, [FRAMING], DecodeLimits()).facts.phash
        distances.append(full - imagehash.hex_to_hash(mine))
    assert max(distances) <= 2
    assert np.mean(np.equal(distances, 0)) >= 0.9


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (31, 33), (32, 32), (33, 31), (1301, 1200), (40, 2)])
def test_phash_at_odd_sizes(photos: dict[str, Image.Image], size: tuple[int, int]):
    image = photos["coffee"].resize(size)
    assert phash(image) == str(imagehash.phash(image))
    assert measure(image).phash == str(imagehash.phash(image))


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90))
def test_phash_of_noise(seed: int, width: int, height: int):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    # In a picture of few pixels whole rows of coefficients are equal, and SciPy's rounding decides.
    if min(width, height) >= 8:
        assert imagehash.hex_to_hash(phash(image)) - imagehash.phash(image) <= 2
    assert len(phash(image)) == 16


def test_phash_is_that_of_the_upright_picture(photos: dict[str, Image.Image]):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        out = io.BytesIO()
        photos["rocket"].save(out, "JPEG", quality=95, exif=exif)
        seen = imagehash.phash(ImageOps.exif_transpose(Image.open(out)))
        mine = decode(out.getvalue(), [FRAMING], DecodeLimits()).facts.phash
        assert seen - imagehash.hex_to_hash(mine) <= 2


def test_brightness(photos: dict[str, Image.Image]):
    for image in photos.values():
        assert facts(image).brightness == pytest.approx(
            np.asarray(image.convert("L")).mean() / 255, abs=0.006
        )
    assert facts(Image.new("RGB", (50, 40), "white")).brightness == 1
    assert facts(Image.new("RGB", (50, 40), "black")).brightness == 0


def test_sharpness_tells_blurred_from_sharp_at_every_size(photos: dict[str, Image.Image]):
    for name in ("coffee", "rocket", "astronaut", "chelsea"):
        seen: dict[float, list[float]] = {0: [], 1: [], 2: [], 4: []}
        for shorter in (256, 300, 420, 512, 600, 1030):
            factor = shorter / min(photos[name].size)
            image = photos[name].resize(
                [round(side * factor) for side in photos[name].size], Image.Resampling.LANCZOS
            )
            for blur, values in seen.items():
                blurred = image.filter(ImageFilter.GaussianBlur(blur * shorter / 256)) if blur else image
                values.append(facts(blurred, "JPEG", quality=90).sharpness)
        for values in seen.values():
            assert max(values) < 3 * min(values), (name, seen)
        # Each doubling of the blur shows, whatever the sizes that are compared.
        assert min(seen[0]) > max(seen[1]) > min(seen[1]) > max(seen[2]) > min(seen[2]) > max(seen[4])
        assert max(seen[2]) < 100


def test_sharpness_of_a_flat_or_tiny_picture_is_zero():
    assert facts(Image.new("RGB", (300, 200), "teal")).sharpness == 0
    assert facts(Image.new("RGB", (2, 200), "teal")).sharpness == 0


@pytest.mark.parametrize(
    ("name", "hexes"),
    [
        ("black", "000000 101010"),
        ("white", "ffffff fafafa"),
        ("grey", "808080 505050 b0b0b0"),
        ("red", "ff0000 d01010"),
        ("maroon", "800000"),
        ("orange", "ff8000 ffa500"),
        ("brown", "654321 8b4513"),
        ("beige", "f5f5dc d2b48c"),
        ("yellow", "ffff00 ffd700"),
        ("olive", "808000 6b8e23"),
        ("green", "008000 00ff00 228b22"),
        ("teal", "008080"),
        ("turquoise", "40e0d0 00ffff"),
        ("blue", "0000ff 4169e1 87ceeb"),
        ("navy", "000080 191970"),
        ("purple", "800080 6a0dad"),
        ("pink", "ffc0cb ff69b4 ff00ff"),
    ],
)
def test_flat_colors_have_their_plain_names(name: str, hexes: str):
    for value in hexes.split():
        (color,) = facts(Image.new("RGB", (80, 60), f"#{value}")).colors
        assert color == (f"#{value}", name, 1.0)


def test_colors_are_largest_first_and_share_the_area():
    image = Image.new("RGB", (100, 100), "white")
    image.paste("red", (0, 0, 100, 50))
    image.paste("blue", (0, 50, 30, 100))
    colors = facts(image).colors
    assert [color.name for color in colors] == ["red", "white", "blue"]
    assert [color.fraction for color in colors] == pytest.approx([0.5, 0.35, 0.15], abs=0.02)
    assert [color.hex for color in colors] == ["#ff0000", "#ffffff", "#0000ff"]


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 300), st.just(3))))
def test_colors_of_anything(sample: np.ndarray):
    colors = dominant_colors(sample)
    assert 1 <= len(colors) <= 5
    fractions = [color.fraction for color in colors]
    assert fractions == sorted(fractions, reverse=True)
    assert 0 < sum(fractions) <= 1 + 1e-6
    names = [color.name for color in colors]
    assert len(set(names)) == len(names)
    for color in colors:
        assert color_name(*bytes.fromhex(color.hex[1:])) == color.name


def test_lab_of_known_colors():
    """Values of CIE 15 for the sRGB primaries under D65, as every converter prints them."""
    lab = to_lab(np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]))
    wanted = [[100, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [0, 0, 0]]
    np.testing.assert_allclose(lab, wanted, atol=0.02)


def test_facts_survive_json(photos: dict[str, Image.Image]):
    whole = facts(photos["coffee"])
    assert Facts.from_json(whole.to_json()) == whole
    assert {color.name for color in whole.colors} <= set(COLOR_NAMES)
    for at, wrong in [(0, 0), (1, "3"), (2, "<b>"), (4, float("nan")), (5, 1.5), (6, "xyz"), (3, [1])]:
        fields = whole.to_json()
        fields[at] = wrong
        with pytest.raises(ValueError, match=r"must|facts|unpack"):
            Facts.from_json(fields)
