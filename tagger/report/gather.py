"""One pass over the tags table: everything the report counts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.report.samples import BestSamples, Sample
from tagger.report.tallies import HueCount, Hues, Spread, WordCount, Words, first_of_each, flatten

COLUMNS: Final = (
    "image_id",
    "uri",
    "etag",
    "size_bytes",
    "status",
    "error",
    "error_detail",
    "width_px",
    "height_px",
    "format",
    "tags",
    "categories",
    "colors",
    "sharpness",
    "brightness",
    "phash",
)
"""What the report reads; embeddings, nine tenths of the table, stay where they are."""

SHAPES: Final = ("landscape", "portrait", "square")
_FULL_SHEET: Final = 4  # a tag of fewer images gives way to a category
_BATCH_ROWS: Final = 32_768
_SQUARE_WITHIN: Final = 1.05  # a side that is at most 5 % longer still looks square


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image that failed: its id and a sentence on why."""

    image_id: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Images that failed for one reason.

    Attributes:
        error: One of `tagger.errors.ERROR_CODES`.
        images: How many.
        examples: The first of them by image_id.
    """

    error: str
    images: int
    examples: list[FailedImage]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The best images of a word.

    Attributes:
        kind: What the word is.
        word: The word and how often it was given.
        samples: Best first.
    """

    kind: Literal["tag", "category"]
    word: WordCount
    samples: list[Sample]


@dataclass(kw_only=True)
class Gathered:
    """What one pass over a tags table found.

    Attributes:
        images: Rows of the table.
        tagged: Of these, tagged.
        failed: Of these, failed.
        bare: Tagged images without any tag: no score reached the threshold.
        tags: Every tag, most frequent first.
        categories: Every category, most frequent first.
        colors: Every colour name, largest area first.
        formats: File formats, most frequent first.
        shapes: Images by shape, in the order of `SHAPES`.
        reasons: Why images failed, most frequent reason first.
        sheets: Words for contact sheets, with their best images.
        tags_per_image: Tagged images by their number of tags, shape (most + 1,).
        best_score: Highest tag score of each image that has a tag.
        size_bytes: Of every file whose size is known.
        pixels: Width times height of every decoded picture.
        sharpness: Of every decoded picture.
        brightness: Of every decoded picture.
    """

    images: int = 0
    tagged: int = 0
    failed: int = 0
    bare: int = 0
    tags: list[WordCount] = field(default_factory=list)
    categories: list[WordCount] = field(default_factory=list)
    colors: list[HueCount] = field(default_factory=list)
    formats: list[WordCount] = field(default_factory=list)
    shapes: list[WordCount] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    tags_per_image: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    best_score: Spread = field(default_factory=Spread)
    size_bytes: Spread = field(default_factory=Spread)
    pixels: Spread = field(default_factory=Spread)
    sharpness: Spread = field(default_factory=Spread)
    brightness: Spread = field(default_factory=Spread)


def gather(
    batches: Iterable[pa.RecordBatch],
    *,
    sheets: int = 12,
    samples_per_sheet: int = 12,
    examples_per_reason: int = 5,
) -> Gathered:
    """Count a tags table in one pass, in memory that does not grow with its rows.

    Args:
        batches: The table's `COLUMNS`, in any order of rows.
        sheets: Words to choose samples for: the most frequent tags; where these have few images, as in
            small collections, categories.
        samples_per_sheet: Most samples of each.
        examples_per_reason: Most examples of each reason to fail.
    """
    counter = _Counter(samples_per_sheet, examples_per_reason)
    for batch in _together(batches):
        counter.add(batch)
    return counter.finish(sheets)


