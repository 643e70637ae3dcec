"""Real photos by the thousand, cut from those in the wheels of the `test` extra."""

from __future__ import annotations

import functools
import importlib.util
import io
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


def photo_files() -> dict[str, Path]:
    """Return the photos in the installed wheels by name; foolbox's are named `imagenet_NN_CLASS`."""
    folders = {
        "skimage": ("data", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]),
        "sklearn": ("datasets/images", ["china.jpg", "flower.jpg"]),
        "foolbox": ("data", ["imagenet_*.jpg"]),
    }
    found: dict[str, Path] = {}
    for package, (folder, patterns) in folders.items():
        spec = importlib.util.find_spec(package)  # finds the files without importing the package
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError(f"install the test extra: {package} is missing, and its photos with it")
        root = Path(next(iter(spec.submodule_search_locations))) / folder
        for pattern in patterns:
            found.update((path.stem, path) for path in sorted(root.glob(pattern)))
    return found


PHOTO_PX: Final = (800, 600)
DISTINCT_PHOTOS: Final = 300


def make_photos(n: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield `n` JPEG photos of 800 x 600, about 73 KB each, all different in etag and sha256.

    Random crops of real photos, flipped and with altered colours. The first `DISTINCT_PHOTOS` differ in their
    pixels; later ones repeat those and differ in a comment only, which keeps 10,000 photos cheap to make.
    The same (i, seed) always gives the same bytes.

    Args:
        n: How many.
        seed: Another seed gives other crops and other bytes.

    Yields:
        (name, bytes); the names `photo_0000000.jpg` … sort in the order they come.
    """
    sources = _sources()
    with ThreadPoolExecutor(2) as pool:
        encoded = list(pool.map(lambda i: _variant(sources, seed, i), range(min(n, DISTINCT_PHOTOS))))
    for i in range(n):
        comment = f"photo {i} of seed {seed}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        data = encoded[i % DISTINCT_PHOTOS]
        yield f"photo_{i:07d}.jpg", data[:2] + segment + data[2:]


@functools.lru_cache(maxsize=1)
def _sources() -> list[Any]:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in photo_files().values()]


def _variant(sources: list[Any], seed: int, i: int) -> bytes:
    from PIL import Image, ImageEnhance

    rng = random.Random(f"{seed}:{i}")  # noqa: S311 - reproducible, not secret
    picture = sources[i % len(sources)]
    width, height = picture.size
    # The largest 4:3 window, shrunk by up to 40 %, somewhere in the picture.
    scale = rng.uniform(0.6, 1.0) * min(width / PHOTO_PX[0], height / PHOTO_PX[1])
    window = (PHOTO_PX[0] * scale, PHOTO_PX[1] * scale)
    left, top = rng.uniform(0, width - window[0]), rng.uniform(0, height - window[1])
    box = (left, top, left + window[0], top + window[1])
    picture = picture.resize(PHOTO_PX, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.7, 1.3))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.85, 1.15))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=rng.randint(80, 86))
    return out.getvalue()
