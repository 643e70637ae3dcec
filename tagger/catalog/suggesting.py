"""A category for every product: from a taxonomy of the shop's own, from its peers, or from what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.catalog.describing import rounded, things_of
from tagger.catalog.pictures import taken
from tagger.errors import CollectionError
from tagger.tags import CATEGORY_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt

    from tagger.catalog.pictures import Assortment, Pictures
    from tagger.catalog.similar import Similar
    from tagger.index import Index
    from tagger.index.vectors import Floats
    from tagger.search import Collection
    from tagger.tags import Taxonomy

    Ints = npt.NDArray[np.int64]

SOURCES: Final = ("taxonomy", "peers", "tags")
LEAST_PEERS: Final = 8
"""Other pictures that must have a category before they say anything about one."""

LEAST_SHARE: Final = 0.5
"""Share of the peers' weight that a category needs to be suggested."""

_BLOCK: Final = 8192
_PATH: Final = " > "


class Suggestions:
    """Suggested categories by unit.

    Attributes:
        numbers: Position in `texts`; -1 for none, shape (N,).
        scores: In [0, 1].
        sources: Position in `SOURCES`.
        texts: Categories, with those above them: `Animals > Cats`.
    """

    def __init__(self, n: int) -> None:
        self.numbers = np.full(n, -1, np.int64)
        self.scores = np.zeros(n, np.float32)
        self.sources = np.zeros(n, np.int64)
        self.texts: list[str] = []

    def put(self, where: Ints, numbers: Ints, scores: Floats, source: int, texts: list[str]) -> None:
        """Suggest for those units that have nothing yet; numbers count in `texts`, -1 is no suggestion."""
        fits = (self.numbers[where] < 0) & (numbers >= 0)
        where = where[fits]
        self.numbers[where] = numbers[fits] + len(self.texts)
        self.scores[where], self.sources[where] = scores[fits], source
        self.texts += texts

    def of(self, units: Ints) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Return category, score and source of some units, -1 being none."""
        number = taken(self.numbers, units)
        none = number < 0
        scores = rounded(taken(self.scores, units, none=0))
        return (
            pa.array(self.texts, pa.string()).take(pa.array(number, mask=none)),
            pc.if_else(pa.array(none), None, scores),
            pa.array(SOURCES).take(pa.array(taken(self.sources, units), mask=none)),
        )


def suggest(
    collection: Collection, assortment: Assortment, similar: Similar, *, taxonomy: Path | None
) -> Suggestions:
    """Suggest a category for every unit.

    With a taxonomy, what it says of the images; it sees nothing else. Without one, the category that most of
    the products with the most similar pictures have, where most of them agree; and where they do not, the
    surest word and the categories above it in the collection's own words.

    Args:
        collection: Whose images.
        assortment: The products.
        similar: What their peers say.
        taxonomy: A taxonomy file; see docs/taxonomy.md.

    Raises:
        TaxonomyError: The file cannot be used.
        CollectionError: The collection does not keep its model's last layer.
    """
    index, pictures, units = assortment.index, assortment.pictures, assortment.units
    made = Suggestions(len(units.set))
    everyone = np.arange(len(units.set))
    if taxonomy is not None:
        numbers, scores, texts = _in_taxonomy(collection, assortment, taxonomy)
        made.put(everyone, *_of_sets(pictures, units.set, numbers, scores), 0, texts)
        return made
    agreed = (similar.peers >= LEAST_PEERS) & (similar.peer_share >= LEAST_SHARE)
    theirs = np.where(agreed, similar.peer_category, -1)
    made.put(everyone, theirs, similar.peer_share, 1, assortment.joined.categories)
    numbers, scores, texts = _by_tags(collection.taxonomy(), index, pictures)
    made.put(everyone, *_of_sets(pictures, units.set, numbers, scores), 2, texts)
    return made


def _of_sets(pictures: Pictures, sets: Ints, numbers: Ints, scores: Floats) -> tuple[Ints, Floats]:
    """Return of each set the suggestion of its images with the greatest sum of scores, and its mean score."""
    members = pictures.padded(sets)
    theirs = taken(numbers, members)
    weight = np.where(theirs >= 0, taken(scores, members, none=0), 0)
    votes = (weight[:, None, :] * (theirs[:, :, None] == theirs[:, None, :])).sum(axis=2)
    best = votes.argmax(axis=1)
    rows = np.arange(len(sets))
    agreeing = (theirs == theirs[rows, best][:, None]).sum(axis=1)
    return theirs[rows, best], (votes[rows, best] / np.maximum(agreeing, 1)).astype(np.float32)


def _by_tags(taxonomy: Taxonomy, index: Index, pictures: Pictures) -> tuple[Ints, Floats, list[str]]:
    thing, score = things_of(index, pictures.places)
    thing = np.where(score >= CATEGORY_THRESHOLD, thing, -1)
    words, known = index.words.vocabulary, np.unique(thing[thing >= 0])
    path = _Paths(taxonomy, taxonomy.categories)
    texts = [path.of(words[number]) for number in known.tolist()]
    return np.where(thing >= 0, np.searchsorted(known, thing), -1), score, texts


class _Paths:
    """Ways down to a tag or category, through some of the categories."""

    def __init__(self, taxonomy: Taxonomy, through: Iterable[str]) -> None:
        self._through = frozenset(through)
        self._parents = {one.name: one.parents for one in (*taxonomy.tags, *taxonomy.nodes)}

    def of(self, name: str) -> str:
        """Return the way to a name, by the first category above each."""
        way = [name]
        while above := next((one for one in self._parents.get(way[0], ()) if one in self._through), None):
            way.insert(0, above)
        return _PATH.join(way)


def _in_taxonomy(
    collection: Collection, assortment: Assortment, file: Path
) -> tuple[Ints, Floats, list[str]]:
    """Find the most specific category of the file's own that an image has for sure.

    Those that tagger has without the file count only where the file has no others. Made from the stored
    embeddings by the model's last layer, as `retag` does it: no image is read.
    """
    from tagger.models import HEAD_FILE, load_head
    from tagger.tags import load_taxonomy, probabilities, read_statements

    config, index, pictures = collection.config, assortment.index, assortment.pictures
    taxonomy = load_taxonomy(file, config.labels, config.wnids)
    said = {one.value for one in read_statements(file) if one.kind == "category"}
    own = said.intersection(taxonomy.categories) or set(taxonomy.categories)
    path = _Paths(taxonomy, own)
    data = collection.head()
    if data is None:
        raise CollectionError(f"{collection.uri} does not keep its model's last layer: tag anew to have it")
    head = load_head({HEAD_FILE: data})
    norms = assortment.joined.measures.column("embedding_norm").to_numpy()
    known: dict[str, int] = {}
    texts: list[str] = []
    numbers, scores = np.full(len(pictures.places), -1, np.int64), np.zeros(len(pictures.places), np.float32)
    for start in range(0, len(pictures.places), _BLOCK):
        some = slice(start, start + _BLOCK)
        vectors = index.vectors.take(index.ids.slots[pictures.places[some]])
        chances = probabilities(head.logits(vectors, norms[some]), config.activation)
        _, categories = taxonomy.assign(
            chances, source="", threshold=1, top_k=0, activation=config.activation
        )
        for at, sure in enumerate(categories.to_pylist(), start):
            mine = [one for one in sure if one["tag"] in own]
            if not mine:
                continue
            best = max(mine, key=lambda one: (path.of(one["tag"]).count(_PATH), one["score"]))
            name = best["tag"]
            if name not in known:
                known[name] = len(texts)
                texts.append(path.of(name))
            numbers[at], scores[at] = known[name], best["score"]
    return numbers, scores, texts
