"""A taxonomy: what a model's labels are called, which categories they belong to, and what is shown."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tagger.errors import TaxonomyError
from tagger.tags.assign import (
    Activation,
    Floats,
    Ints,
    check_probabilities,
    max_scores,
    select,
    sum_scores,
    tag_lists,
)

DEFAULT_THRESHOLD: Final = 0.15
DEFAULT_TOP_K: Final = 5
CATEGORY_THRESHOLD: Final = 0.5
CATEGORY_TOP_K: Final = 16

JSON_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A tag or a category.

    Attributes:
        name: Unique over tags and categories together, upper and lower case being the same.
        parents: Names of the categories directly above.
        hidden: Never written to a row. It still counts for its categories.
        threshold: Least score at which it is written, in [0, 1]; None for the run's threshold.
    """

    name: str
    parents: tuple[str, ...] = ()
    hidden: bool = False
    threshold: float | None = None


@dataclass(frozen=True)
class Taxonomy:
    """Names, categories and thresholds for the outputs of one model. Small, picklable.

    Attributes:
        tags: One entry per label of the model, in the order of its outputs.
        nodes: The categories; each has at least one label below it, and none is above itself.
    """

    tags: tuple[Entry, ...]
    nodes: tuple[Entry, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The tag of each label, in the order of the model's outputs."""
        return tuple(entry.name for entry in self.tags)

    @property
    def categories(self) -> tuple[str, ...]:
        """The name of each category."""
        return tuple(entry.name for entry in self.nodes)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return every category above a tag or category, nearest first; () for an unknown name."""
        return self._ancestors.get(name, ())

    def descendants(self, name: str) -> tuple[str, ...]:
        """Return every tag and category below a category; () for a tag or an unknown name.

        Unknown names are no error: tags taught by users are in rows, but in no taxonomy.
        """
        return self._descendants.get(name, ())

    def assign(
        self,
        probabilities: Floats,
        *,
        source: str,
        threshold: float = DEFAULT_THRESHOLD,
        top_k: int = DEFAULT_TOP_K,
        activation: Activation = "softmax",
    ) -> tuple[pa.ListArray, pa.ListArray]:
        """Return the `tags` and `categories` of a batch of images.

        Tags: at least `threshold` (or the label's own), best first, ties in the order of the labels, at
        most `top_k`. Categories: at least `CATEGORY_THRESHOLD` (or the category's own), best first and of
        equals the more specific first, at most `CATEGORY_TOP_K`.

        A category's score is, for a softmax, the sum of its labels' probabilities: the classes exclude
        each other, so that sum is the probability that one of them is right. The outputs of a sigmoid
        are answers to separate questions. Their sum means nothing, and 1 - prod(1 - p) is right only if
        they were independent: a hundred labels with a background of 0.01 each would make «animal» .63 on
        every picture. So it is the greatest of them, which the true probability is never below.

        A hidden label counts for its categories like any other.

        Args:
            probabilities: Shape (N, L).
            source: The model's name, written beside every tag.
            threshold: Least score of a tag, in [0, 1].
            top_k: Most tags per image.
            activation: How the probabilities were made; must be that of the model.

        Returns:
            Two arrays of N lists: of (tag, score, source) and of (tag, score).

        Raises:
            ValueError: Not (N, L), a NaN, a value outside [0, 1], or a negative `top_k`.
        """
        values = np.ascontiguousarray(probabilities, dtype=np.float32)
        check_probabilities(values, len(self.tags))
        if top_k < 0 or not 0 <= threshold <= 1:
            raise ValueError(f"top_k must be at least 0 and threshold in [0, 1], got {top_k}, {threshold}")
        index = self._index
        sums = (
            sum_scores(values, index.members)
            if activation == "softmax"
            else max_scores(values, index.columns, index.starts)
        )
        tags = select(values, _thresholds(self.tags, threshold), top_k)
        categories = select(sums, index.thresholds, CATEGORY_TOP_K)
        return tag_lists(tags, index.tag_words, source), tag_lists(categories, index.category_words, None)

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of everything the taxonomy says, in hex; equal for equal taxonomies."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the canonical form, which `from_json` reads back without the original file or labels."""
        content = {
            "format": JSON_FORMAT,
            "tags": [_entry_json(entry) for entry in self.tags],
            "categories": [_entry_json(entry) for entry in self.nodes],
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Taxonomy":
        """Read the canonical form.

        Raises:
            TaxonomyError: It is not one, or was altered into something that cannot be used.
        """
        try:
            content = json.loads(text)
            if content["format"] != JSON_FORMAT:
                raise TaxonomyError(
                    f"the stored taxonomy has format {content['format']!r}, not {JSON_FORMAT}"
                )
            read = cls(
                tuple(_entry(item) for item in content["tags"]),
                tuple(_entry(item) for item in content["categories"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TaxonomyError(f"the stored taxonomy is damaged: {error!r}") from error
        read.validate()
        return read

    def validate(self) -> None:
        """Check what `Attributes` promises.

        Raises:
            TaxonomyError: Two entries share a name, a parent is missing, a category is above itself or
                empty, or a threshold is outside [0, 1].
        """
        names = [entry.name.casefold() for entry in (*self.tags, *self.nodes)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise TaxonomyError(f"two entries of the taxonomy are named {twice!r}")
        known = set(self.categories)
        for entry in (*self.tags, *self.nodes):
            if unknown := set(entry.parents) - known:
                raise TaxonomyError(f"{entry.name!r} has an unknown parent: {min(unknown)!r}")
            if entry.threshold is not None and not 0 <= entry.threshold <= 1:
                raise TaxonomyError(
                    f"the threshold of {entry.name!r} must be from 0 to 1, got {entry.threshold}"
                )
        # Walking from the labels up reaches every category that has one, and no ring can be entered
        # without one of its members being reached; `_ancestors` then raises.
        above = {parent for entry in self.tags for parent in self.ancestors(entry.name)}
        if empty := known - above:
            raise TaxonomyError(f"no label belongs to the category {min(empty)!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return Taxonomy, (self.tags, self.nodes)  # without the index, which each process builds again

    @cached_property
    def _ancestors(self) -> dict[str, tuple[str, ...]]:
        parents = {entry.name: entry.parents for entry in (*self.tags, *self.nodes)}
        return {name: walk_up(name, parents) for name in parents}

    @cached_property
    def _descendants(self) -> dict[str, tuple[str, ...]]:
        below: dict[str, list[str]] = {entry.name: [] for entry in self.nodes}
        for entry in (*self.tags, *self.nodes):
            for name in self.ancestors(entry.name):
                below[name].append(entry.name)
        return {name: tuple(found) for name, found in below.items()}

    @cached_property
    def _index(self) -> "_Index":
        return _Index.build(self)


@dataclass(frozen=True, slots=True)
class _Index:
    """A taxonomy as arrays; categories are sorted specific before general, so that ties come out so."""

    members: Floats
    columns: Ints
    starts: Ints
    thresholds: Floats
    tag_words: pa.Array
    category_words: pa.Array

    @classmethod
    def build(cls, taxonomy: Taxonomy) -> "_Index":
        """Build the arrays of a taxonomy."""
        # More ancestors is more specific: a child has all of its parent's, and the parent.
        nodes = sorted(taxonomy.nodes, key=lambda node: -len(taxonomy.ancestors(node.name)))
        position = {node.name: index for index, node in enumerate(nodes)}
        members = np.zeros((len(taxonomy.tags), len(nodes)), dtype=np.float32)
        for row, entry in enumerate(taxonomy.tags):
            members[row, [position[name] for name in taxonomy.ancestors(entry.name)]] = 1
        category, column = np.nonzero(members.T)
        return cls(
            members,
            column,
            np.searchsorted(category, np.arange(len(nodes))),
            _thresholds(nodes, CATEGORY_THRESHOLD),
            pa.array(taxonomy.names, pa.string()),
            pa.array([node.name for node in nodes], pa.string()),
        )


def walk_up(name: str, parents: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return every ancestor once, nearest first (breadth first, parents in their order).

    Raises:
        TaxonomyError: `name` is above itself.
    """
    found: dict[str, None] = {}
    ring = parents[name]
    while ring:
        fresh = dict.fromkeys(parent for parent in ring if parent not in found)
        if name in fresh:
            raise TaxonomyError(f"{name!r} is above itself in the taxonomy")
        found |= fresh
        ring = tuple(above for parent in fresh for above in parents[parent])
    return tuple(found)


def _thresholds(entries: Iterable[Entry], default: float) -> npt.NDArray[np.float32]:
    values = [
        np.inf if entry.hidden else default if entry.threshold is None else entry.threshold
        for entry in entries
    ]
    return np.array(values, dtype=np.float32)


def _entry_json(entry: Entry) -> dict[str, object]:
    content: dict[str, object] = {"name": entry.name, "parents": list(entry.parents)}
    if entry.hidden:
        content["hidden"] = True
    if entry.threshold is not None:
        content["threshold"] = entry.threshold
    return content


def _entry(content: Any) -> Entry:
    name, parents = content["name"], content["parents"]
    hidden, threshold = content.get("hidden", False), content.get("threshold")
    number = threshold is None or (isinstance(threshold, int | float) and not isinstance(threshold, bool))
    words = isinstance(parents, list) and all(isinstance(word, str) for word in [name, *parents])
    if words:
        name.encode()  # a lone surrogate is no text, and Arrow could not write it
    if not (words and number and isinstance(hidden, bool)):
        raise TypeError(f"not an entry: {content!r:.200}")
    return Entry(name, tuple(parents), hidden, None if threshold is None else float(threshold))
