"""Tallies that take a table batch by batch and stay small, however many rows go by.

Memory grows with the vocabulary (tags, colour names, formats, reasons), never with the rows.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BUCKETS: Final = 1 << 16  # float32 without its sign bit and its last 15: 256 buckets for each power of two


class Spread:
    """Distribution of non-negative numbers, of any scale, in one pass.

    The bits of non-negative float32 values sort like the values, so their upper bits are buckets of equal
    relative width: quantiles and histograms come out within 0.4 %, in 512 KB, with no range known before.
    NaN, infinities and negative numbers are left out.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)
        self._sum = 0.0
        self._least, self._greatest = np.inf, -np.inf

    def add(self, values: pa.Array | np.ndarray) -> None:
        """Count values, shape (N,); nulls are left out."""
        if isinstance(values, pa.Array):
            values = values.drop_null().to_numpy(zero_copy_only=False)
        numbers = np.ascontiguousarray(values, np.float32)
        numbers = np.abs(numbers[np.isfinite(numbers) & (numbers >= 0)])  # -0.0 would have the sign bit
        if len(numbers) == 0:
            return
        self._counts += np.bincount(numbers.view(np.uint32) >> 15, minlength=_BUCKETS)
        self._sum += float(numbers.sum(dtype=np.float64))
        self._least = min(self._least, float(numbers.min()))
        self._greatest = max(self._greatest, float(numbers.max()))

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    @property
    def total(self) -> float:
        """Sum of the values."""
        return self._sum

    @property
    def least(self) -> float:
        """Smallest value; inf when there is none."""
        return float(self._least)

    @property
    def greatest(self) -> float:
        """Greatest value; -inf when there is none."""
        return float(self._greatest)

    def quantile(self, share: float) -> float:
        """Return the value below which a share in [0, 1] of the values lies, within 0.4 %.

        Raises:
            ValueError: Nothing was counted.
        """
        if self.count == 0:
            raise ValueError("no value was counted")
        rank = min(self.count - 1, int(share * self.count))
        bucket = np.searchsorted(np.cumsum(self._counts), rank, side="right")
        return float(np.clip(_middles(np.array([bucket]))[0], self._least, self._greatest))

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Count values between edges; the first and the last bin also take what lies beyond them.

        Args:
            edges: Ascending, shape (B + 1,).

        Returns:
            Counts, shape (B,); they add up to `count`. A value within 0.4 % of an edge may count on either
            side of it.
        """
        used = np.flatnonzero(self._counts)
        bins = np.clip(np.searchsorted(edges, _middles(used), side="right") - 1, 0, len(edges) - 2)
        return np.bincount(bins, weights=self._counts[used], minlength=len(edges) - 1).astype(np.int64)


def _middles(buckets: np.ndarray) -> np.ndarray:
    """Return the middle of each bucket, float64, same shape.

    Not the lower bounds: numbers such as 0.5 and 1024 are lower bounds and common, and edges are chosen
    among them; the middle lies safely to the right.
    """
    low = buckets.astype(np.uint32) << 15
    middle = (low + (1 << 14)).view(np.float32).astype(np.float64)
    return np.where(low == 0, 0.0, middle)


@dataclass(frozen=True, slots=True)
class WordCount:
    """How often a word was given.

    Attributes:
        word: The tag, category, format or reason.
        images: Images that have it.
        score: Mean score, in [0, 1]; None where the words have no scores.
    """

    word: str
    images: int
    score: float | None = None


class Words:
    """Counts words that come with or without scores, and numbers them in the order they first appear."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._images = np.zeros(64, np.int64)
        self._scores = np.zeros(64, np.float64)
        self._scored = False

    def __len__(self) -> int:
        return len(self._names)

    def code(self, word: str) -> int | None:
        """Return the number of a word, or None if it never came."""
        return self._codes.get(word)

    def add(self, words: pa.Array, scores: np.ndarray | None = None) -> np.ndarray:
        """Count words, shape (N,), none of them null; returns their numbers, shape (N,) int64."""
        encoded = words.dictionary_encode()
        numbers = np.fromiter((self._number(w) for w in encoded.dictionary.to_pylist()), np.int64)
        codes: np.ndarray = numbers[encoded.indices.to_numpy()] if len(words) else np.zeros(0, np.int64)
        size = len(self._images)
        self._images += np.bincount(codes, minlength=size)
        if scores is not None:
            self._scored = True
            self._scores += np.bincount(codes, weights=np.nan_to_num(scores), minlength=size)
        return codes

    def most_common(self, n: int | None = None) -> list[WordCount]:
        """Return the most frequent words first; ties in alphabetical order."""
        rows = sorted(
            ((-int(self._images[i]), word, i) for i, word in enumerate(self._names)),
        )[:n]
        return [
            WordCount(word, -less, float(self._scores[i]) / -less if self._scored else None)
            for less, word, i in rows
        ]

    def _number(self, word: str) -> int:
        code = self._codes.get(word)
        if code is None:
            code = self._codes[word] = len(self._names)
            self._names.append(word)
            if code >= len(self._images):
                self._images = np.pad(self._images, (0, len(self._images)))
                self._scores = np.pad(self._scores, (0, len(self._scores)))
        return code