def _together(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Put small batches together: each costs some milliseconds, however few rows it has."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _BATCH_ROWS:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, rows = [], 0
    if rows:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()


class _Counter:
    """The tallies of one pass."""

    def __init__(self, samples: int, examples: int) -> None:
        self._found = Gathered()
        self._examples_per_reason = examples
        self._best_of_tags, self._best_of_categories = BestSamples(samples), BestSamples(samples)
        self._tags, self._categories, self._formats, self._errors = Words(), Words(), Words(), Words()
        self._hues = Hues()
        self._shapes = np.zeros(len(SHAPES), np.int64)
        self._examples: dict[str, pa.Table] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        found = self._found
        found.images += batch.num_rows
        failed = pc.equal(batch.column("status"), "failed")
        found.size_bytes.add(batch.column("size_bytes"))
        if pc.any(failed).as_py():
            self._add_failed(batch.filter(failed))
            batch = batch.filter(pc.invert(failed))
        found.tagged += batch.num_rows
        if batch.num_rows == 0:
            return
        self._add_tags(batch)
        self._add_categories(batch)
        self._hues.add(batch.column("colors"))
        self._formats.add(batch.column("format").drop_null())
        found.sharpness.add(batch.column("sharpness"))
        found.brightness.add(batch.column("brightness"))
        self._add_sizes(batch)

    def finish(self, sheets: int) -> Gathered:
        """Return what was found."""
        found = self._found
        found.tags = self._tags.most_common()
        found.categories = self._categories.most_common()
        found.colors = self._hues.largest()
        found.formats = self._formats.most_common()
        found.shapes = [WordCount(name, int(n)) for name, n in zip(SHAPES, self._shapes, strict=True)]
        found.reasons = [
            Reason(
                one.word,
                one.images,
                [
                    FailedImage(row["image_id"], row["error_detail"])
                    for row in self._examples[one.word].to_pylist()
                ],
            )
            for one in self._errors.most_common()
        ]
        found.sheets = [
            Sheet("tag", word, self._best_of_tags.of(self._tags.code(word.word)))
            if kind == "tag"
            else Sheet("category", word, self._best_of_categories.of(self._categories.code(word.word)))
            for kind, word in _choose(found.tags, found.categories, sheets)
        ]
        return found

    def _add_tags(self, batch: pa.RecordBatch) -> None:
        found = self._found
        tags, rows = flatten(batch.column("tags"), "tag", "score", "source")
        words, scores = tags["tag"], _floats(tags["score"])
        per_image = np.bincount(rows, minlength=batch.num_rows)
        found.bare += int((per_image == 0).sum())
        counts = np.bincount(per_image)
        size = max(len(counts), len(found.tags_per_image))
        found.tags_per_image = np.pad(found.tags_per_image, (0, size - len(found.tags_per_image)))
        found.tags_per_image[: len(counts)] += counts
        if len(rows) == 0:
            return
        best = np.zeros(batch.num_rows)
        np.maximum.at(best, rows, scores)  # a taught tag may come after the model's and score higher
        found.best_score.add(best[per_image > 0])
        if pc.count_distinct(tags["source"]).as_py() > 1:
            words, rows, scores = _once_per_image(words, rows, scores)
        codes = self._tags.add(words, scores)
        self._best_of_tags.add(batch, codes, rows, scores)

    def _add_categories(self, batch: pa.RecordBatch) -> None:
        categories, rows = flatten(batch.column("categories"), "tag", "score")
        scores = _floats(categories["score"])
        codes = self._categories.add(categories["tag"], scores)
        self._best_of_categories.add(batch, codes, rows, scores)

    def _add_failed(self, rows: pa.RecordBatch) -> None:
        self._found.failed += rows.num_rows
        errors = pc.fill_null(rows.column("error"), "unknown")
        self._errors.add(errors)
        table = pa.table({name: rows.column(name) for name in ("image_id", "error_detail")})
        for error in pc.unique(errors).to_pylist():
            some = table.filter(pc.equal(errors, error))
            held = self._examples.get(error)
            some = some if held is None else pa.concat_tables([held, some])
            least = pc.select_k_unstable(
                some, k=self._examples_per_reason, sort_keys=[("image_id", "ascending")]
            )
            self._examples[error] = some.take(least)

    def _add_sizes(self, batch: pa.RecordBatch) -> None:
        known = batch.filter(
            pc.and_(pc.is_valid(batch.column("width_px")), pc.is_valid(batch.column("height_px")))
        )
        width = known.column("width_px").to_numpy().astype(np.float64)
        height = known.column("height_px").to_numpy().astype(np.float64)
        self._found.pixels.add(width * height)
        square = np.maximum(width, height) <= _SQUARE_WITHIN * np.minimum(width, height)
        shape = np.where(square, 2, np.where(width > height, 0, 1))
        self._shapes += np.bincount(shape, minlength=len(SHAPES))


def _choose(
    tags: list[WordCount], categories: list[WordCount], n: int
) -> list[tuple[Literal["tag", "category"], WordCount]]:
    """Return the words that get a sheet: tags with images enough, then categories, then any tag.

    In a small collection nearly every tag has one image, and a dozen sheets of one picture show nothing;
    its categories have several.
    """
    full = [word for word in tags if word.images >= _FULL_SHEET]
    names = {word.word for word in full[:n]}
    shared = [word for word in categories if word.images > 1 and word.word not in names]
    scarce = [word for word in tags if word.images < _FULL_SHEET]
    ranked: list[tuple[Literal["tag", "category"], WordCount]] = [("tag", word) for word in full]
    ranked += [("category", word) for word in shared]
    ranked += [("tag", word) for word in scarce]
    return ranked[:n]


def _floats(column: pa.Array) -> np.ndarray:
    numbers: np.ndarray = np.nan_to_num(pc.fill_null(column, 0.0).to_numpy().astype(np.float64))
    return numbers


def _once_per_image(
    words: pa.Array, rows: np.ndarray, scores: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Leave one entry, the best, of a tag that an image has from several sources."""
    encoded = words.dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    order = np.lexsort((-scores, codes, rows))
    key = rows[order] * len(encoded.dictionary) + codes[order]
    kept = np.sort(order[first_of_each(key)])
    return words.take(pa.array(kept)), rows[kept], scores[kept]
