"""What customers did, from a file of events to how much each of them likes each image."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import duckdb
import numpy as np
import pyarrow as pa

from tagger.errors import RunError, UsageError
from tagger.search.eventfile import TableFile, column_or_null
from tagger.spill import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tagger.index import Index
    from tagger.index.vectors import Floats, Slots

WEIGHTS: Final = MappingProxyType(
    {
        **dict.fromkeys(("view", "view_item"), 1.0),
        **dict.fromkeys(("click", "select_item"), 2.0),
        **dict.fromkeys(("like", "favorite", "favourite", "add_to_wishlist"), 3.0),
        **dict.fromkeys(("add_to_cart", "begin_checkout"), 4.0),
        "purchase": 5.0,
        **dict.fromkeys(("dislike", "return", "refund"), -3.0),
    }
)
"""What an event says about liking, in the words of shops and of Google Analytics 4 (recommended events)."""

_MOST_WEIGHT: Final = 1_000_000.0
_LOAD_ROWS: Final = 262_144
_EVENT_COLUMNS: Final = ("user_id", "image_id", "product_id", "event", "timestamp", "weight")
_PRODUCT_COLUMNS: Final = ("product_id", "image_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """What events count.

    Attributes:
        weights: By the name of the event, beside or instead of those in `WEIGHTS`; upper case and whether
            words are joined by blanks, hyphens or underscores do not matter. The ratios count: a purchase
            says as much as five views. Below 0: the image was disliked, whatever else happened to it; 0: it
            was seen, and nothing is known. Change it where your events have other names, or where a view is
            all you have.
        half_life_days: Days after which an event counts half, from the newest event of the file backwards, so
            that the same file gives the same result next year. 30 suits a shop whose range changes with the
            season; raise it for what people buy rarely, lower it for news.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    half_life_days: float = 30.0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not isinstance(name, str):
                raise UsageError(f"the names of weights must be text, got {name!r}")
            if not _is_finite(weight) or abs(weight) > _MOST_WEIGHT:
                raise UsageError(
                    f"the weight of {name!r} must be a number from -1,000,000 to 1,000,000, got {weight!r}"
                )
        if not _is_finite(self.half_life_days) or self.half_life_days <= 0:
            raise UsageError(f"half_life_days must be above 0, got {self.half_life_days!r}")

    def all_weights(self) -> dict[str, float]:
        """Return the weight of every known event, by its name in lower case with underscores."""
        mine = {_word(name): float(weight) for name, weight in self.weights.items()}
        return {**WEIGHTS, **mine}


@dataclass(frozen=True, slots=True)
class Tastes:
    """What some users did, ordered by user and slot.

    Attributes:
        user_ids: Theirs.
        users: Of each row: the place in `user_ids`.
        slots: An image that a user had to do with.
        weights: Above 0: liked so much; below: disliked; 0: seen.
        newest: When the user last had to do with it, in microseconds since 1970.
    """

    user_ids: list[str]
    users: Slots
    slots: Slots
    weights: Floats
    newest: Slots


@dataclass(frozen=True)
class Items:
    """What events are about, where that is not the images of an index: a number, as a slot is, for each.

    Attributes:
        images: Columns `image_id` and `slot`: the item that an image stands for.
        products: Columns `product_id` and `slot`.
    """

    images: pa.Table
    products: pa.Table


