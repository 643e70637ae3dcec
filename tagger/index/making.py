"""`tagger index`: builds, updates or leaves alone, and publishes."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from tagger.collection import Collection, new_run_id
from tagger.errors import IndexUnusable, UsageError
from tagger.index.building import build, fill_here, remove_files
from tagger.index.manifest import CURRENT_NAME, Manifest, Pointer, kind_of, read_manifest, read_pointer
from tagger.index.publish import publish
from tagger.index.updating import is_current, update
from tagger.settings import Settings, load_settings
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tagger.index.building import FillAll

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
        UsageError: The kind is unknown, or the collection has no tagged image.
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
    if held is not None and kind not in ("auto", held.kind):
        say(f"the index is {held.kind}: building it anew as {kind}")
        held = None
    if held is not None and is_current(collection, held):
        return Indexed.of(held, "unchanged", time.monotonic() - started)
    _use_cpus(settings.cpus)
    with ExitStack() as stack:
        folder = stack.enter_context(spill_folder(settings.cache_dir, f"index-{new_run_id()}"))
        made: Manifest | str | None = None
        how: How = "updated"
        if held is not None:
            made = update(collection, held, folder=folder, cache=settings.cache_dir, say=say, started=started)
            if isinstance(made, str):
                say(f"building it anew: {made}")
        if not isinstance(made, Manifest):
            how = "built"
            made = build(
                collection,
                kind=None if kind == "auto" else kind_of(kind),
                memory_bytes=_memory_bytes(),
                folder=folder,
                fill_all=_fill(collection, folder, address, settings, stack),
                say=say,
                started=started,
            )
        try:
            published = publish(collection.store, made, before)
        except BaseException:
            remove_files(collection.store, made.files, made.version)
            raise
    return Indexed.of(published, how, time.monotonic() - started)


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


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
