"""Recommendations for every user of an events file, in one pass."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tagger.errors import UsageError
from tagger.index import Filter
from tagger.outfile import OutFile, refuse_to_overwrite
from tagger.search.choosing import Chooser, UserOptions
from tagger.search.events import Events
from tagger.settings import load_settings
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tagger.index import Index
    from tagger.search.choosing import Chosen
    from tagger.settings import Settings

SCHEMA: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        ("because", pa.string()),
    ]
)

MOST_K: Final = 1000

_USERS: Final = 1024  # whose images are searched for together
_MEMORY_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """What `recommend_users` did.

    Attributes:
        out: The file it wrote.
        users: Users in it.
        rows: Its rows.
        cold: Users of whom no liked image is known, and who got what is popular.
        events: Events in the file.
        unknown: Events whose image is not in the index, or whose product has none there.
        incomplete: Events without a user, or without an image and a product.
    """

    out: str
    users: int
    rows: int
    cold: int
    events: int
    unknown: int
    incomplete: int

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger recommend --events --json` prints."""
        return asdict(self)


def recommend_users(
    index: Index,
    events_path: str | Path,
    out_path: str | Path,
    *,
    k: int = 10,
    products: str | Path | None = None,
    filter: Filter | Mapping[str, Any] | None = None,  # noqa: A002 - the word of the API
    options: UserOptions = UserOptions(),  # noqa: B008 - frozen
    say: Callable[[str], None] = lambda _: None,
    settings: Settings | None = None,
) -> Recommended:
    """Write up to `k` recommendations for every user of an events file.

    For each user:

    1. The liked images, at most the 50 with the greatest weight, are split into at most three interests
       (see `split_interests`). The profile of each is its mean, weighted by events and recency (see
       `Events`), less half the mean of the disliked images (Rocchio, Relevance Feedback in Information
       Retrieval, 1971).
    2. Candidates are the images nearest to these profiles, and those that others like together with what
       the user likes (see `Together`): `options.candidates` of each. The filter and what the user has seen,
       liked or disliked are left out before anything is counted.
    3. Relevance is (1 - blend) · likeness + blend · behaviour. Both are scaled to [0, 1] for the user:
       likeness from the cosine of the last candidate of an interest, 0, to that of its first, 1, times the
       root of the weight of the interest beside that of the user's greatest, and the greatest over the
       interests; behaviour by the greatest sum of strengths. For a user whose images nobody shares, it is
       likeness alone.
    4. Of images that show one picture the most relevant is kept, and none that shows one of the user's: of
       the 50 liked and 50 disliked that count most, and the 200 seen last.
    5. Maximal marginal relevance chooses among the `10 k` that are left.

    A user of whom no liked image is known gets what is popular (see `Events.popularity`), by the same filter,
    folded, without what they have seen and copies of it; and where that is not enough, images that nobody has
    touched yet.

    The file has the columns user_id, rank (from 1), image_id, score and because, ordered by user_id and rank.
    `score` is the relevance of step 3, or for users without a liked image the popularity, both in [0, 1]; it
    compares images of one user and not users, and does not fall from rank to rank, because diversity moves
    images. `because` is the liked image with the best reason: the same blend of its cosine to the recommended
    one and the strength of the pair; null for what is popular.

    In a CSV file, a cell that a spreadsheet would run as a formula (it begins with =, +, -, @, tab or
    carriage return) gets an apostrophe in front. Where such ids exist and a program is to join the file,
    write Parquet, which has every id as it is.

    The same index, events and options give the same bytes on the same machine. The file appears when it is
    complete, and a file that was there stays until then.

    Args:
        index: What to recommend from.
        events_path: CSV or Parquet; see `Events`.
        out_path: File to write, `.csv` or `.parquet`.
        k: Most recommendations for a user, from 1 to 1,000.
        products: CSV or Parquet with product_id and image_id, for events that name products; only the first
            image of each product is recommended then.
        filter: Which images may be recommended.
        options: How they are chosen.
        say: Takes a line at a time for the person who waits.
        settings: What the environment says; read if not given.

    Raises:
        UsageError: A file or an option cannot be used, the output is a file that is read, or the filter names
            an unknown word.
        RunError: The disk is full.
    """
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MOST_K:
        raise UsageError(f"k must be a whole number from 1 to {MOST_K:,}, got {k!r}")
    refuse_to_overwrite(out_path, events=events_path, products=products)
    settings = settings or load_settings()
    asked = Filter.of(filter)
    index.allowed(asked)  # an unknown word is told before the events are read
    with (
        OutFile(Path(out_path), SCHEMA) as out,
        spill_folder(settings.cache_dir, f"events-{uuid.uuid4().hex}") as folder,
    ):
        say("reading the events")
        with Events(
            index,
            Path(events_path),
            options=options.events,
            products=None if products is None else Path(products),
            folder=folder,
            memory_bytes=_MEMORY_BYTES,
            threads=settings.cpus,
        ) as events:
            say(f"{events.events:,} events of {events.users:,} users")
            if events.unknown:
                say(f"{events.unknown:,} events name an image that is not in the index")
            say("counting what is liked together")
            chooser = Chooser(index, events, asked, k, options, threads=settings.cpus)
            done = 0
            for tastes in events.batches(_USERS):
                out.write(_table(index, tastes.user_ids, chooser.choose(tastes)))
                done += len(tastes.user_ids)
                say(f"{done:,} of {events.users:,} users")
            out.publish()
    return Recommended(
        out=str(out_path),
        users=events.users,
        rows=out.rows,
        cold=chooser.cold,
        events=events.events,
        unknown=events.unknown,
        incomplete=events.incomplete,
    )


def _table(index: Index, user_ids: Sequence[str], lists: Sequence[Chosen]) -> pa.Table:
    """Return the rows of some users."""
    lengths = [len(one.slots) for one in lists]
    because = np.concatenate([np.empty(0, np.int64), *(one.because for one in lists)])
    slots = np.concatenate([np.empty(0, np.int64), *(one.slots for one in lists)])
    scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one in lists)])
    known = because >= 0
    reasons = index.ids.take_ids(because[known])
    places = pa.array(np.where(known, np.cumsum(known) - 1, 0), mask=~known)
    columns = [
        pa.array(user_ids, pa.string()).take(pa.array(np.repeat(np.arange(len(lists)), lengths))),
        pa.array(
            np.concatenate([np.empty(0, np.int32), *(np.arange(1, n + 1) for n in lengths)]), pa.int32()
        ),
        index.ids.take_ids(slots).cast(pa.string()),
        pa.array(np.round(scores, 6), pa.float32()),
        reasons.take(places).cast(pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