class Events:
    """The events of a file as tables of DuckDB, on disk where memory ends; a context manager.

    An image that a user had to do with has one weight: the sum of its events', each halved for every
    half-life that it lies before that user's newest event. (What lies between that one and the newest of the
    file would scale all images of a user alike.) Once disliked, an image stays so, and its other events count
    no more. Sums are of whole numbers, so that their order does not matter and the same file gives the same
    result.

    With a products file, every product stands for the first of its images that is in the index: an event of
    any of them is one of that image, and no other image is recommended.

    Args:
        about: The images, or whatever has numbers.
        path: The events: CSV or Parquet with user_id, image_id or product_id, event, timestamp and, if you
            like, weight, which then takes the place of the event's.
        options: What they count.
        products: CSV or Parquet with product_id and image_id, a row for each image of a product; not with
            `Items`, which have their own.
        folder: For what does not fit into memory.
        memory_bytes: Above which DuckDB goes to disk.
        threads: That DuckDB may use.

    Attributes:
        events: Rows of the file.
        users: Users in it.
        unknown: Events whose image is not in the index, or whose product has none there.
        incomplete: Events without a user_id, or without an image_id and a product_id.
        recommendable: Slots that may be recommended; None for all.

    Raises:
        UsageError: A file is missing or cannot be used; the text names the line and says what to do.
        RunError: `folder` is full.
    """

    def __init__(
        self,
        about: Index | Items,
        path: Path,
        *,
        options: EventOptions,
        products: Path | None,
        folder: Path,
        memory_bytes: int,
        threads: int,
    ) -> None:
        self._path = path
        self._folder = folder
        self.database = open_database(
            str(folder / "events.duckdb"),
            memory_limit=f"{max(memory_bytes, 128 << 20)}B",
            temp_directory=str(folder / "spill"),
            threads=threads,
            autoinstall_known_extensions=False,
            autoload_known_extensions=False,
        )
        try:
            with self.explained():
                # A timestamp without a zone means the same everywhere.
                self.database.execute("SET TimeZone = 'UTC'")
                if isinstance(about, Items):
                    self.recommendable = self._load_items(about)
                else:
                    self.recommendable = self._load_images(about, products)
                file = TableFile(path, "the events file")
                with_products = products is not None or isinstance(about, Items)
                self._load_events(file, options, with_products=with_products)
                self._weigh(options.half_life_days)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; whoever made the folder removes it."""
        self.database.close()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what DuckDB raises into sentences.

        Raises:
            UsageError: The events hold what cannot be counted.
            RunError: The folder is full.
        """
        try:
            yield
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise RunError(
                f"there is no room to work in {self._folder}: {str(error).splitlines()[0]}; free some space "
                "there, or name another folder in TAGGER_CACHE"
            ) from None
        except duckdb.Error as error:
            raise UsageError(
                f"the events file {self._path} cannot be counted: {' '.join(str(error).split())[:200]}; look "
                "for values out of the ordinary"
            ) from error

    def batches(self, users: int) -> Iterator[Tastes]:
        """Yield what all users did, so many users at a time, in the order of their ids."""
        for start in range(0, self.users, users):
            bounds = {"start": start, "end": start + users}
            with self.explained():
                ids = self.database.sql(
                    "SELECT user_id FROM users WHERE u >= $start AND u < $end ORDER BY u", params=bounds
                ).to_arrow_table()
                rows = self.database.sql(
                    "SELECT u - $start AS u, slot, weight::FLOAT AS weight, newest FROM tastes"
                    " WHERE u >= $start AND u < $end ORDER BY u, slot",
                    params=bounds,
                ).to_arrow_table()
            yield Tastes(
                ids.column(0).to_pylist(),
                rows.column("u").to_numpy(),
                rows.column("slot").to_numpy(),
                rows.column("weight").to_numpy(),
                rows.column("newest").to_numpy(),
            )

    def popularity(self) -> tuple[Slots, Floats]:
        """Return the images that somebody likes, the most popular first, and how popular each is, in [0, 1].

        A user counts once for an image, by their strongest event, so that nobody makes it popular alone;
        events lose their weight with their distance from the newest of the file.
        """
        with self.explained():
            table = self.database.sql(
                "SELECT slot, sum(strength)::DOUBLE AS strength FROM tastes WHERE weight > 0 GROUP BY slot"
                " ORDER BY sum(strength) DESC, count(*) DESC, slot"
            ).to_arrow_table()
        strength = table.column("strength").to_numpy()
        most = float(strength[0]) if len(strength) else 1.0
        return table.column("slot").to_numpy(), (strength / max(most, 1.0)).astype(np.float32)

    def _load_images(self, index: Index, products: Path | None) -> Slots | None:
        """Make the tables `shown` (image_id, slot that stands for it) and `product` (product_id, slot)."""
        slots = np.sort(index.ids.slots)
        run = self.database.execute
        run("CREATE TABLE listed (row BIGINT, product_id VARCHAR, image_id VARCHAR)")
        if products is not None:
            for chunk in self._chunks(TableFile(products, "the products file"), _PRODUCT_COLUMNS):
                with self._registered("chunk", chunk):
                    run("INSERT INTO listed SELECT row, product_id, image_id FROM chunk")
        with self._registered("images", pa.table({"image_id": index.ids.take_ids(slots), "slot": slots})):
            run(_PRODUCT)
            run(_SHOWN)
        run("DROP TABLE listed")
        if products is None:
            return None
        table = self.database.sql("SELECT DISTINCT slot FROM product ORDER BY slot").to_arrow_table()
        found: Slots = table.column(0).to_numpy()
        return found

    def _load_items(self, items: Items) -> Slots | None:
        """Make the same tables of what is known already."""
        with self._registered("images", items.images), self._registered("products", items.products):
            self.database.execute(
                "CREATE TABLE shown AS SELECT image_id::VARCHAR AS image_id, slot FROM images"
            )
            self.database.execute(
                "CREATE TABLE product AS SELECT product_id::VARCHAR AS product_id, slot FROM products"
            )
        return None

    def _load_events(self, file: TableFile, options: EventOptions, *, with_products: bool) -> None:
        """Make the table `events` of the rows that name a user and an image or product."""
        run = self.database.execute
        run(
            "CREATE TABLE events"
            " (user_id VARCHAR, image_id VARCHAR, product_id VARCHAR, us BIGINT, weight DOUBLE)"
        )
        weights = options.all_weights()
        words = pa.table({"word": list(weights), "named": list(weights.values())})
        self.events = self.incomplete = 0
        for chunk in self._chunks(file, _EVENT_COLUMNS):
            with self._registered("chunk", chunk), self._registered("words", words):
                self._refuse(file, options, with_products=with_products)
                run(_WHOLE)
            self.events += len(chunk)
        self.incomplete = self.events - self._count("events")

    def _chunks(self, file: TableFile, wanted: tuple[str, ...]) -> Iterator[pa.Table]:
        """Yield rows of a file with all of the wanted columns, having looked for those that must be there."""
        held: list[pa.RecordBatch] = []
        for batch in file.batches(wanted):
            _require(file, wanted, batch.schema.names)
            columns = {name: column_or_null(batch, name) for name in wanted if name != "timestamp"}
            if "timestamp" in wanted:
                when = batch.column("timestamp")
                known = pa.types.is_timestamp(when.type)
                columns["time_us"] = when.cast(pa.int64()) if known else pa.nulls(len(batch), pa.int64())
                columns["time"] = pa.nulls(len(batch), pa.string()) if known else when
            held.append(pa.RecordBatch.from_pydict({**columns, "row": batch.column("row")}))
            if sum(map(len, held)) >= _LOAD_ROWS:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)

    def _refuse(self, file: TableFile, options: EventOptions, *, with_products: bool) -> None:
        """Raise for the first row of a chunk that cannot be understood."""
        found = self.database.execute(_BAD, {"most": _MOST_WEIGHT, "with_products": with_products}).fetchall()
        if not found:
            return
        row, no_time, no_products, weight_text, event, time = found[0]
        place = file.place(row)
        if no_time:
            raise UsageError(
                f"{place} has the timestamp {time or ''!r}: write ISO 8601, as in 2026-01-31T12:00:00Z, or "
                "seconds or milliseconds since 1970, of the years 1900 to 2199"
            )
        if no_products:
            raise UsageError(
                f"{place} names a product and no image: give the images of the products as a file with "
                "product_id and image_id (--products)"
            )
        if weight_text is not None:
            raise UsageError(
                f"{place} has the weight {weight_text!r}: write a number from -1,000,000 to 1,000,000"
            )
        raise UsageError(
            f"{place} has the event {event or ''!r}, which has no weight; known are "
            f"{', '.join(options.all_weights())}: rename it, or add a column weight with a number for every "
            "event"
        )

    def _weigh(self, half_life_days: float) -> None:
        """Make the tables `users` (u, user_id) and `tastes` (u, slot, weight, strength, newest)."""
        run = self.database.execute
        run(_USERS)
        run(_KNOWN, {"half": half_life_days * 86_400_000_000})
        self.users = self._count("users")
        self.unknown = self._count("events") - self._count("known")
        run("DROP TABLE events")
        run(_TASTES)
        run("DROP TABLE known")

    def _count(self, table: str) -> int:
        ((rows,),) = self.database.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608
        return int(rows)

    @contextlib.contextmanager
    def _registered(self, name: str, table: pa.Table) -> Iterator[None]:
        self.database.register(name, table)
        try:
            yield
        finally:
            self.database.unregister(name)


