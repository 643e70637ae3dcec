"""The rules that every single row keeps, over batches of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.errors import ERROR_CODES
from tagger.tags import CATEGORY_THRESHOLD, CATEGORY_TOP_K
from tagger.tags.assign import TICKS

if TYPE_CHECKING:
    from collections.abc import Collection as Items
    from collections.abc import Iterable

    import numpy.typing as npt

    from tagger.collection.config import Config
    from tagger.tags import Entry, Taxonomy

    Mask = npt.NDArray[np.bool_]

_NORM_TOLERANCE: Final = 2e-3  # rounding to float16 moves a length by less than 0.0005
_WITH_IMAGE: Final = ("sha256", "width_px", "height_px", "format", "tags", "categories")
_NOT_FAILED: Final = ("tags", "categories", "colors")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What the model's words in one column keep to.

    Attributes:
        limit: Most of them an image.
        words: Those that may be written; None if nobody knows.
        least: Least score of each of `words`, and last that of any other, as `assign` compares it: shape
            (W + 1,).
    """

    limit: int
    words: pa.Array | None
    least: npt.NDArray[np.float32]

    @classmethod
    def of(cls, entries: Iterable[Entry] | None, limit: int, threshold: float) -> _Vocabulary:
        """Return the vocabulary of a taxonomy's tags or categories; without entries any word may be there."""
        if entries is None:
            return cls(limit, None, _least([threshold]))
        shown = [entry for entry in entries if not entry.hidden]
        least = [threshold if entry.threshold is None else entry.threshold for entry in shown]
        return cls(limit, pa.array([entry.name for entry in shown], pa.string()), _least([*least, 0.0]))


