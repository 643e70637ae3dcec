"""Updating an index: what is new in the tags table goes in, what is gone comes out, by stable slots.

An image keeps its slot while its row does. One that was tagged again gets a new slot, and the old one stays
empty. Vectors of older versions stay in their files; codes, ids and words are written anew, which is cheap.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.index.building import CODES_NAME, PROBE_NAME, Content, heads_of, write
from tagger.index.codes import FLAT_MOST, Codes
from tagger.index.files import Shelf
from tagger.index.filling import fill, no_rows, scan
from tagger.index.ids import IDS_NAME, changes, read_ids
from tagger.index.probe import Probe
from tagger.index.words import (
    COLUMNS,
    POSTINGS_NAME,
    WORDS_NAME,
    Speech,
    hear,
    join_speech,
    read_arrow,
    read_speech,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tagger.collection import Collection
    from tagger.index.manifest import Manifest
    from tagger.index.vectors import Slots

_GROWN: Final = 2.0  # times the images it was trained with: the lists get long, and fewer would be better
_SHRUNK: Final = 0.25
_EMPTY: Final = 0.3  # share of slots without an image
_MOST_SEGMENTS: Final = 16  # of a collection so small that files fill up with empty places
_DRIFT: Final = 1.5
_SHARE_THAT_DRIFTS: Final = 0.02  # of the images must be new for their drift to say anything
_WIDE: Final = 0.25  # share of the lists looked into above which other lists would be better


def is_current(collection: Collection, held: Manifest) -> bool:
    """Tell whether an index shows the table as it is, with the words it has now."""
    return held.table_version == collection.table.version and _same_words(collection, held)


def _same_words(collection: Collection, held: Manifest) -> bool:
    return held.serial == collection.config.tagging.serial and held.heads == heads_of(collection.store)


def update(
    collection: Collection,
    held: Manifest,
    version: str,
    *,
    folder: Path,
    cache: Path,
    say: Callable[[str], None],
    started: float,
) -> Manifest | str:
    """Make a version from the served one; store its files; it is not served yet.

    Args:
        collection: Opened at the version of its table that the index is to show.
        held: The served version.
        version: The name of the new one.
        folder: For temporary files.
        cache: Where files of remote collections are kept.
        say: Takes a line at a time for the person who waits.
        started: When the work began, on the monotonic clock.

    Returns:
        The manifest, or a sentence that says why it has to be built anew instead.

    Raises:
        IndexUnusable: A file of the served version is damaged.
    """
    shelf = Shelf(collection.store, cache)

    def load_codes() -> Codes | None:
        return None if held.kind == "flat" else Codes.from_bytes(shelf.open(held.file(CODES_NAME)))

    with ThreadPoolExecutor(2) as pool:  # what waits for disks and decoders, side by side
        reading_ids = pool.submit(lambda: read_ids(shelf.open(held.file(IDS_NAME))))
        loading = pool.submit(load_codes)
        rows = _rows_of(collection)
        ids = reading_ids.result()
        fresh, gone = changes(ids, rows, folder)
        codes = loading.result()
    count = len(rows)
    why = _why_anew(held, count=count, added=len(fresh), gone=len(gone))
    if why is not None:
        return why
    say(f"{len(fresh):,} images to add, {len(gone):,} to take out")
    slots: Slots = ids.column("slot").to_numpy()
    dead = np.zeros(held.slots, np.bool_)
    dead[slots[gone.to_numpy()]] = True

    probe = Probe.of([], np.empty((0, held.dim), np.float32))
    if not (len(fresh) or len(gone)):
        codes = None  # the same images: as they are
    if codes is not None:
        codes.remove(np.flatnonzero(dead), held.slots)
        probe = Probe.from_table(read_arrow(shelf.open(held.file(PROBE_NAME)))).without(dead)
    wanted = rows.take(fresh)
    filled = fill(
        collection.store,
        _only(collection, wanted),
        version=version,
        start=held.slots,
        dim=held.dim,
        codes=codes,
        probe=probe,
        folder=folder,
    )
    if len(filled.slots) != len(fresh):
        return "rows of the table changed while they were read"
    drift = filled.spread / max(1, len(filled.slots)) / held.trained_spread if held.trained_spread else 1.0
    if len(fresh) > _SHARE_THAT_DRIFTS * count and drift > _DRIFT:
        return f"new images are {drift:.1f} times as far from the centres of their lists as older ones"
    kept = np.flatnonzero(~dead[slots])
    kept = kept[np.argsort(slots[kept], kind="stable")]
    survivors = ids.take(kept)
    older = (
        {name: spoken.take(kept) for name, spoken in _old_words(shelf, held).items()}
        if _same_words(collection, held)
        else _words_of(collection, survivors.column("image_id"))
    )
    segments, entries = list(held.segments), [held.file(segment.file) for segment in held.segments]
    if filled.entry is not None:
        segments.append(filled.segment)
        entries.append(filled.entry)
    content = Content(
        pa.concat_tables([survivors.drop_columns(["slot"]), filled.facts]),
        {name: join_speech([older[name], filled.speech[name]]) for name in COLUMNS},
        np.concatenate([slots[kept], filled.slots]),
        tuple(segments),
        tuple(entries),
        codes,
        filled.probe,
        held.trained_spread,
    )
    made = write(
        collection,
        content,
        kind=held.kind,
        version=version,
        folder=folder,
        started=started,
        say=say,
        older=held,
        drift=drift if len(fresh) else held.drift,
    )
    if codes is not None and made.nprobe > max(8, _WIDE * codes.lists) and made.nprobe > held.nprobe:
        return f"a recall of .95 now takes {made.nprobe} of {codes.lists} lists"
    return made


def _why_anew(held: Manifest, *, count: int, added: int, gone: int) -> str | None:
    """Say why an update would not do, before it is tried; docs/guide.md states these rules."""
    if held.kind == "flat":
        if count > FLAT_MOST and held.trained_count == 0 and held.count <= FLAT_MOST:
            return f"{count:,} images are more than an exact search should look at"
    elif count > _GROWN * held.trained_count or count < _SHRUNK * held.trained_count:
        return f"there were {held.trained_count:,} images when it was trained, and there are {count:,} now"
    slots = held.slots + added
    empty = held.slots - held.count + gone
    if empty > _EMPTY * slots and (empty > FLAT_MOST or len(held.segments) > _MOST_SEGMENTS):
        return f"{empty:,} of {slots:,} places for vectors are empty"
    return None


def _rows_of(collection: Collection) -> pa.Table:
    """Return image_id, etag, tagged_at and part of every tagged image."""
    columns = ["image_id", "etag", "tagged_at", "status"]
    batches = [
        batch.filter(pc.equal(batch.column("status"), "tagged")).drop_columns(["status"])
        for batch in collection.table.scan(columns, part_column=True, batch_rows=65_536)
    ]
    if not batches:
        from tagger.collection import SCHEMA

        schema = pa.schema([SCHEMA.field(name) for name in columns[:-1]]).append(
            pa.field("part", pa.string())
        )
        return schema.empty_table()
    return pa.Table.from_batches(batches)


def _only(collection: Collection, wanted: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some images, of those parts only that hold one."""
    if not len(wanted):
        return
    by_part: dict[str, list[int]] = {}
    for place, part in enumerate(wanted.column("part").to_pylist()):
        by_part.setdefault(part, []).append(place)
    ids = wanted.column("image_id").combine_chunks()
    for part, places in by_part.items():
        mine = ids.take(pa.array(places))
        for batch in scan(collection.table, [part]):
            rows = batch.filter(pc.is_in(batch.column("image_id"), value_set=mine))
            if rows.num_rows:
                yield rows


def _old_words(shelf: Shelf, held: Manifest) -> Speech:
    words = read_arrow(shelf.open(held.file(WORDS_NAME)))
    return read_speech(words, read_arrow(shelf.open(held.file(POSTINGS_NAME))))


def _words_of(collection: Collection, image_ids: pa.ChunkedArray) -> Speech:
    """Return the words of images from the table, in the order of `image_ids`."""
    ids, speeches = [], [hear(no_rows())]
    for batch in collection.table.scan(["image_id", *COLUMNS], batch_rows=65_536):
        ids.append(batch.column("image_id"))
        speeches.append(hear(batch))
    places = pc.index_in(image_ids, value_set=pa.chunked_array(ids, pa.string()).combine_chunks())
    order = places.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    return {name: join_speech([one[name] for one in speeches]).take(order) for name in COLUMNS}
