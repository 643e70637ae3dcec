"""The groups of duplicates of a collection as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger.outfile import out_file
from tagger.search.duplicates import KINDS, NEAR_COSINE, find_duplicates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tagger.index import Index
    from tagger.index.vectors import Floats
    from tagger.search.collection import Collection
    from tagger.search.duplicates import Groups, Kind, Places

SCHEMA: Final = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("best", pa.bool_(), nullable=False),
        ("kind", pa.string()),
        pa.field("cosine", pa.float32(), nullable=False),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("sharpness", pa.float32()),
    ]
)
"""`kind` and `cosine` are of the image and the best of its group; `kind` is null for the best."""

_BLOCK: Final = 65_536
_SHOWN: Final = 10
_SHOWN_ROWS: Final = 6  # of a group: crowds have thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What was found.

    Attributes:
        groups: Groups of two images and more.
        images: Images in them.
        kinds: By kind, the images that are a copy of their group's best.
        out: The file that was written, if one was asked for.
        largest: The largest groups: how many images, and the first rows, as in the file.
    """

    groups: int
    images: int
    kinds: dict[str, int]
    out: str | None
    largest: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger duplicates --json` prints."""
        return asdict(self)


def duplicates(
    collection: Collection,
    out: str | Path | None = None,
    *,
    kind: Kind = "near",
    min_cosine: float = NEAR_COSINE,
    say: Callable[[str], None] = lambda _: None,
) -> Duplicates:
    """Group the images of a collection that are one picture; see `tagger.search.duplicates`.

    Args:
        collection: With an index.
        out: File to write, `.csv` or `.parquet`: one row an image of a group, the best of each first.
        kind: The weakest kind that counts: bytes, picture or near.
        min_cosine: For `near`: least cosine of two embeddings.
        say: Takes a line at a time for the person who waits.

    Raises:
        UsageError: The output file cannot be used.
        QueryError: `kind` or `min_cosine` is wrong.
        IndexUnusable: There is no index.
        RunError: The disk is full.
    """
    with out_file(out, SCHEMA) as file:
        index = collection.opened_index()
        sharpness = measured(index, collection, "sharpness")
        groups = find_duplicates(
            index,
            sharpness,
            kind=kind,
            min_cosine=min_cosine,
            say=lambda done, of: say(f"{done:,} of {of:,} images compared"),
        )
        places = groups.grouped
        leads = groups.kind[places] < 0
        number: Places = np.cumsum(leads, dtype=np.int64)
        if file is not None:
            for start in range(0, len(places), _BLOCK):
                some = slice(start, start + _BLOCK)
                file.write(_rows(index, groups, places[some], number[some], sharpness))
    sizes = np.bincount(number, minlength=1)[1:]
    starts = np.cumsum(sizes) - sizes
    largest = []
    for group in np.argsort(-sizes, kind="stable")[:_SHOWN].tolist():
        some = slice(starts[group], starts[group] + min(int(sizes[group]), _SHOWN_ROWS))
        rows = _rows(index, groups, places[some], number[some], sharpness)
        largest.append({"images": int(sizes[group]), "rows": rows.to_pylist()})
    counts = np.bincount(groups.kind[places][~leads], minlength=len(KINDS))
    return Duplicates(
        groups=int(leads.sum()),
        images=len(places),
        kinds=dict(zip(KINDS, counts.tolist(), strict=True)),
        out=None if out is None else str(out),
        largest=largest,
    )


def _rows(index: Index, groups: Groups, places: Places, number: Places, sharpness: Floats) -> pa.Table:
    kinds = groups.kind[places]
    columns = [
        pa.array(number, pa.int64()),
        index.ids.take_ids(index.ids.slots[places]).cast(pa.string()),
        pa.array(kinds < 0),
        pa.array(KINDS).take(pa.array(np.maximum(kinds, 0).astype(np.int64), mask=kinds < 0)),
        pa.array(groups.cosine[places], pa.float32()),
        *(index.ids.column(name).take(pa.array(places)) for name in ("width_px", "height_px")),
        pa.array(sharpness[places], pa.float32(), from_pandas=True),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def measured(index: Index, collection: Collection, name: str) -> Floats:
    """Return a measurement of the tags table by place of the index; NaN where the table has none."""
    values = np.full(len(index.ids), np.nan, np.float32)
    rows = collection.tags(["image_id", name]).read_all()
    place = pc.index_in(rows.column("image_id"), value_set=index.ids.column("image_id").combine_chunks())
    known = place.is_valid().to_numpy()
    values[place.drop_null().to_numpy()] = rows.column(name).to_numpy()[known]
    return values
