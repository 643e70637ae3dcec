"""The index that is served, and its change to a newer version without a request noticing."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.catalog.enriched import EnrichedCatalog
from tagger.collection import Collection
from tagger.errors import IndexUnusable, TaggerError
from tagger.index import Index
from tagger.index.manifest import read_pointer
from tagger.index.opened import require_pointer
from tagger.index.words import CATEGORY, TAG
from tagger.scheduling import give_way
from tagger.serve.decisions import Decisions
from tagger.serve.explain import Explainer
from tagger.serve.images import Renderer
from tagger.serve.pictures import PictureQueue
from tagger.serve.problems import Refused
from tagger.serve.products import Products, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy.typing as npt

    from tagger.serve.metrics import Metrics
    from tagger.serve.options import ServeOptions
    from tagger.settings import Settings
    from tagger.storage import StorageOptions

_log = logging.getLogger("tagger.serve")

_TABLE_S: Final = 30.0  # how often it is looked whether the table has become newer than the index
_BACKGROUND_THREADS: Final = 8  # which mostly wait for storage
_WARM_UP: Final = 3  # queries, so that the first caller does not pay for reading pages and starting threads


@dataclass(frozen=True)
class Loaded:
    """One version of the index with what belongs to it. A request keeps the one it began with.

    Attributes:
        collection: As it was when the version was loaded.
        index: The version.
        tags: Words for completion: lower-case spelling, word, parent, count; most frequent first.
        at: When it was loaded, seconds since 1970.
    """

    collection: Collection
    index: Index
    tags: tuple[tuple[str, str, str | None, int], ...]
    at: float

    @classmethod
    def load(cls, collection: Collection, settings: Settings) -> Loaded:
        """Open what is current of a collection, and ask it a few questions.

        Raises:
            TaggerError: It cannot be used, or the store does not answer.
        """
        index = Index.open(collection, settings)
        for query in index.vectors.take(index.ids.slots[:_WARM_UP]):
            index.ranking(query[None]).first(10)
        return cls(collection, index, _completions(index), time.time())

    def about(self, table_version: int) -> dict[str, Any]:
        """Return what GET /v1/collection says of it, when the table is at this version."""
        manifest = self.index.manifest
        created = datetime.fromisoformat(manifest.created_at)
        created = created if created.tzinfo else created.replace(tzinfo=UTC)
        return {
            "name": self.collection.uri.rstrip("/").rpartition("/")[2],
            "model": manifest.model,
            "model_id": manifest.model_id,
            "dim": manifest.dim,
            "images": manifest.count,
            "tags": len(self.tags),
            "index_version": manifest.version,
            "index_kind": manifest.kind,
            "recall_at_10": manifest.recall_at_10,
            "indexed_at": created.isoformat(),
            "age_s": round(max(0.0, time.time() - created.timestamp()), 3),
            "behind": manifest.behind(table_version),
        }

    def image(self, image_id: str) -> dict[str, Any]:
        """Return what is known of an image.

        Raises:
            UnknownName: It is not in the index.
        """
        index = self.index
        places = self._places(image_id)
        facts = index.ids.facts(int(places[0]))
        tags, categories, colors = (
            index.words.of(name, places)[0] for name in ("tags", "categories", "colors")
        )
        return {
            "image_id": image_id,
            "width_px": facts["width_px"],
            "height_px": facts["height_px"],
            "tagged_at": facts["tagged_at"].isoformat(),
            "tags": [{**tag, "parents": index.vocabulary.parents(tag["tag"])} for tag in tags],
            "categories": [{**tag, "parents": index.vocabulary.parents(tag["tag"])} for tag in categories],
            "colors": colors,
        }

    def address(self, image_id: str) -> tuple[str, str | None]:
        """Return the uri of an image and the etag of the version that was tagged.

        Raises:
            UnknownName: It is not in the index.
        """
        facts = self.index.ids.facts(int(self._places(image_id)[0]))
        return facts["uri"] or image_id, facts["etag"]

    def _places(self, image_id: str) -> npt.NDArray[np.int64]:
        """Return the one place of an image, shape (1,)."""
        return self.index.ids.places(np.array([self.index.slot(image_id)]))


def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return threads for work that the event loop must not wait for."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=give_way)


def _completions(index: Index) -> tuple[tuple[str, str, str | None, int], ...]:
    """Return every word with the number of images that have it or a descendant of it."""
    words = {*index.words.words(TAG), *index.words.words(CATEGORY)}
    for word in tuple(words):
        words.update(index.vocabulary.parents(word))
    counted = ((word, len(index.vocabulary.images(word))) for word in words)
    rows = [
        (word.casefold(), word, next(iter(index.vocabulary.parents(word)), None), count)
        for word, count in counted
        if count
    ]
    return tuple(sorted(rows, key=lambda row: (-row[3], row[1])))


class Served:
    """What every request is answered from. Threads share it.

    Args:
        uri: The collection.
        storage: How to reach it.
        settings: What the environment says.
        options: How it is served.
        metrics: Where it counts.
        turn: Entered while a newer version is loaded: processes that serve the same collection on one machine
            take turns, so that only one of them has two versions in memory.
    """

    def __init__(
        self,
        uri: str,
        *,
        storage: StorageOptions,
        settings: Settings,
        options: ServeOptions,
        metrics: Metrics,
        turn: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._uri = uri
        self._storage = storage
        self._turn = turn
        self._settings = settings
        self.options = options
        self.metrics = metrics
        self.cpus = settings.cpus
        self.workers = _pool(settings.cpus, "tagger-search")
        self.background = _pool(_BACKGROUND_THREADS, "tagger-images")
        self.heavy = _pool(1, "tagger-heavy")
        self.draining = False
        self._collection: Collection | None = None
        self._loaded: Loaded | None = None
        self.table_version = 0
        self._looked_at = time.monotonic()
        self._pictures: PictureQueue | None = None
        self._refused: object = None
        self._products: Products | None = None
        self._decisions: Decisions | None = None
        self._refused_catalog: object = None
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None
        self.images = Renderer(storage, metrics, cache_bytes=options.cache_bytes)
        self.explainer = Explainer(self.images, settings)

    @property
    def loaded(self) -> Loaded:
        """The version to answer from.

        Raises:
            Refused: 503, none is loaded yet.
        """
        if self._loaded is None:
            raise Refused(503, "the index is being loaded; try again in a moment", retry_after_s=1)
        return self._loaded

    @property
    def pictures(self) -> PictureQueue:
        """What turns uploaded pictures into embeddings.

        Raises:
            Refused: 503, the model is not loaded yet.
        """
        if self._pictures is None:
            raise Refused(503, "the model is being loaded; try again in a moment", retry_after_s=1)
        return self._pictures

    @property
    def products(self) -> Products:
        """The catalog's products.

        Raises:
            Refused: 404, no catalog is served; 503, it is not loaded yet.
        """
        if self.options.catalog is None:
            raise Refused(
                404,
                "no catalog is served here; start it with tagger serve COLLECTION --catalog ENRICHED.parquet",
            )
        if self._products is None:
            raise Refused(503, "the catalog is being loaded; try again in a moment", retry_after_s=1)
        return self._products

    @property
    def decisions(self) -> Decisions:
        """What was decided about them.

        Raises:
            Refused: 404, no catalog is served.
        """
        self.products  # noqa: B018 - tells that there is none
        assert self._decisions is not None
        return self._decisions

    def about_catalog(self) -> dict[str, Any] | None:
        """Return what GET /v1/collection says of the catalog; None if there is none."""
        if self._products is None or self._decisions is None:
            return None
        return {
            "name": self._products.name,
            "products": self._products.count,
            "written_at": datetime.fromtimestamp(self._products.at, UTC).isoformat(),
            "decisions": len(self._decisions),
        }

    @property
    def why_not_ready(self) -> str | None:
        """What keeps it from answering, in a word or two; None when it is ready."""
        if self.draining:
            return "shutting down"
        if self._loaded is None:
            return "loading the index"
        if self._products is None and self.options.catalog is not None:
            return "loading the catalog"
        return "loading the model" if self._pictures is None else None

    def require_usable(self) -> None:
        """See whether there is something to serve, before anybody is told that it is served.

        Raises:
            TaggerError: There is no collection or index, or the catalog or the decisions cannot be used.
        """
        self._collection = Collection.open(self._uri, self._storage)
        require_pointer(self._collection)
        if self.options.catalog is not None:
            EnrichedCatalog(self.options.catalog)
            assert self.options.decisions_file is not None
            self._decisions = Decisions(self.options.decisions_file)
            self.metrics.decisions.set(len(self._decisions))

    def load(self) -> None:
        """Load index and model side by side; then look for newer versions, in a thread of its own.

        Raises:
            TaggerError: One of them cannot be used.
        """
        began = time.monotonic()
        collection = self._collection or Collection.open(self._uri, self._storage)
        with ThreadPoolExecutor(1, thread_name_prefix="tagger-model") as pool:
            model = pool.submit(PictureQueue, collection.config, self._settings, self.options, self.metrics)
            self._serve(Loaded.load(collection, self._settings))
            if self.options.catalog is not None:
                self._serve_products(self.options.catalog)
            self._pictures = model.result()
        _log.info("ready after %.1f s", time.monotonic() - began)
        self._watcher = threading.Thread(target=self._watch, name="tagger-reload", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End every thread and child process."""
        self._stopped.set()
        if self._watcher is not None:
            self._watcher.join()
        for pool in (self.workers, self.background, self.heavy):
            pool.shutdown(cancel_futures=True)
        if self._pictures is not None:
            self._pictures.close()
        self.explainer.close()
        self.images.close()
        self._products = None
        if self._decisions is not None:
            self._decisions.close()

    def _serve_products(self, catalog: Path) -> None:
        began = time.monotonic()
        self._products = Products(catalog, self._settings)
        self.metrics.products.set(self._products.count)
        took = time.monotonic() - began
        _log.info("serving %d products of %s, read in %.1f s", self._products.count, catalog.name, took)

    def _serve(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.table_version = loaded.collection.table.version
        self.metrics.images.set(loaded.index.count)
        self.metrics.loaded_at.set(loaded.at)
        _log.info("serving version %s, %d images", loaded.index.manifest.version, loaded.index.count)

    def _watch(self) -> None:
        while not self._stopped.wait(self.options.reload_s):
            self.look_for_newer()
            self.look_for_newer_catalog()
            if time.monotonic() - self._looked_at > _TABLE_S:
                self._looked_at = time.monotonic()
                with contextlib.suppress(TaggerError):  # told when it is of consequence
                    self.table_version = Collection.open(self._uri, self._storage).table.version

    def look_for_newer(self) -> None:
        """Serve the newest version, if it is another one and can be used; else go on with this one."""
        assert self._loaded is not None
        pointer = None
        try:
            pointer = read_pointer(self._loaded.collection.store)
            if pointer is None or pointer == self._refused:
                return
            if pointer.version == self._loaded.index.manifest.version:
                return
            with self._turn():
                loaded = Loaded.load(Collection.open(self._uri, self._storage), self._settings)
        except TaggerError as error:
            self.metrics.reloads.labels("failed").inc()
            _log.warning("the new index cannot be served, the one before still is: %s", error)
            if isinstance(error, IndexUnusable):
                self._refused = pointer  # the same files stay unusable; another version is looked at
        except Exception:  # of one version that nobody foresaw: the thread must look at the next one
            self.metrics.reloads.labels("failed").inc()
            _log.exception("the new index cannot be served, the one before still is")
            self._refused = pointer
        else:
            self.metrics.reloads.labels("served").inc()
            self._serve(loaded)

    def look_for_newer_catalog(self) -> None:
        """Serve the catalog that took the place of the one that is served, if it can be used."""
        path = self.options.catalog
        if path is None or self._products is None:
            return
        signature = None
        try:
            signature = signature_of(path.stat())
            if signature not in (self._products.signature, self._refused_catalog):
                self._serve_products(path)
        except (OSError, TaggerError) as error:
            if signature is not None:
                self._refused_catalog = signature
                _log.warning("the new catalog cannot be served, the one before still is: %s", error)
        except Exception:  # as above
            self._refused_catalog = signature
            _log.exception("the new catalog cannot be served, the one before still is")