@dataclass(frozen=True, slots=True)
class HueCount:
    """How much of a colour the images hold.

    Attributes:
        name: The colour's plain name.
        hex: Mean of its shades, weighted by area, as `#rrggbb`.
        area: Share of the area of all images, in [0, 1].
        dominant: Images in which it is the largest colour.
    """

    name: str
    hex: str
    area: float
    dominant: int


class Hues:
    """Adds up colours by name: area, mean shade, and where each is dominant."""

    def __init__(self) -> None:
        self._words = Words()
        self._sums = np.zeros((4, 64), np.float64)  # area, then red, green and blue weighted by it
        self._dominant = np.zeros(64, np.int64)

    def add(self, lists: pa.Array) -> None:
        """Count the column `colors` of a batch; largest colour first in each list."""
        colors, rows = flatten(lists, "name", "hex", "fraction")
        if len(rows) == 0:
            return
        codes = self._words.add(colors["name"])
        while len(self._words) > self._sums.shape[1]:
            self._sums = np.pad(self._sums, ((0, 0), (0, self._sums.shape[1])))
            self._dominant = np.pad(self._dominant, (0, len(self._dominant)))
        size = self._sums.shape[1]
        area = np.clip(np.nan_to_num(pc.fill_null(colors["fraction"], 0.0).to_numpy()), 0, 1).astype(
            np.float64
        )
        self._sums[0] += np.bincount(codes, weights=area, minlength=size)
        for channel, values in enumerate(_channels(colors["hex"]), start=1):
            self._sums[channel] += np.bincount(codes, weights=values * area, minlength=size)
        self._dominant += np.bincount(codes[first_of_each(rows)], minlength=size)

    def largest(self) -> list[HueCount]:
        """Return the colours with the largest area first."""
        whole = max(self._sums[0].sum(), 1e-12)
        counts = []
        for one in self._words.most_common():
            code = self._words.code(one.word)
            area = float(self._sums[0, code])
            red, green, blue = (round(float(v)) for v in self._sums[1:, code] / max(area, 1e-12))
            shade = f"#{red:02x}{green:02x}{blue:02x}"
            counts.append(HueCount(one.word, shade, area / whole, int(self._dominant[code])))
        return sorted(counts, key=lambda hue: (-hue.area, hue.name))


def flatten(lists: pa.Array, *fields: str) -> tuple[dict[str, pa.Array], np.ndarray]:
    """Return fields of a list<struct> column end to end, without the entries whose first field is null.

    Args:
        lists: The column, N lists.
        fields: Names of the struct's fields.

    Returns:
        The fields, shape (E,) each, and the row each entry belongs to, ascending, shape (E,) int64.
    """
    rows = pc.list_parent_indices(lists)
    flat = pc.list_flatten(lists)
    columns = {name: pc.struct_field(flat, name) for name in fields}
    here = pc.is_valid(columns[fields[0]])
    if not pc.all(here, min_count=0).as_py():
        columns = {name: column.filter(here) for name, column in columns.items()}
        rows = rows.filter(here)
    return columns, rows.to_numpy().astype(np.int64)


def first_of_each(rows: np.ndarray) -> np.ndarray:
    """Return a mask of the entries that are the first of their row; `rows` ascending, shape (E,)."""
    mask = np.ones(len(rows), bool)
    mask[1:] = rows[1:] != rows[:-1]
    return mask


def _channels(hexes: pa.Array) -> list[np.ndarray]:
    """Return red, green and blue of `#rrggbb`, shape (N,) each; longer or shorter texts are black."""
    text = pc.fill_null(pc.utf8_ltrim(hexes, "#"), "")
    good = pc.equal(pc.binary_length(text), 6)
    clean = pa.concat_arrays([pc.if_else(good, text, "000000")])  # in one buffer, from its start
    data = clean.buffers()[2]
    if data is None:
        return [np.zeros(0)] * 3
    letters = np.frombuffer(data, np.uint8)[: 6 * len(clean)].reshape(-1, 6)
    # '0'-'9' are 0x30-0x39; letters have bit 0x40 and their low nibble counts from 1.
    nibbles = np.minimum((letters & 0xF) + 9 * (letters >> 6), 15)
    return [nibbles[:, 2 * i].astype(np.float64) * 16 + nibbles[:, 2 * i + 1] for i in range(3)]
