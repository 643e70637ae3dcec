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
                for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                    yield self._batch([batch.column(n) for n in wanted], columns)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"the catalog {self.path} is damaged: {error}") from None
