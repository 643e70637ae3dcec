"""`duplicates --against SOURCE`: which of some new images a collection has already, before tagging."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tagger.errors import UsageError
from tagger.outfile import out_file, refuse_to_overwrite
from tagger.search.duplicates import KINDS, NEAR_COSINE, check, hash_bits, kinds_of
from tagger.search.fold import HASH_BITS
from tagger.search.hashes import Hashes, mirrored
from tagger.search.picture import prepared_for
from tagger.settings import load_settings
from tagger.spill import spill_folder
from tagger.storage import StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tagger.engine.fetch import Fetcher
    from tagger.index import Index
    from tagger.index.vectors import Floats
    from tagger.search.collection import Collection
    from tagger.search.duplicates import Kind, Places

SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        ("match", pa.string()),
        ("cosine", pa.float32()),
        ("detail", pa.string()),
    ]
)
"""`verdict` is `bytes`, `picture` or `near`, with the image of the collection that it is a copy of; `new`; or
`failed`, and then `detail` says why."""

NEW, FAILED = "new", "failed"
_NEIGHBOURS: Final = 8
_MOST_HASHED: Final = 64  # images with near hashes that an incoming one is compared with
_SHOWN: Final = 20
_CHUNK_ROWS: Final = (32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What was found.

    Attributes:
        images: Images under the source.
        known: Those that the collection has already, by kind.
        new: Those it has not.
        failed: Those that could not be read or decoded.
        out: The file that was written, if one was asked for.
        first: The first rows of images that it has.
    """

    images: int
    known: dict[str, int]
    new: int
    failed: int
    out: str | None
    first: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger duplicates --against --json` prints."""
        return asdict(self)


def compare(
    collection: Collection,
    source: str,
    out: str | Path | None = None,
    *,
    kind: Kind = "near",
    min_cosine: float = NEAR_COSINE,
    storage: StorageOptions | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Incoming:
    """Compare the images of a source with a collection; neither is changed.

    Each image is read, decoded and seen by the model, as for tagging; the rules are those of
    `find_duplicates`.

    Args:
        collection: With an index.
        source: As for `tag`.
        out: File to write, `.csv` or `.parquet`: one row an image, in the order they are listed.
        kind: The weakest kind that counts.
        min_cosine: For `near`: least cosine of two embeddings.
        storage: How to reach the source.
        say: Takes a line at a time for the person who waits.

    Raises:
        UsageError: The source or the output file cannot be used.
        ModelError: The collection's model is not to be had here.
        IndexUnusable: There is no index.
        StoreUnavailable: The source does not answer.
        RunError: The disk is full.
    """
    check(kind, min_cosine)
    if out is not None:
        refuse_to_overwrite(out, source=source)
    counts = dict.fromkeys((*KINDS, NEW, FAILED), 0)
    first: list[dict[str, Any]] = []

    with out_file(out, SCHEMA) as file:
        compared = _Compared(collection.opened_index(), kind, min_cosine)
        for rows, embeddings in _seen(collection, source, storage or StorageOptions()):
            told = compared.rows(rows, embeddings)
            for one in told:
                counts[one["verdict"]] += 1
            if len(first) < _SHOWN:
                first.extend(one for one in told if one["match"] is not None)
            if file is not None:
                file.write(pa.Table.from_pylist(told, SCHEMA))
            say(f"{sum(counts.values()):,} images compared")
    return Incoming(
        images=sum(counts.values()),
        known={name: counts[name] for name in KINDS},
        new=counts[NEW],
        failed=counts[FAILED],
        out=None if out is None else str(out),
        first=first[:_SHOWN],
    )


class _Compared:
    """Finds the copies of an image in an index."""

    def __init__(self, index: Index, kind: Kind, min_cosine: float) -> None:
        self._index = index
        self._weakest = KINDS.index(kind)
        self._min_cosine = min_cosine
        places = np.flatnonzero(index.ids.has_phash)
        order = np.argsort(index.ids.phash[places], kind="stable")
        self._places = places[order]
        self._values, self._starts = np.unique(index.ids.phash[self._places], return_index=True)
        self._hashes = Hashes(self._values)
        content = index.ids.content
        self._by_content = np.argsort(content, kind="stable")
        self._contents = content[self._by_content]

    def rows(self, rows: pa.Table, embeddings: Floats) -> list[dict[str, Any]]:
        """Return rows of `SCHEMA`.

        Args:
            rows: As `Fetcher` gives them.
            embeddings: Of those that did not fail, in their order, shape (N, D).
        """
        facts = rows.select(["image_id", "sha256", "phash", "error", "error_detail"]).to_pylist()
        good = [one for one in facts if one["error"] is None]
        matches = iter(self._matches(good, embeddings) if good else [])
        told = []
        for one in facts:
            if one["error"] is not None:
                verdict, match, cosine = FAILED, None, None
            else:
                verdict, match, cosine = next(matches)
            detail = None if one["error"] is None else f"{one['error']}: {one['error_detail']}"
            told.append(
                {
                    "image_id": one["image_id"],
                    "verdict": verdict,
                    "match": match,
                    "cosine": cosine,
                    "detail": detail,
                }
            )
        return told

    def _matches(
        self, facts: list[dict[str, Any]], embeddings: Floats
    ) -> list[tuple[str, str | None, float | None]]:
        ids = self._index.ids
        _, slots = self._index.nearest(embeddings, min(_NEIGHBOURS, self._index.count))
        hashes = np.array([int(one["phash"], 16) for one in facts], np.uint64)
        plain, turned = self._near(hashes, HASH_BITS), self._near(mirrored(hashes), HASH_BITS + 1)
        found: list[tuple[str, str | None, float | None]] = []
        for n, one in enumerate(facts):
            content = np.uint64(int(one["sha256"][:16], 16))
            at = int(np.searchsorted(self._contents, content))
            candidates = [ids.places(slots[n][slots[n] >= 0]), plain.get(n, _NONE), turned.get(n, _NONE)]
            if at < len(self._contents) and self._contents[at] == content:
                candidates.append(self._by_content[at : at + 1])
            place = np.unique(np.concatenate(candidates))
            cosine = self._index.vectors.take(ids.slots[place]) @ embeddings[n]
            kinds = kinds_of(
                ids.content[place] == content,
                hash_bits(self._index, place, hashes[n]),
                hash_bits(self._index, place, mirrored(hashes[n])),
                cosine,
                self._min_cosine,
            )
            fits = np.flatnonzero(kinds <= self._weakest)
            if not len(fits):
                found.append((NEW, None, None))
                continue
            best = fits[np.lexsort((-cosine[fits], kinds[fits]))[0]]
            name = ids.image_ids(ids.slots[place[best : best + 1]])[0]
            found.append((KINDS[int(kinds[best])], name, float(cosine[best])))
        return found

    def _near(self, hashes: Any, bits: int) -> dict[int, Places]:
        """Return the places with near hashes by query, at most `_MOST_HASHED` of each."""
        queries, values = self._hashes.near(hashes, bits)
        ends = np.append(self._starts[1:], len(self._places))
        found: dict[int, list[Places]] = {}
        for query, value in zip(queries.tolist(), values.tolist(), strict=True):
            some = self._places[self._starts[value] : min(ends[value], self._starts[value] + _MOST_HASHED)]
            found.setdefault(query, []).append(some)
        return {query: np.concatenate(some)[:_MOST_HASHED] for query, some in found.items()}


_NONE: Final = np.empty(0, np.int64)


def _seen(collection: Collection, source: str, storage: StorageOptions) -> Iterator[tuple[pa.Table, Floats]]:
    """Yield the rows of a source chunk by chunk, with the embeddings of those that did not fail.

    A chunk is fetched and decoded while the model looks at the one before.
    """
    from tagger.engine.blocks import array_of, pack, table_of
    from tagger.engine.fetch import Fetcher, FetchSettings
    from tagger.engine.plan import plan_chunks
    from tagger.models import load
    from tagger.source import open_source
    from tagger.vision import DecodeLimits

    settings = load_settings()
    listing = open_source(source, options=storage, leave_out=collection.uri)
    prepared = prepared_for(collection.config, settings)
    model = load(prepared, prepared.payload(), threads=settings.cpus)
    side = prepared.framing.size_px
    fetcher: Fetcher = Fetcher(
        FetchSettings(options=storage, framings=(prepared.framing,), limits=DecodeLimits())
    )

    def fetched(chunk: pa.Table) -> tuple[pa.Table, Any]:
        block = fetcher(pack(0, rows=chunk))
        rows = table_of(block, "rows")
        return rows, array_of(block, "pixels_0", (rows.num_rows, side, side, 3))

    with (
        spill_folder(settings.cache_dir, f"against-{uuid.uuid4().hex}") as spill,
        plan_chunks(listing.batches(), None, spill_dir=spill, chunk_rows=_CHUNK_ROWS) as plan,
        ThreadPoolExecutor(1, thread_name_prefix="tagger-fetch") as ahead,
    ):
        try:
            chunk = next(plan, None)
            if chunk is None:
                raise UsageError(f"there is no image under {listing.uri}: check the address")
            coming: Future[tuple[pa.Table, Any]] | None = ahead.submit(fetched, chunk)
            while coming is not None:
                rows, pixels = coming.result()
                chunk = next(plan, None)
                coming = None if chunk is None else ahead.submit(fetched, chunk)
                good = np.flatnonzero(rows.column("error").is_null().to_numpy())
                yield (
                    rows,
                    model.embeddings(pixels[good]) if len(good) else np.empty((0, prepared.dim), np.float32),
                )
        finally:
            fetcher.close()
