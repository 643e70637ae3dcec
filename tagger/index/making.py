"""`tagger index`: builds, updates or leaves alone, and publishes."""

from __future__ import annotations

import contextlib
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from tagger.collection import Collection, new_run_id
from tagger.errors import IndexUnusable, RunError, UsageError
from tagger.index.building import build, fill_here
from tagger.index.codes import effective_kind
from tagger.index.files import Shelf
from tagger.index.manifest import (
    CURRENT_NAME,
    INDEX_FOLDER,
    Manifest,
    Pointer,
    read_manifest,
    read_pointer,
)
from tagger.index.publish import publish
from tagger.index.updating import is_current, update
from tagger.settings import Settings, load_settings, memory_bytes
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tagger.index.building import FillAll
    from tagger.index.manifest import Kind
    from tagger.storage import Store

KINDS = ("auto", "flat", "ivf", "ivf-pq")

How = Literal["built", "updated", "unchanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What `index` did.

    Attributes:
        version: The version that is served.
        kind: How vectors are searched: `flat`, `ivf` or `ivf-pq`.
        count: Images in it.
        dim: Length of an embedding.
        recall_at_10: Share of the ten exact neighbours that a query finds.
        seconds: Wall time.
        bytes: Size of its files.
        table_version: Version of the tags table that it shows.
        how: `built`, `updated` or `unchanged`.
    """

    version: str
    kind: str
    count: int
    dim: int
    recall_at_10: float | None
    seconds: float
    bytes: int
    table_version: int
    how: How

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger index --json` prints."""
        return asdict(self)

    @classmethod
    def of(cls, manifest: Manifest, how: How, seconds: float) -> Indexed:
        """Return what is said of a version."""
        return cls(
            version=manifest.version,
            kind=manifest.kind,
            count=manifest.count,
            dim=manifest.dim,
            recall_at_10=manifest.recall_at_10,
            seconds=round(seconds, 3),
            bytes=manifest.size_bytes,
            table_version=manifest.table_version,
            how=how,
        )


def index(
    collection: Collection,
    *,
    kind: str = "auto",
    rebuild: bool = False,
    address: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    settings: Settings | None = None,
) -> Indexed:
    """Bring the index of a collection up to its tags table, and serve it.

    Only what changed since the served version is read. It is built anew where there is none, where another
    kind is asked for, where `rebuild` says so, and where it has grown or drifted too far from what it was
    trained with.

    Args:
        collection: What to index; its table is taken at its newest version.
        kind: `flat`, `ivf`, `ivf-pq`, or `auto` for the one that suits the number of images.
        rebuild: Build it anew in any case.
        address: Ray cluster whose tasks fill it, `local` for one on this machine; None fills it in this
            process.
        say: Takes a line at a time for the person who waits.
        settings: What the environment says; read if not given.

    Raises:
        UsageError: The kind is unknown.
        IndexUnusable: The served index is damaged or of another model.
        RunError: A part cannot be read, or the disk is full; the served version stays.
    """
    started = time.monotonic()
    if kind not in KINDS:
        raise UsageError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    settings = settings or load_settings()
    address = address or settings.ray_address
    collection = Collection.open(collection.uri, collection.store.options)
    before, held = _served(collection, rebuild=rebuild)
    if held is not None:
        Shelf(collection.store, settings.cache_dir).require_sizes(held.files)
    if held is not None and kind != "auto" and effective_kind(cast("Kind", kind), held.count) != held.kind:
        say(f"the index is {held.kind}: building it anew as {kind}")
        held = None
    if held is not None and is_current(collection, held):
        return Indexed.of(held, "unchanged", time.monotonic() - started)
    _use_cpus(settings.cpus)
    version = new_run_id()
    try:
        made, how = _make(
            collection, held, kind, version, address=address, settings=settings, say=say, started=started
        )
    except BaseException as error:
        _discard(collection.store, version)
        if isinstance(error, OSError):
            where = error.filename or settings.cache_dir
            raise RunError(
                f"the index cannot be made: {error.strerror or error} ({where}); free some space there, or "
                "name another folder in TAGGER_CACHE. What was served is served on"
            ) from error
        raise
    # From here on nothing is taken back: a request that failed may have been carried out.
    published = publish(collection.store, made, before)
    return Indexed.of(published, how, time.monotonic() - started)


def _make(
    collection: Collection,
    held: Manifest | None,
    kind: str,
    version: str,
    *,
    address: str | None,
    settings: Settings,
    say: Callable[[str], None],
    started: float,
) -> tuple[Manifest, How]:
    with ExitStack() as stack:
        folder = stack.enter_context(spill_folder(settings.cache_dir, f"index-{version}"))
        if held is not None:
            updated = update(
                collection, held, version, folder=folder, cache=settings.cache_dir, say=say, started=started
            )
            if isinstance(updated, Manifest):
                return updated, "updated"
            say(f"building it anew: {updated}")
            _discard(collection.store, version)
        built = build(
            collection,
            version,
            kind=None if kind == "auto" else cast("Kind", kind),
            memory_bytes=memory_bytes(),
            folder=folder,
            fill_all=_fill(collection, folder, address, settings, stack),
            say=say,
            started=started,
        )
        return built, "built"


def _discard(store: Store, version: str) -> None:
    """Remove what a version that will not be published has stored. Never raises: leftovers do no harm."""
    with contextlib.suppress(Exception):
        store.delete(info.name for page in store.list(f"{INDEX_FOLDER}/{version}/") for info in page)


def _served(collection: Collection, *, rebuild: bool) -> tuple[Pointer | None, Manifest | None]:
    """Return what is served, and its manifest if it is to be updated."""
    try:
        before = read_pointer(collection.store)
    except IndexUnusable:
        if not rebuild:
            raise
        found = collection.store.head(CURRENT_NAME)
        return Pointer("", "", found.etag if found else None), None
    if before is None or rebuild:
        return before, None
    held = read_manifest(collection.store, before)
    held.require_model(collection.config.model_id, collection.config.dim, collection.uri)
    return before, held


def _fill(
    collection: Collection, folder: Path, address: str | None, settings: Settings, stack: ExitStack
) -> FillAll:
    if address is None:
        return fill_here(collection, folder)
    from tagger.index.parallel import fill_on_ray

    return stack.enter_context(fill_on_ray(collection, None if address == "local" else address, settings))


def _use_cpus(cpus: int) -> None:
    import faiss

    faiss.omp_set_num_threads(cpus)
