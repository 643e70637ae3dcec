"""Catalogs as Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.catalog.table import BATCH_ROWS, CatalogTable, cannot_open
from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class ParquetTable(CatalogTable):
    """A Parquet file.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be opened, or is damaged.
    """

    format = "parquet"

    def __init__(self, path: Path) -> None:
        try:
            schema = pq.read_schema(path)
        except OSError as error:
            raise cannot_open(path, error) from None
        except pa.ArrowException as error:
            raise UsageError(f"the catalog {path} is damaged: {error}") from None
        super().__init__(path, schema.names, schema.types)

    def batches(self, columns: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """See `CatalogTable`."""
        wanted = range(len(self.header)) if columns is None else columns
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=self._read(columns), use_threads=False):
                    place = range(len(wanted)) if batch.num_columns == len(wanted) else wanted
                    yield self._batch([batch.column(n) for n in place], columns)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"the catalog {self.path} is damaged: {error}") from None

    def _read(self, columns: Sequence[int] | None) -> list[str] | None:
        """Return the names of the columns to read; None for all, where a name would not mean one column."""
        if columns is None or len(set(self.header)) < len(self.header):
            return None
        names = [self.header[n] for n in sorted(columns)]
        return None if any("." in name for name in names) or list(columns) != sorted(columns) else names