class RowRules:
    """Counts rows and the breaches of each rule, with one example of each.

    Args:
        config: Of the collection: model, model_id, dim and the taxonomy settings.
        taxonomy: Of the rows. Where config names one that is not given, any word and score may be there.
        heads: Names of the taught heads. What they give is theirs to judge: own words, own thresholds.
    """

    def __init__(self, config: Config, taxonomy: Taxonomy | None = None, heads: Items[str] = ()) -> None:
        self._config = config
        self._heads = pa.array(sorted(heads), pa.string())
        tags, nodes = (None, None) if taxonomy is None else (taxonomy.tags, taxonomy.nodes)
        tagging = config.tagging
        # A taxonomy that cannot be read may have had thresholds of its own, above or below the default.
        lost = taxonomy is None and tagging.taxonomy_file is not None
        self._vocabularies = {
            "tags": _Vocabulary.of(tags, tagging.top_k, 0.0 if lost else tagging.threshold),
            "categories": _Vocabulary.of(nodes, CATEGORY_TOP_K, 0.0 if lost else CATEGORY_THRESHOLD),
        }
        self._broken: dict[str, tuple[int, str]] = {}
        self.rows = self.tagged = self.failed = 0

    def findings(self) -> list[str]:
        """Return a sentence for every rule that some row breaks."""
        return [
            f"{rule}: {count} row{'s' if count > 1 else ''}, for example {example}"
            for rule, (count, example) in self._broken.items()
        ]

    def apply(self, batch: pa.RecordBatch) -> None:
        """Check one batch with all columns of the table.

        Columns in: `SCHEMA`. Rows: any.
        """
        self.rows += batch.num_rows
        ids = batch.column("image_id")
        status = batch.column("status")
        tagged, failed = _mask(pc.equal(status, "tagged")), _mask(pc.equal(status, "failed"))
        self.tagged += int(tagged.sum())
        self.failed += int(failed.sum())
        null = {name: _mask(batch.column(name).is_null()) for name in batch.schema.names}
        self._note("status is neither tagged nor failed", ~(tagged | failed), ids)
        self._note("image_id or uri is empty", _empty(ids) | _empty(batch.column("uri")), ids)
        self._note("error is set exactly when the image failed", tagged != null["error"], ids)
        self._note("a failed image says why", failed & null["error_detail"], ids)
        self._note("a tagged image has an error_detail", tagged & ~null["error_detail"], ids)
        known = _mask(pc.is_in(batch.column("error"), value_set=pa.array(ERROR_CODES)))
        self._note("error is an unknown code", ~null["error"] & ~known, ids)
        for name in _WITH_IMAGE:
            self._note(f"{name} is null although the image was tagged", tagged & null[name], ids)
        for name in _NOT_FAILED:
            self._note(
                f"{name} are given to a failed image", failed & (_lengths(batch.column(name)) > 0), ids
            )
        for name in ("width_px", "height_px"):
            self._note(f"{name} is not positive", _mask(pc.less_equal(batch.column(name), 0)), ids)
        self._note("size_bytes is negative", _mask(pc.less(batch.column("size_bytes"), 0)), ids)
        for name, pattern in (("sha256", "^[0-9a-f]{64}$"), ("phash", "^[0-9a-f]{16}$")):
            matches = _mask(pc.match_substring_regex(batch.column(name), pattern))
            self._note(f"{name} is not of its form", ~null[name] & ~matches, ids)
        for name in ("sharpness", "brightness"):
            self._note(f"{name} is not finite", ~null[name] & ~_finite(batch.column(name)), ids)
        other = _mask(pc.not_equal(batch.column("model_id"), self._config.model_id))
        self._note("model_id is not the collection's", other, ids)
        for name, score in (("tags", "score"), ("categories", "score"), ("colors", "fraction")):
            self._scores(batch.column(name), name, score, ids)
        self._embeddings(batch, tagged, null, ids)

    def _scores(self, lists: pa.ListArray, name: str, score: str, ids: pa.Array) -> None:
        """Scores in [0, 1], best first, every name set and given once."""
        items = lists.flatten()
        if len(items) == 0:
            return
        row = pc.list_parent_indices(lists).to_numpy()
        value = np.nan_to_num(items.field(score).to_numpy(zero_copy_only=False), nan=-1.0)
        self._note(f"{name} hold a {score} outside [0, 1]", _rows(row, (value < 0) | (value > 1), ids), ids)
        rises = (row[1:] == row[:-1]) & (value[1:] > value[:-1])
        self._note(f"{name} are not best first", _rows(row[1:], rises, ids), ids)
        if name == "colors":
            return
        self._note(f"{name} hold a null", _rows(row, _mask(items.field("tag").is_null()), ids), ids)
        words = [items.field("tag"), *([items.field("source")] if name == "tags" else [])]
        key = pc.binary_join_element_wise(*(pc.fill_null(word, "") for word in words), "\0")
        code = pc.dictionary_encode(key).indices.to_numpy().astype(np.int64)
        pair = row.astype(np.int64) * (int(code.max()) + 1) + code
        order = np.argsort(pair, kind="stable")
        twice = np.zeros(len(pair), dtype=bool)
        twice[order[1:]] = pair[order[1:]] == pair[order[:-1]]
        self._note(f"{name} name something twice", _rows(row, twice, ids), ids)
        self._words(items, name, row, value, ids)

    def _words(
        self,
        items: pa.StructArray,
        name: str,
        row: npt.NDArray[np.int64],
        value: npt.NDArray[np.float32],
        ids: pa.Array,
    ) -> None:
        """The model's words are those that `assign` gives with the settings in force; others are of a head.

        Args:
            items: All words of the batch.
            name: Of their column.
            row: Which row of the batch each is in.
            value: Score of each.
            ids: Of the batch.
        """
        vocabulary, word = self._vocabularies[name], items.field("tag")
        mine = np.ones(len(items), dtype=bool)  # categories are all of the model
        if name == "tags":
            source = items.field("source")
            mine = _mask(pc.equal(source, self._config.model))
            other = ~mine & ~_mask(pc.is_in(source, value_set=self._heads))
            rule = "tags have a source that is neither the model nor a taught head"
            self._note(rule, _rows(row, other, ids), ids)
        counts = np.bincount(row[mine], minlength=len(ids))
        self._note(f"the model gave more than {vocabulary.limit} {name}", counts > vocabulary.limit, ids)
        place = np.full(len(items), -1)
        if vocabulary.words is not None:
            place = pc.fill_null(pc.index_in(word, value_set=vocabulary.words), -1).to_numpy()
            unknown = mine & (place < 0) & _mask(word.is_valid())
            rule = f"{name} hold a word that the taxonomy does not show"
            self._note(rule, _rows(row, unknown, ids), ids)
        low = mine & (value < vocabulary.least[place])
        self._note(f"{name} are scored below their threshold", _rows(row, low, ids), ids)

    def _embeddings(self, batch: pa.RecordBatch, tagged: Mask, null: dict[str, Mask], ids: pa.Array) -> None:
        """Set exactly when tagged; of the model's length; finite, of length 1, rounded to float16."""
        self._note("embedding is null exactly when the image failed", tagged == null["embedding"], ids)
        self._note("embedding_norm goes with the embedding", null["embedding_norm"] != null["embedding"], ids)
        lists, dim = batch.column("embedding"), self._config.dim
        lengths = _lengths(lists)
        wrong = ~null["embedding"] & (lengths != dim)
        self._note(f"embedding has not {dim} values", wrong, ids)
        usable = ~null["embedding"] & ~wrong
        at = np.flatnonzero(usable)
        if len(at) == 0:
            return
        values = lists.filter(pa.array(usable)).flatten().to_numpy(zero_copy_only=False).reshape(len(at), dim)
        norm = np.asarray(batch.column("embedding_norm").to_numpy(zero_copy_only=False), np.float64)[at]
        finite = np.isfinite(values).all(axis=1) & np.isfinite(norm) & (norm >= 0)
        self._note("embedding or its norm is not finite", _at(at, ~finite, len(ids)), ids)
        values = np.where(finite[:, None], values, 0)
        length = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
        # A picture that excites no feature at all has zeros, and says so in its norm.
        unit = np.where(norm == 0, length == 0, np.abs(length - 1) < _NORM_TOLERANCE)
        self._note("embedding is not of length 1", _at(at, finite & ~unit, len(ids)), ids)
        with np.errstate(over="ignore"):
            rounded = (values.astype(np.float16).astype(np.float32) == values).all(axis=1)
        self._note("embedding is not rounded to float16", _at(at, finite & ~rounded, len(ids)), ids)

    def _note(self, rule: str, bad: Mask, ids: pa.Array) -> None:
        count = int(bad.sum())
        if count:
            before, example = self._broken.get(rule, (0, str(ids[int(bad.argmax())].as_py())))
            self._broken[rule] = (before + count, example)


def _least(thresholds: list[float]) -> npt.NDArray[np.float32]:
    # Scores are stored as they were compared, in float32, so the same comparison never flags one; and
    # `assign` writes no score of 0.0000, whatever the threshold.
    return np.maximum(np.array(thresholds, np.float32), np.float32(1 / TICKS))


def _mask(values: Any) -> Mask:
    """Return booleans with null as False."""
    mask: Mask = pc.fill_null(values, fill_value=False).to_numpy(zero_copy_only=False).astype(bool)
    return mask


def _empty(texts: pa.Array) -> Mask:
    return _mask(pc.equal(pc.binary_length(texts), 0))


def _finite(values: pa.Array) -> Mask:
    return _mask(pc.is_finite(values))


def _lengths(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    return lengths


def _rows(row: npt.NDArray[np.int64], bad: Mask, ids: pa.Array) -> Mask:
    return _at(row, bad, len(ids))


def _at(places: npt.NDArray[np.int64], bad: Mask, rows: int) -> Mask:
    mask = np.zeros(rows, dtype=bool)
    mask[places[bad]] = True
    return mask
