"""What one image costs to decode and measure, part by part, and what the child process adds.

    python bench/decode.py [--images 200] [--size 800x600]

Every number is CPU milliseconds of one thread an image, the median over the images after a warm-up; only the
two lines about the child are wall time, taken alternately with and without it.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the decoder's child; before NumPy is imported

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from tagger.testing import photo_files
from tagger.vision import DecodeLimits, Decoder, Framing
from tagger.vision.colors import dominant_colors
from tagger.vision.decode import decode
from tagger.vision.framing import frame
from tagger.vision.jpeg import Stored, decode_jpeg
from tagger.vision.measure import hash_of, measure, sharpness, thumbnail

FRAMING = Framing(224, 256)
LIMITS = DecodeLimits()


def make_jpegs(n: int, size: tuple[int, int]) -> list[bytes]:
    """Return `n` JPEGs of real photos, cropped and scaled a little differently each."""
    photos = [Image.open(path).convert("RGB") for path in photo_files().values()]
    files = []
    for index in range(n):
        photo = photos[index % len(photos)]
        cut = index // len(photos) % 16
        box = (cut, cut, photo.width - cut, photo.height - cut)
        out = io.BytesIO()
        photo.resize(size, Image.Resampling.BICUBIC, box=box).save(out, "JPEG", quality=75)
        files.append(out.getvalue())
    return files


def cpu_ms(work: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Return the median CPU time of `work` in milliseconds."""
    times = []
    for warm_up in (True, False):
        for item in inputs[: 10 if warm_up else None]:
            start = time.thread_time_ns()
            work(item)
            times.append(time.thread_time_ns() - start)
    return statistics.median(times[10:]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", default="800x600", type=lambda text: tuple(map(int, text.split("x"))))
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    files = make_jpegs(options.images, options.size)

    def stored(data: bytes) -> Stored:
        result = decode_jpeg(data, [FRAMING], LIMITS.max_pixels)
        assert result is not None
        return result

    def squared(picture: Stored) -> np.ndarray:
        return frame(
            picture.image,
            FRAMING,
            full_px=picture.full_px,
            reduction=picture.reduction,
            orientation=picture.orientation,
        )

    def by_pillow(image: Image.Image) -> np.ndarray:
        part = min(image.size) * FRAMING.size_px / FRAMING.resize_px
        left, top = (image.width - part) / 2, (image.height - part) / 2
        box = (left, top, left + part, top + part)
        return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))

    pictures = [stored(data) for data in files[:50]]
    images = [Image.fromarray(np.asarray(picture.image)[:, :, :3].copy()) for picture in pictures]
    greys = [np.asarray(image.convert("L")) for image in images]
    points = [np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).reshape(-1, 3) for image in images]
    rows = {
        "decode (libjpeg-turbo, reduced)": cpu_ms(stored, files),
        "frame 224 (resize + crop)": cpu_ms(squared, pictures),
        "the same by Pillow, for comparison": cpu_ms(by_pillow, images),
        "phash and brightness": cpu_ms(lambda grey: hash_of(thumbnail(grey)), greys),
        "sharpness": cpu_ms(lambda grey: sharpness(grey.astype(np.float32)), greys),
        "colours": cpu_ms(dominant_colors, points),
        "all measures together": cpu_ms(lambda p: measure(p.image), pictures),
        "decode(): all of the above": cpu_ms(lambda data: decode(data, [FRAMING], LIMITS), files),
        "Pillow alone, for comparison": cpu_ms(
            lambda data: Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BICUBIC), files[:40]
        ),
    }
    rows["in process, wall"], rows["through the child, wall"], rows["CPU of its parent"] = child_ms(files)
    rows["overhead of the child, wall"] = rows["through the child, wall"] - rows["in process, wall"]
    for name, value in rows.items():
        print(f"{name:36s} {value:8.3f} ms")
    distances = [
        imagehash.phash(Image.open(io.BytesIO(data)))
        - imagehash.hex_to_hash(decode(data, [FRAMING], LIMITS).facts.phash)
        for data in files
    ]
    equal = sum(distance == 0 for distance in distances)
    print(
        f"phash equals imagehash on the full decode: {equal} of {len(files)}, "
        f"at most {max(distances)} bits off"
    )
    print(
        f"mean file: {sum(map(len, files)) / len(files) / 1024:.0f} KB, {options.size[0]} x {options.size[1]}"
    )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:  # noqa: PTH123
            json.dump({"decode_ms": rows, "phash_equal": equal, "images": len(files)}, out, indent=2)


def child_ms(files: list[bytes], rounds: int = 7) -> tuple[float, float, float]:
    """Return the wall time of an image in process, through a Decoder, and the CPU time of its parent."""
    inside, through, parent = [], [], []
    with Decoder([FRAMING], LIMITS) as decoder:
        decoder.run(len(files), enumerate(files))
        for _ in range(rounds):
            start = time.perf_counter()
            for data in files:
                decode(data, [FRAMING], LIMITS)
            middle, cpu = time.perf_counter(), time.process_time()
            decoder.run(len(files), enumerate(files))
            inside.append(middle - start)
            through.append(time.perf_counter() - middle)
            parent.append(time.process_time() - cpu)
    return tuple(min(times) / len(files) * 1e3 for times in (inside, through, parent))


if __name__ == "__main__":
    main()
