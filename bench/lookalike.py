"""Embeddings by the million that look like real ones, and collections that hold them.

Real embeddings are made by the real CNN, of thousands of crops of real photos that differ in scale, place,
mirroring and colour; they are kept in .cache/. A look-alike is one of them blended with a near neighbour and,
a little, with any other one; on top comes noise that has the shape of the real differences, because it is one
of them: the difference of two other neighbours. Negative values are cut off (the CNN ends in a ReLU), and the
length is made 1 and rounded to float16, as tagger does it.

How alike they are is measured, not assumed: see `describe`.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection import SCHEMA, Part, new_run_id, part_name, write_part
from tagger.engine.options import TagOptions
from tagger.engine.targets import open_targets, wishes
from tagger.models import DEFAULT_MODEL, find_model, load, load_head, prepare
from tagger.settings import load_settings
from tagger.storage import StorageOptions
from tagger.tags import probabilities
from tagger.vision.colors import COLOR_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from PIL.Image import Image

    from tagger.collection import Collection
    from tagger.engine.targets import Target

    Floats = npt.NDArray[np.float32]
    Halves = npt.NDArray[np.float16]
    Keys = npt.NDArray[np.int64]

ROOT: Final = Path(__file__).parent.parent
CACHE: Final = ROOT / ".cache" / "bench-lookalike"

REAL: Final = 12_000
BLOCK_ROWS: Final = 8192
"""Look-alikes that are made together, from a seed of their own, and become one part of the tags table."""

NEIGHBOURS: Final = 16
_OTHER: Final = 0.5  # most of the random other one that is blended in
_NOISE: Final = 0.7  # times the difference of two neighbours
_GROUP_PARTS: Final = 16  # a commit

TAUGHT: Final = {"season": 0.1, "sale": 0.01, "rare": 0.001}
"""Tags that images have by chance, as a taught head would give them, and the share of images with each."""

_SIZES: Final = np.array([(800, 600), (1200, 800), (640, 640), (1920, 1080), (600, 800)], np.int32)
_TAGGED_AT: Final = 1_767_225_600_000_000  # 2026-01-01


@dataclass(frozen=True)
class Real:
    """Real embeddings.

    Attributes:
        vectors: Shape (R, D), length 1.
        norms: Their lengths before, shape (R,).
        neighbours: The rows nearest to each, itself left out, shape (R, NEIGHBOURS).
    """

    vectors: Floats
    norms: Floats
    neighbours: Keys

    @classmethod
    def of(cls, vectors: Floats, norms: Floats) -> Real:
        """Return embeddings with their neighbours."""
        k = min(NEIGHBOURS, len(vectors) - 1)
        neighbours = np.empty((len(vectors), k), np.int64)
        for start in range(0, len(vectors), 1024):
            scores = vectors[start : start + 1024] @ vectors.T
            scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -np.inf
            neighbours[start : start + 1024] = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return cls(vectors, norms, neighbours)


@dataclass(frozen=True)
class Block:
    """Some look-alikes.

    Attributes:
        vectors: Shape (N, D), length 1 but for the rounding.
        norms: Lengths that the logits are rebuilt with, shape (N,).
        taught: A bit for each tag of `TAUGHT` that the image has, the first tag lowest, shape (N,).
    """

    vectors: Halves
    norms: Floats
    taught: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, rows: slice | Keys) -> Block:
        """Return some of them."""
        return Block(self.vectors[rows], self.norms[rows], self.taught[rows])

    def has(self, tag: str) -> npt.NDArray[np.bool_]:
        """Return which have one of the tags of `TAUGHT`, shape (N,)."""
        return (self.taught >> list(TAUGHT).index(tag) & 1).astype(np.bool_)


def real_embeddings(n: int = REAL, *, folder: Path = CACHE) -> Real:
    """Return embeddings of `n` crops of real photos; made once a machine, in a minute or two."""
    prepared = prepare(find_model(DEFAULT_MODEL), cache_dir=load_settings().cache_dir)
    path = folder / f"{prepared.model_id[:16]}-{n}.npz"
    if not path.is_file():
        print(f"embedding {n:,} crops of real photos", flush=True)
        model = load(prepared, prepared.payload(), threads=load_settings().cpus)
        pictures, rng, px = photos(), random.Random(1), prepared.framing.size_px
        batches = []
        for start in range(0, n, 64):
            some = range(start, min(n, start + 64))
            batches.append(model(np.stack([_crop(pictures[i % len(pictures)], rng, px) for i in some])))
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            vectors=np.concatenate([batch.embedding for batch in batches]).astype(np.float16),
            norms=np.concatenate([batch.norm for batch in batches]),
        )
        temporary.replace(path)
    with np.load(path) as found:
        vectors = found["vectors"].astype(np.float32)
        return Real.of(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), found["norms"])


def photos() -> list[Image]:
    """Return the real photos that everything is cut from."""
    from PIL import Image

    from tagger.testing.photos import photo_files

    paths = [*photo_files().values(), *sorted((ROOT / "tagger" / "samples").glob("*.jpg"))]
    return [Image.open(path).convert("RGB") for path in paths]


def cut(photo: Image, rng: random.Random, size: tuple[int, int], *, least: float) -> Image:
    """Return a piece of a photo at this size, as large as fits times a random share from `least` to 1."""
    scale = rng.uniform(least, 1.0) * min(photo.width / size[0], photo.height / size[1])
    w, h = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    return photo.resize(size, box=(left, top, left + w, top + h))


def _crop(picture: Image, rng: random.Random, px: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageEnhance

    height = rng.uniform(0.25, 1.0) * min(picture.size)
    width = min(picture.width, height * rng.uniform(0.8, 1.25))
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    box = (left, top, left + width, top + height)
    crop = picture.resize((px, px), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(ImageEnhance.Color(crop).enhance(rng.uniform(0.6, 1.4)))


def make_block(real: Real, n: int, *, seed: int, number: int) -> Block:
    """Return `n` look-alikes, at most `BLOCK_ROWS`.

    The same seed and number always give the same, and a smaller `n` the first of them.
    """
    rng = np.random.default_rng([seed, number])
    rows, k = len(real.vectors), real.neighbours.shape[1]
    pick = rng.integers(rows, size=(3, BLOCK_ROWS))
    near = rng.integers(k, size=(2, BLOCK_ROWS))
    first, other, third = pick
    share = rng.random((BLOCK_ROWS, 1), np.float32)
    strange = np.square(rng.random((BLOCK_ROWS, 1), np.float32)) * np.float32(_OTHER)
    taught = np.zeros(BLOCK_ROWS, np.uint8)
    for bit, chance in enumerate(TAUGHT.values()):
        taught |= (rng.random(BLOCK_ROWS) < chance).astype(np.uint8) << bit
    norms = real.norms[first] * rng.uniform(0.9, 1.1, BLOCK_ROWS).astype(np.float32)
    halves = np.empty((n, real.vectors.shape[1]), np.float16)
    for start in range(0, n, 1024):  # which stay in the cache
        part = slice(start, min(n, start + 1024))
        v = real.vectors
        mixed = (1 - share[part]) * v[first[part]]
        mixed += share[part] * v[real.neighbours[first[part], near[0, part]]]
        mixed *= 1 - strange[part]
        mixed += strange[part] * v[other[part]]
        noise = v[third[part]] - v[real.neighbours[third[part], near[1, part]]]
        noise *= np.float32(_NOISE)
        mixed += noise
        np.maximum(mixed, 0, out=mixed)
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        halves[part] = mixed
    return Block(halves, norms[:n], taught[:n])


def make(real: Real, n: int, *, seed: int, path: Path | None = None) -> Block:
    """Return `n` look-alikes; a smaller `n` gives the first of a larger one.

    Args:
        real: What they are made from.
        n: How many.
        seed: Another seed gives others.
        path: File that holds the vectors; None keeps them in memory.
    """
    shape = (n, real.vectors.shape[1])
    halves = np.memmap(path, np.float16, "w+", shape=shape) if path else np.empty(shape, np.float16)
    norms, taught = np.empty(n, np.float32), np.empty(n, np.uint8)

    def fill(number: int) -> None:
        rows = slice(number * BLOCK_ROWS, min(n, (number + 1) * BLOCK_ROWS))
        block = make_block(real, rows.stop - rows.start, seed=seed, number=number)
        halves[rows], norms[rows], taught[rows] = block.vectors, block.norms, block.taught

    with ThreadPoolExecutor(load_settings().cpus) as pool:
        list(pool.map(fill, range(-(-n // BLOCK_ROWS))))
    return Block(halves, norms, taught)


def describe(vectors: Floats | Halves, *, some: int = 1000) -> dict[str, Any]:
    """Return what embeddings are compared by.

    Args:
        vectors: Shape (N, D), N at least 20; how dense they are depends on N, so compare equal numbers.
        some: Rows whose neighbours are looked up.

    Returns:
        `nearest`, `tenth` (cosine to the nearest and the 10th neighbour) and `random` (of random pairs), each
        as percentiles 5, 50, 95; `axes` (principal axes with 90, 95 and 99 % of the variance); `zeros` (share
        of values that are 0).
    """
    rows = np.asarray(vectors, np.float32)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    some = min(some, len(rows) // 2)
    scores = rows[:some] @ rows.T
    random_pairs = scores[:, some:].ravel()[:: max(1, some // 20)]
    scores[np.arange(some), np.arange(some)] = -np.inf
    best = -np.sort(np.partition(-scores, 9, axis=1)[:, :10], axis=1)
    spread = rows - rows.mean(axis=0)
    variances = np.linalg.eigvalsh((spread.T @ spread).astype(np.float64))[::-1]
    kept = np.cumsum(variances) / variances.sum()

    def percentiles(values: Floats) -> list[float]:
        return [round(float(value), 3) for value in np.percentile(values, [5, 50, 95])]

    return {
        "rows": len(rows),
        "nearest": percentiles(best[:, 0]),
        "tenth": percentiles(best[:, 9]),
        "random": percentiles(random_pairs),
        "axes": [int(np.searchsorted(kept, share)) + 1 for share in (0.90, 0.95, 0.99)],
        "zeros": round(float((rows == 0).mean()), 3),
    }


def image_ids(keys: Keys) -> pa.Array:
    """Return an id for each image, from its number."""
    folders = pc.utf8_lpad(pa.array(keys // 1000).cast(pa.string()), 6, "0")
    names = pc.utf8_lpad(pa.array(keys).cast(pa.string()), 10, "0")
    return pc.binary_join_element_wise("s3://catalog/photos/", folders, "/photo_", names, ".jpg", "")


def key_of(image_id: str) -> int:
    """Return the number an id was made from."""
    return int(image_id[-14:-4])


class Rows:
    """Makes rows of the tags table from look-alikes, as `tagger tag` would write them.

    Tags and categories come from the CNN's real last layer and the default taxonomy; the rest is random.

    Args:
        target: The collection, with its model and taxonomy.
        run_id: Of the run that writes them.
    """

    def __init__(self, target: Target, run_id: str) -> None:
        self.collection: Collection = target.collection
        self.run_id = run_id
        self._taxonomy = target.taxonomy
        self._logits_of = load_head(target.prepared).logits

    def table(self, keys: Keys, block: Block, *, seed: int) -> pa.Table:
        """Return rows.

        Args:
            keys: Numbers of the images, shape (N,).
            block: Their embeddings.
            seed: Of etags, hashes, colours and times.
        """
        n = len(keys)
        rng = np.random.default_rng([seed, int(keys[0])])
        config = self.collection.config
        vectors = block.vectors.astype(np.float32)
        tags, categories = self._taxonomy.assign(
            probabilities(self._logits_of(vectors, block.norms), config.activation),
            source=config.model,
            threshold=config.tagging.threshold,
            top_k=config.tagging.top_k,
            activation=config.activation,
        )
        ids = image_ids(keys)
        size = _SIZES[rng.integers(len(_SIZES), size=n)]
        flat = pa.array(vectors.reshape(-1))
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * vectors.shape[1])
        columns: Mapping[str, Any] = {
            "image_id": ids,
            "uri": ids,
            "etag": _hex(rng, n, 32),
            "size_bytes": pa.array(rng.integers(40_000, 160_000, n)),
            "sha256": _hex(rng, n, 64),
            "status": pa.repeat("tagged", n),
            "error": pa.nulls(n, pa.string()),
            "error_detail": pa.nulls(n, pa.string()),
            "width_px": pa.array(size[:, 0]),
            "height_px": pa.array(size[:, 1]),
            "format": pa.repeat("jpeg", n),
            "tags": with_taught(tags, block.taught, rng),
            "categories": categories,
            "colors": _colors(rng, n),
            "sharpness": pa.array(rng.lognormal(1.0, 0.6, n).astype(np.float32)),
            "brightness": pa.array(rng.beta(4, 4, n).astype(np.float32)),
            "phash": _hex(rng, n, 16),
            "embedding": pa.ListArray.from_arrays(offsets, flat),
            "embedding_norm": pa.array(block.norms),
            "model_id": pa.repeat(config.model_id, n),
            "run_id": pa.repeat(self.run_id, n),
            "tagged_at": pa.array(np.full(n, _TAGGED_AT + seed * 1_000_000 + int(keys[0]), np.int64)),
        }
        arrays = [_cast(columns[field.name], field.type) for field in SCHEMA]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)

    def part(self, keys: Keys, block: Block, *, seed: int) -> Part:
        """Store rows as a part; the table does not know it until a commit."""
        return write_part(self.collection.store, self.table(keys, block, seed=seed), part_name(self.run_id))


def open_target(uri: str | Path) -> Target:
    """Open or make the collection at `uri` as `tagger tag` does."""
    options = TagOptions()
    storage = StorageOptions()
    return open_targets(wishes(str(uri), options, storage, load_settings()), options, storage)[0]


def write_collection(uri: str | Path, images: Block, *, seed: int = 0) -> Collection:
    """Write a collection of look-alikes, `BLOCK_ROWS` a part; the images are numbered from 0.

    Args:
        uri: A new folder.
        images: What to write; may lie in a file.
        seed: Of what is not in `images`: hashes, colours, sizes.
    """
    return write_rows(open_target(uri), images, seed=seed)


def write_rows(target: Target, images: Block, *, seed: int = 0) -> Collection:
    """Do as `write_collection` does, to an empty collection."""
    rows = Rows(target, new_run_id())

    def write(start: int) -> Part:
        keys = np.arange(start, min(len(images), start + BLOCK_ROWS))
        return rows.part(keys, images.part(slice(start, start + BLOCK_ROWS)), seed=seed)

    starts = range(0, len(images), BLOCK_ROWS)
    with (
        target.collection.writer(rows.run_id, "bench") as writer,
        ThreadPoolExecutor(load_settings().cpus) as pool,
    ):
        for first in range(0, len(starts), _GROUP_PARTS):
            writer.commit(list(pool.map(write, starts[first : first + _GROUP_PARTS])))
    return target.collection


def with_taught(tags: pa.ListArray, taught: npt.NDArray[np.uint8], rng: np.random.Generator) -> pa.ListArray:
    """Give images the tags of `TAUGHT` that their bits say, each where its score puts it."""
    flat = tags.flatten()
    fields = [flat.field(name) for name in ("tag", "score", "source")]
    owners = [pc.list_parent_indices(tags).to_numpy()]
    texts, scores, sources = ([field] for field in fields)
    for bit, name in enumerate(TAUGHT):
        mine = np.flatnonzero(taught >> bit & 1)
        owners.append(mine)
        texts.append(pa.repeat(name, len(mine)))
        scores.append(pa.array(np.round(rng.uniform(0.5, 1.0, len(mine)), 4).astype(np.float32)))
        sources.append(pa.repeat(name, len(mine)))
    owner = np.concatenate(owners)
    score = pa.concat_arrays(scores)
    order = np.lexsort((np.arange(len(owner)), -score.to_numpy(), owner))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(tags)))]).astype(np.int32)
    words = pa.StructArray.from_arrays(
        [pa.concat_arrays(texts), score, pa.concat_arrays(sources)], names=["tag", "score", "source"]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), words.take(pa.array(order)))


def _colors(rng: np.random.Generator, n: int) -> pa.ListArray:
    counts = rng.integers(1, 6, n)
    total = int(counts.sum())
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    fraction = rng.uniform(0.02, 1.0, total).astype(np.float32)
    owner = np.repeat(np.arange(n), counts)
    fraction /= np.add.reduceat(fraction, offsets[:-1])[owner]
    fraction = fraction[np.lexsort((-fraction, owner))]
    names = pa.array(COLOR_NAMES).take(pa.array(rng.integers(len(COLOR_NAMES), size=total)))
    codes = pc.binary_join_element_wise("#", _hex(rng, total, 6), "")
    struct = pa.StructArray.from_arrays([codes, names, pa.array(fraction)], names=["hex", "name", "fraction"])
    return pa.ListArray.from_arrays(pa.array(offsets), struct)


def _hex(rng: np.random.Generator, n: int, digits: int) -> pa.StringArray:
    """Return `n` random strings of so many hexadecimal digits."""
    text = rng.bytes(n * digits // 2).hex().encode()
    offsets = np.arange(n + 1, dtype=np.int32) * digits
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))


def _cast(column: Any, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)
