"""A catalog that `tagger enrich` wrote as Parquet, read again: which columns are the shop's, which ours."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.catalog.roles import Roles, find_roles
from tagger.catalog.schema import OURS, RECOMMENDED
from tagger.catalog.table import cell_text, values_of
from tagger.catalog.writing import ROLES_KEY, our_names
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BATCH_ROWS: Final = 16_384
_MOST_TEXT: Final = 2_000
_PRICE: Final = re.compile(r"price|preis", re.IGNORECASE)


class EnrichedCatalog:
    """An enriched catalog. Columns are told apart by their position.

    Args:
        path: Parquet file, as messages name it.
        file: Where to read it, if not there.

    Attributes:
        path: As given.
        names: Its columns.
        own: How many of them, the first, are the shop's.
        ours: Positions of tagger's columns, by the name they have in `OURS`.
        roles: Which of the shop's columns is what.
        price: The column that looks like the price; None if none does.

    Raises:
        UsageError: It cannot be opened, or `tagger enrich` did not write it.
    """

    def __init__(self, path: Path, *, file: str | None = None) -> None:
        self.path = path
        self._file = str(path) if file is None else file
        try:
            schema = pq.read_schema(self._file)
        except OSError as error:
            raise UsageError(
                f"the catalog {path} cannot be opened ({error.strerror or error}): give the path of a "
                "Parquet file that tagger enrich wrote"
            ) from None
        except pa.ArrowException:
            raise self._refusal("is no Parquet file") from None
        self.names: list[str] = schema.names
        found = _columns(schema)
        if found is None:
            raise self._refusal("was not written by tagger enrich")
        self.own, self.ours = found
        self.roles = self._roles(schema.metadata or {})
        prices = (n for n, name in enumerate(self.names[: self.own]) if _PRICE.search(name))
        self.price = next(prices, None)

    def batches(self, columns: Sequence[int]) -> Iterator[list[pa.Array]]:
        """Yield rows of these columns.

        Raises:
            UsageError: The file is damaged.
        """
        wanted = list(dict.fromkeys(self.names[column] for column in columns))
        try:
            with pq.ParquetFile(self._file, pre_buffer=False) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                    yield [batch.column(self.names[column]) for column in columns]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UsageError(f"the catalog {self.path} is damaged: {error}") from None

    def rows(self, numbers: Sequence[int]) -> list[list[Any]]:
        """Return some rows with all of their columns; slower than by DuckDB, and reads also what is no UTF-8.

        Args:
            numbers: Which rows, ascending.
        """
        found: list[list[Any]] = []
        start = 0
        with pq.ParquetFile(self._file, pre_buffer=False) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if here := [number - start for number in numbers if start <= number < end]:
                    some = file.read_row_group(group, use_threads=False).take(here)
                    found += map(list, zip(*map(values_of, some.columns), strict=True))
                start = end
        return found

    def _roles(self, metadata: dict[bytes, bytes]) -> Roles:
        """Return which column is what: as enrich took them if it noted that, else by their names."""
        header = self.names[: self.own]
        pictures = self.ours["image_ids"]
        try:
            noted = json.loads(metadata[ROLES_KEY])
            at = {role: header.index(name) for role, name in noted.items()}
            return Roles(
                id=at.get("id"),
                images=(pictures,),
                category=at.get("category"),
                title=at.get("title"),
                stock=None,
            )
        except (KeyError, ValueError, AttributeError):  # another program saved the file, and renamed columns
            names = [*header, self.names[pictures]]
            return find_roles(names, where=f"the catalog {self.path}", images=names[-1:])

    def _refusal(self, why: str) -> UsageError:
        return UsageError(
            f"the catalog {self.path} {why}: run tagger enrich COLLECTION CATALOG --out NAME.parquet, "
            "and give that file"
        )


def _columns(schema: pa.Schema) -> tuple[int, dict[str, int]] | None:
    """Return how many columns are the shop's, and where ours are; None if they are not there.

    The last that can be ours are: the shop may have columns of the same names, also those of an earlier
    enrichment.
    """
    names: list[str] = schema.names
    wanted = [*OURS.names, RECOMMENDED.name]  # the last is not in every enriched catalog
    for own in range(len(names) - len(OURS), -1, -1):
        rest = {name: n for n, name in enumerate(names) if n >= own}
        spelt = our_names(names[:own], wanted)
        ours = {name: rest[one] for name, one in zip(wanted, spelt, strict=True) if one in rest}
        if ours.get("image_ids") == own and set(OURS.names) <= set(ours):
            fits = all(
                _is_alike(schema.types[place], OURS.field(name).type)
                for name, place in ours.items()
                if name in OURS.names
            )
            return (own, ours) if fits else None
    return None


def _is_alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Compare types, but for what other programs that saved the file may have made of lists and texts."""
    if _is_list(wanted):
        return _is_list(found) and _is_alike(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        names = {field.name for field in found} if pa.types.is_struct(found) else set()
        return {field.name for field in wanted} <= names
    if pa.types.is_string(wanted):
        return bool(
            pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
        )
    return bool(found.equals(wanted))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def value_text(value: Any) -> str:
    """Return a value of the shop's as text for people, cut where it is long.

    >>> value_text(7.0), value_text(["a", 1]), value_text(None), value_text(b"x")
    ('7', '["a", 1]', '', '')
    """
    if isinstance(value, bytes):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = cell_text(value)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