_PRODUCT: Final = """
    CREATE TABLE product AS
    SELECT product_id, arg_min(slot, row) AS slot FROM listed JOIN images USING (image_id)
    WHERE product_id IS NOT NULL GROUP BY product_id
"""

_SHOWN: Final = """
    CREATE TABLE shown AS
    SELECT image_id::VARCHAR AS image_id, coalesce(first.slot, other.slot, images.slot) AS slot
    FROM images
    LEFT JOIN (SELECT DISTINCT slot FROM product) first ON first.slot = images.slot
    LEFT JOIN (SELECT image_id, arg_min(slot, row) AS slot FROM listed JOIN product USING (product_id)
               GROUP BY image_id) other USING (image_id)
"""
"""The first image of a product stands for itself, the others for the first, the rest for themselves."""

_PARSED: Final = """
    SELECT * EXCLUDE (us), CASE WHEN us >= -2208988800000000 AND us < 7258118400000000 THEN us END AS us
    FROM (
    SELECT row, user_id, image_id, product_id, event, chunk.weight AS weight_text,
        coalesce(time, time_us || ' microseconds since 1970') AS time,
        CASE WHEN chunk.weight IS NULL THEN named
             WHEN isfinite(given) THEN given END AS weight,
        CASE WHEN time_us IS NOT NULL THEN time_us
             WHEN regexp_full_match(trim(time), '(19|20)[0-9]{6}')
                 THEN coalesce(epoch_us(try_strptime(trim(time), '%Y%m%d')), (number * 1e6)::BIGINT)
             WHEN number IS NULL THEN epoch_us(try_cast(time AS TIMESTAMPTZ))
             WHEN abs(number) < 1e11 THEN (number * 1e6)::BIGINT
             WHEN abs(number) < 1e14 THEN (number * 1e3)::BIGINT END AS us
    FROM (SELECT *, try_cast(time AS DOUBLE) AS number, try_cast(weight AS DOUBLE) AS given FROM chunk) chunk
    LEFT JOIN words ON word = replace(replace(lower(trim(event)), ' ', '_'), '-', '_'))
"""
"""Cells as values; null where one cannot be understood. Numbers below 1e11 are seconds, others milliseconds;
eight digits that are a date are a date. What lies before 1900 or after 2199 is a slip, and differences of
such times would not fit into 64 bits."""

