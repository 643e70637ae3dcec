"""An index in memory, ready to be asked."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from tagger.errors import CollectionError, IndexUnusable, OtherModel, QueryError, TaxonomyError, UnknownName
from tagger.index.building import CODES_NAME, PROBE_NAME
from tagger.index.codes import FLAT_MOST, Codes, Refined
from tagger.index.files import Shelf
from tagger.index.filters import Filter, Vocabulary, admitted, shown, slots_of
from tagger.index.ids import IDS_NAME, Ids, read_ids
from tagger.index.manifest import REMEDY, read_manifest, read_pointer
from tagger.index.ranking import Ranking
from tagger.index.vectors import Allowed, Vectors
from tagger.index.words import POSTINGS_NAME, WORDS_NAME, Words, read_arrow
from tagger.settings import Settings, load_settings

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.collection import Collection
    from tagger.index.manifest import Manifest, Pointer
    from tagger.index.vectors import Floats, Slots
    from tagger.storage import Store
    from tagger.tags import Taxonomy

_KEPT_FILTERS: Final = 64  # of 125 KB for a million images


class Index:
    """One version of an index, verified and loaded; threads may search it together.

    Use `open`. Vectors, codes and words stay in mapped files, which the processes of a machine share; ids are
    in memory.

    Attributes:
        manifest: What it is made of.
        ids: Image ids and facts by slot.
        words: Tags, categories and colours by image and by word.
        vocabulary: The words that may be asked for.
        vectors: Exact vectors by slot.
        codes: What finds candidates; None where every query looks at every vector.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        ids: Ids,
        words: Words,
        vocabulary: Vocabulary,
        vectors: Vectors,
        codes: Codes | None,
        cpus: int,
    ) -> None:
        self.manifest = manifest
        self.ids = ids
        self.words = words
        self.vocabulary = vocabulary
        self.vectors = vectors
        self.codes = codes
        self._refined = None if codes is None else Refined(codes, vectors)
        self._cpus = cpus
        self._filters: OrderedDict[Filter, Allowed] = OrderedDict()
        self._lock = threading.Lock()
        full = len(ids) == manifest.slots
        self._alive = None if full else Allowed(np.sort(ids.slots), manifest.slots)

    @classmethod
    def open(
        cls, collection: Collection, settings: Settings | None = None, *, thorough: bool = False
    ) -> Index:
        """Open the version that is served. Every file is checked before it is used.

        Args:
            collection: Whose index.
            settings: What the environment says; read if not given.
            thorough: Also compare the sha256 of every file, which takes longer.

        Raises:
            IndexUnusable: There is none, a file is missing or altered, or it is of another model.
            StoreUnavailable: The store does not answer.
        """
        settings = settings or load_settings()
        store = collection.store
        manifest = read_manifest(store, require_pointer(collection))
        manifest.require_model(collection.config.model_id, collection.config.dim, collection.uri)
        shelf = Shelf(store, settings.cache_dir, thorough=thorough)
        halves = shelf.open_joined([manifest.file(segment.file) for segment in manifest.segments])
        if len(halves) != manifest.slots * manifest.dim * 2:
            raise _contradiction(collection, "the vector files have another size than index.json says")
        try:
            ids = Ids(read_ids(shelf.open(manifest.file(IDS_NAME))), manifest.slots)
            words = Words(
                read_arrow(shelf.open(manifest.file(WORDS_NAME))),
                read_arrow(shelf.open(manifest.file(POSTINGS_NAME))),
            )
            codes = None
            if manifest.kind != "flat":
                codes = Codes.over(shelf.open(manifest.file(CODES_NAME)))
                shelf.open(manifest.file(PROBE_NAME))  # which no search needs; but what is published is whole
        except (ValueError, OSError, KeyError) as error:  # whole, and yet not what this release wrote
            raise _contradiction(collection, str(error)) from None
        if not len(ids) == words.rows == manifest.count == (manifest.count if codes is None else codes.count):
            raise _contradiction(collection, "its files have different numbers of images")
        if codes is not None and (codes.dim != manifest.dim or not ids.are_all(codes.slots())):
            raise _contradiction(collection, "codes.faiss is not of these images")
        shelf.tidy(manifest.files)
        vectors = Vectors(halves.view(np.float16).reshape(manifest.slots, manifest.dim))
        return cls(
            manifest,
            ids=ids,
            words=words,
            vocabulary=Vocabulary(words, _taxonomy(store, manifest)),
            vectors=vectors,
            codes=codes,
            cpus=settings.cpus,
        )

    @property
    def count(self) -> int:
        """Images in the index."""
        return self.manifest.count

    def slot(self, image_id: str) -> int:
        """Return the slot of an image.

        Raises:
            UnknownName: It is not in the index.
        """
        found = self.ids.find(image_id)
        if found is None:
            raise UnknownName(
                f"there is no image {shown(image_id)} in the index: it failed, is not in the collection, or "
                "was tagged after the last `tagger index`"
            )
        return found

    def query(self, embedding: npt.ArrayLike) -> Floats:
        """Return an embedding as a query, shape (1, D), with length 1.

        Raises:
            OtherModel: It has another shape.
            QueryError: It holds a NaN, an infinity or only zeros.
        """
        try:
            vector = np.asarray(embedding, np.float64).reshape(1, -1) if np.ndim(embedding) == 1 else None
        except OverflowError:
            raise QueryError("the embedding holds a number that is too large for a float") from None
        except (ValueError, TypeError):
            vector = None
        if vector is None or vector.shape[1] != self.manifest.dim:
            raise OtherModel(
                f"an embedding of this collection is a list of {self.manifest.dim} numbers, as its model "
                f"{self.manifest.model} makes them; this is another one"
            )
        norm = float(np.linalg.norm(vector))
        if not 0 < norm < math.inf:
            raise QueryError("the embedding holds a NaN, an infinity, or nothing but zeros")
        return (vector / norm).astype(np.float32)

    def allowed(self, asked: Filter) -> Allowed | None:
        """Return the slots a filter admits; None where it admits every image.

        Raises:
            QueryError: It names an unknown word or colour.
        """
        if asked.is_empty:
            return None
        with self._lock:
            if asked in self._filters:
                self._filters.move_to_end(asked)
                return self._filters[asked]
        found = Allowed(slots_of(admitted(asked, self.words, self.vocabulary, self.ids)), self.manifest.slots)
        with self._lock:
            self._filters[asked] = found
            while len(self._filters) > _KEPT_FILTERS:
                self._filters.popitem(last=False)
        return found

    def ranking(self, query: Floats, asked: Filter = Filter()) -> Ranking:  # noqa: B008 - frozen
        """Return all images by their similarity to a query, to be read as far as needed.

        Args:
            query: From `query`, or a row of `vectors.take`; shape (1, D).
            asked: Which images may be found.
        """
        return Ranking(self, query, self.allowed(asked))

    def nearest(self, queries: Floats, k: int, allowed: Allowed | None = None) -> tuple[Floats, Slots]:
        """Answer many queries at once, on all cores.

        Args:
            queries: Shape (Q, D).
            k: Matches a query.
            allowed: From `allowed`.

        Returns:
            Scores and slots, each of shape (Q, k), best first; slot -1 where there are no more.
        """
        import faiss

        faiss.omp_set_num_threads(self._cpus)
        queries = np.ascontiguousarray(queries, np.float32)
        if self.is_exact(allowed):
            return self.exact(queries, k, allowed)
        return self.approximate(queries, k, allowed)

    def exact(self, queries: Floats, k: int, allowed: Allowed | None) -> tuple[Floats, Slots]:
        """Look at every vector that may be answered with; as `nearest`, on as many threads as FAISS has."""
        return self.vectors.top(queries, k, self._alive if allowed is None else allowed)

    def is_exact(self, allowed: Allowed | None) -> bool:
        """Tell whether a search looks at every vector that it may answer with."""
        return self.codes is None or (allowed is not None and allowed.count <= FLAT_MOST)

    def approximate(self, queries: Floats, k: int, allowed: Allowed | None) -> tuple[Floats, Slots]:
        """Rank the candidates that codes find; as `nearest`, on as many threads as FAISS has.

        The fewer images a filter keeps, the more lists are looked into, so that as many codes are compared as
        without one.
        """
        assert self.codes is not None
        assert self._refined is not None
        total = self.count if allowed is None else allowed.count
        k_found = max(1, min(k, total))
        depth = min(self.depth(k), total)
        share = total / max(1, self.count)
        nprobe = math.ceil(self.manifest.nprobe * max(1.0, depth / self.manifest.depth) / max(share, 1e-6))
        while True:
            nprobe = min(nprobe, self.codes.lists)
            scores, slots = self._refined.search(
                queries, k_found, depth=depth, nprobe=nprobe, allowed=allowed
            )
            if nprobe == self.codes.lists or (slots >= 0).all():
                break
            nprobe *= 4
        missing = k - k_found
        if missing:
            scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
            slots = np.pad(slots, ((0, 0), (0, missing)), constant_values=-1)
        return scores, slots

    def depth(self, k: int) -> int:
        """Return how many candidates are ranked for the best `k`."""
        return min(max(self.manifest.depth, 2 * k), self.count)


def require_pointer(collection: Collection) -> Pointer:
    """Return what names the served version.

    Raises:
        IndexUnusable: There is none, or it cannot be read.
    """
    pointer = read_pointer(collection.store)
    if pointer is None:
        raise IndexUnusable(f"{collection.uri} has no index yet: `tagger index {collection.uri}` makes one")
    return pointer


def _taxonomy(store: Store, manifest: Manifest) -> Taxonomy | None:
    """Return the taxonomy that the index's words were made with; a later retag has another one."""
    from tagger.collection import read_taxonomy

    if manifest.taxonomy_file is None:
        return None
    try:
        return read_taxonomy(store, manifest.taxonomy_file)
    except (CollectionError, TaxonomyError) as error:
        raise IndexUnusable(str(error)) from None


def _contradiction(collection: Collection, what: str) -> IndexUnusable:
    return IndexUnusable(f"the index of {collection.uri} contradicts itself ({what}): {REMEDY}")
