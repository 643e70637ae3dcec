"""The words of every image: tags, categories and colours, by image and by word.

`words.arrow` has a row an image, in the order of ids.parquet, for what a match shows. `postings.arrow` has a
row a word: a roaring bitmap of the slots that have it and their scores in the order of the slots, for filters
and for queries by tag. Both are made again without a vector when tags change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.index.ranges import ranges

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    from pyroaring import BitMap

    from tagger.index.vectors import Floats, Slots

WORDS_NAME: Final = "words.arrow"
POSTINGS_NAME: Final = "postings.arrow"

TAG, CATEGORY, COLOR = "tag", "category", "color"
COLUMNS: Final = {
    "tags": (TAG, "tag", "score"),
    "categories": (CATEGORY, "tag", "score"),
    "colors": (COLOR, "name", "fraction"),
}
"""Columns of the tags table: the kind of their words, and the fields that hold a word and its score."""

_WORD: Final = pa.struct(
    [pa.field("word", pa.int32(), nullable=False), pa.field("score", pa.float32(), nullable=False)]
)
WORDS_SCHEMA: Final = pa.schema([pa.field(name, pa.list_(_WORD), nullable=False) for name in COLUMNS])
POSTINGS_SCHEMA: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("word", pa.string(), nullable=False),
        pa.field("bitmap", pa.binary(), nullable=False),
        pa.field("scores", pa.large_list(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Spoken:
    """The words of one kind of some images, in few bytes.

    Attributes:
        vocabulary: Every word once, sorted.
        numbers: Positions in `vocabulary`: the words of the first image, best first, then those of the next.
        scores: Of each of them.
        lengths: How many each image has.
    """

    vocabulary: pa.Array
    numbers: npt.NDArray[np.int32]
    scores: Floats
    lengths: npt.NDArray[np.int32]

    def once(self) -> Spoken:
        """Return the words with each of them once an image, with its best score: two heads may agree."""
        row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        key = row * max(1, len(self.vocabulary)) + self.numbers
        if len(np.unique(key)) == len(key):
            return self
        by_score = np.lexsort((-self.scores, key))
        first = np.sort(by_score[np.unique(key[by_score], return_index=True)[1]])
        lengths = np.bincount(row[first], minlength=len(self.lengths)).astype(np.int32)
        return Spoken(self.vocabulary, self.numbers[first], self.scores[first], lengths)

    def take(self, places: npt.NDArray[np.int64]) -> Spoken:
        """Return the words of some of the images, in the order of `places`."""
        ends = np.cumsum(self.lengths)
        lengths = self.lengths[places]
        firsts = ends[places] - lengths
        _, flat = ranges(firsts, lengths)
        return Spoken(self.vocabulary, self.numbers[flat], self.scores[flat], lengths)


Speech = dict[str, Spoken]
"""By column of the tags table: `tags`, `categories`, `colors`."""


def hear(rows: pa.RecordBatch | pa.Table) -> Speech:
    """Take the words out of rows of the tags table."""
    heard = {}
    for name, (_, word, score) in COLUMNS.items():
        column = rows.column(name)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        flat = column.flatten()
        spelled = flat.field(word).dictionary_encode()
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        scores = np.asarray(flat.field(score).to_numpy(zero_copy_only=False), np.float32)
        numbers = np.asarray(spelled.indices.to_numpy(zero_copy_only=False), np.int32)
        said = Spoken(spelled.dictionary, numbers, scores, np.asarray(lengths, np.int32))
        heard[name] = join_speech([said.once()])
    return heard


def join_speech(pieces: Sequence[Spoken]) -> Spoken:
    """Put the words of several batches of images behind each other."""
    words = [piece.vocabulary.cast(pa.string()) for piece in pieces]
    vocabulary = pc.unique(pa.chunked_array(words, pa.string())).sort()
    numbers = []
    for piece, own in zip(pieces, words, strict=True):
        new = pc.index_in(own, value_set=vocabulary).to_numpy(zero_copy_only=False).astype(np.int32)
        numbers.append(new[piece.numbers])
    return Spoken(
        vocabulary,
        np.concatenate([np.empty(0, np.int32), *numbers]),
        np.concatenate([np.empty(0, np.float32), *(piece.scores for piece in pieces)]),
        np.concatenate([np.empty(0, np.int32), *(piece.lengths for piece in pieces)]),
    )


def make_words(speech: Speech, slots: Slots, order: npt.NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
    """Turn words into the two tables of an index.

    Args:
        speech: Words of the images.
        slots: Of the same images, ascending.
        order: Positions of the images in the order of ids.parquet.

    Returns:
        Tables of `WORDS_SCHEMA`, in that order, and of `POSTINGS_SCHEMA`.
    """
    lists: list[pa.Array] = []
    postings: list[pa.Table] = []
    first = 0
    for name, (kind, _, _) in COLUMNS.items():
        spoken = speech[name]
        postings.append(_postings(kind, spoken, slots))
        lists.append(_lists(spoken.take(order), first))
        first += len(spoken.vocabulary)
    return pa.Table.from_arrays(lists, schema=WORDS_SCHEMA), pa.concat_tables(postings)


def read_speech(words: pa.Table, postings: pa.Table) -> Speech:
    """Return the words of an index, in the order of ids.parquet."""
    kinds = postings.column("kind").to_pylist()
    spelled = postings.column("word").combine_chunks()
    speech = {}
    first = 0
    for name, (kind, _, _) in COLUMNS.items():
        many = kinds.count(kind)
        column = words.column(name).combine_chunks()
        flat = column.flatten()
        numbers = np.asarray(flat.field("word").to_numpy(zero_copy_only=False), np.int32) - first
        scores = np.asarray(flat.field("score").to_numpy(zero_copy_only=False), np.float32)
        lengths = np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), np.int32)
        speech[name] = Spoken(spelled.slice(first, many), numbers, scores, lengths)
        first += many
    return speech


def _lists(spoken: Spoken, first: int) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(spoken.lengths)]).astype(np.int32)
    values = pa.StructArray.from_arrays(
        [pa.array(spoken.numbers + np.int32(first), pa.int32()), pa.array(spoken.scores, pa.float32())],
        fields=list(_WORD),
    )
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=WORDS_SCHEMA.field(0).type)


def _postings(kind: str, spoken: Spoken, slots: Slots) -> pa.Table:
    from pyroaring import BitMap

    vocabulary, numbers = spoken.vocabulary, spoken.numbers
    small = numbers.astype(np.uint16) if len(vocabulary) < 2**16 else numbers  # which sorts by radix
    order = np.argsort(small, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=len(vocabulary))).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    by_word = np.repeat(slots.astype(np.uint32), spoken.lengths)[order]
    bitmaps = [BitMap(by_word[start:end]).serialize() for start, end in zip(starts, ends, strict=True)]
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int64))
    return pa.Table.from_arrays(
        [
            pa.array([kind] * len(vocabulary), pa.string()),
            vocabulary.cast(pa.string()),
            pa.array(bitmaps, pa.binary()),
            pa.LargeListArray.from_arrays(offsets, pa.array(spoken.scores[order], pa.float32())),
        ],
        schema=POSTINGS_SCHEMA,
    )


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file that can be mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_arrow(data: npt.NDArray[np.uint8]) -> pa.Table:
    """Read an Arrow file in memory; columns lie where the file lies."""
    return pa.ipc.open_file(pa.py_buffer(data)).read_all().combine_chunks()


@dataclass(frozen=True)
class Posting:
    """One word.

    Attributes:
        bitmap: Slots that have it.
        scores: Of each slot, in the order of the slots.
    """

    bitmap: BitMap
    scores: Floats

    @property
    def slots(self) -> Slots:
        """Slots that have it, ascending."""
        return np.frombuffer(self.bitmap.to_array(), np.uint32).astype(np.int64)

    def at_least(self, score: float) -> BitMap:
        """Return the slots that have it with at least this score."""
        from pyroaring import BitMap

        if score <= 0:
            return self.bitmap
        return BitMap(self.slots[self.scores >= np.float32(score)].astype(np.uint32))


class Words:
    """The words of an index; threads may share it.

    Args:
        words: Rows of words.arrow.
        postings: Rows of postings.arrow.
    """

    def __init__(self, words: pa.Table, postings: pa.Table) -> None:
        self._rows = {name: _rows_of(words.column(name)) for name in COLUMNS}
        self._vocabulary: list[str] = postings.column("word").to_pylist()
        self._bitmaps = postings.column("bitmap")
        self._scores = postings.column("scores")
        self.rows = len(words)
        kinds = postings.column("kind").to_pylist()
        self._number = {pair: row for row, pair in enumerate(zip(kinds, self._vocabulary, strict=True))}
        self._open: dict[int, Posting] = {}

    def posting(self, kind: str, word: str) -> Posting | None:
        """Return the images that have a word; None if there are none."""
        from pyroaring import BitMap

        number = self._number.get((kind, word))
        if number is None:
            return None
        found = self._open.get(number)
        if found is None:
            bitmap = BitMap.deserialize(self._bitmaps[number].as_py())
            scores = self._scores[number].values.to_numpy(zero_copy_only=False)
            found = self._open[number] = Posting(bitmap, scores)
        return found

    def words(self, kind: str) -> dict[str, int]:
        """Return the words of a kind, and how many images have each."""
        return {word: len(self._scores[number]) for (of, word), number in self._number.items() if of == kind}

    @property
    def vocabulary(self) -> list[str]:
        """Every word, by its number."""
        return self._vocabulary

    def flat(
        self, name: str, places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], Floats, npt.NDArray[np.int64]]:
        """Return the words of some images behind each other, those of an image best first.

        Args:
            name: Which of `COLUMNS`.
            places: Rows of ids.parquet, shape (N,).

        Returns:
            Numbers of words, their scores, and how many each image has, shape (N,).
        """
        offsets, numbers, scores = self._rows[name]
        firsts = offsets[places].astype(np.int64)
        lengths = offsets[places + 1] - firsts
        _, at = ranges(firsts, lengths)
        return numbers[at], scores[at], lengths

    def of(self, name: str, places: npt.NDArray[np.int64]) -> list[list[dict[str, Any]]]:
        """Return the words of some images, best first, as the tags table has them.

        Args:
            name: Which of `COLUMNS`.
            places: Rows of ids.parquet.
        """
        _, word, score = COLUMNS[name]
        offsets, numbers, scores = self._rows[name]
        found = []
        for place in places.tolist():
            mine = slice(offsets[place], offsets[place + 1])
            found.append(
                [
                    {word: self._vocabulary[number], score: round(value, 4)}
                    for number, value in zip(numbers[mine].tolist(), scores[mine].tolist(), strict=True)
                ]
            )
        return found


def _rows_of(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]:
    """Return where the words of each image begin, their numbers and their scores, where the file lies."""
    lists = column.combine_chunks()
    flat = lists.values
    return (
        lists.offsets.to_numpy(),
        flat.field("word").to_numpy(),
        flat.field("score").to_numpy(),
    )