_BAD: Final = f"""
    WITH parsed AS ({_PARSED})
    SELECT row, us IS NULL, image_id IS NULL AND product_id IS NOT NULL AND NOT $with_products, weight_text,
        event, time
    FROM parsed
    WHERE us IS NULL OR weight IS NULL OR abs(weight) > $most
        OR (image_id IS NULL AND product_id IS NOT NULL AND NOT $with_products)
    ORDER BY row LIMIT 1
"""  # noqa: S608 - constants of this file

_WHOLE: Final = f"""
    INSERT INTO events WITH parsed AS ({_PARSED})
    SELECT user_id, image_id, CASE WHEN image_id IS NULL THEN product_id END, us, weight FROM parsed
    WHERE user_id IS NOT NULL AND coalesce(image_id, product_id) IS NOT NULL
"""  # noqa: S608 - the same

_USERS: Final = """
    CREATE TABLE users AS
    SELECT row_number() OVER (ORDER BY user_id) - 1 AS u, user_id, max(us) AS newest
    FROM events GROUP BY user_id ORDER BY user_id
"""

_KNOWN: Final = """
    CREATE TABLE known AS
    SELECT u, coalesce(shown.slot, product.slot) AS slot, us, weight,
        weight * pow(2, -(newest - us) / $half) AS recent,
        weight * pow(2, -((SELECT max(us) FROM events) - us) / $half) AS late
    FROM events JOIN users USING (user_id)
    LEFT JOIN shown USING (image_id) LEFT JOIN product USING (product_id)
    WHERE coalesce(shown.slot, product.slot) IS NOT NULL
"""

_TASTES: Final = """
    CREATE TABLE tastes AS
    SELECT u, slot, max(us) AS newest,
        CASE WHEN min(weight) < 0 THEN -sum(greatest(1, round(-recent * 1e9))::HUGEINT) FILTER (weight < 0)
             ELSE coalesce(sum(greatest(1, round(recent * 1e9))::HUGEINT) FILTER (weight > 0), 0)
        END::DOUBLE / 1e9 AS weight,
        max(round(greatest(late, 0) * 1e6)::HUGEINT) AS strength
    FROM known GROUP BY u, slot ORDER BY u, slot
"""
"""However old, what was liked keeps a weight above 0, and what was disliked one below."""


def _word(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(file: TableFile, wanted: tuple[str, ...], names: Sequence[str]) -> None:
    """Raise if a file lacks a column that it needs."""
    if wanted == _PRODUCT_COLUMNS:
        needed, needs = list(_PRODUCT_COLUMNS), "product_id and image_id"
    else:
        needed, needs = (
            ["user_id", "event", "timestamp"],
            "user_id, image_id or product_id, event and timestamp",
        )
        if "image_id" not in names and "product_id" not in names:
            raise UsageError(f"{file} has neither a column image_id nor product_id: it needs {needs}")
    for name in needed:
        if name not in names:
            raise UsageError(f"{file} has no column {name}: it needs {needs}")
