"""What every source is: a stream of addresses, each image once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tagger.source.names import Names
    from tagger.storage import ObjectInfo

LISTING_SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
    ]
)
"""One row per image; etag and size are null where a manifest does not give them."""


class Source(ABC):
    """Where images come from.

    Attributes:
        uri: Canonical address of the bucket, prefix, folder, image or manifest.
        complete: True once `batches` has yielded everything; only then may a missing image be called gone.
        is_manifest: Whether the images are named one by one in a file.
    """

    is_manifest = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.complete = False

    @abstractmethod
    def covers(self, uri: str) -> bool:
        """Tell whether an image with this address would be listed if it existed.

        A manifest covers nothing: that an image is not named in it does not mean that it is gone.
        """

    @abstractmethod
    def _tables(self) -> Iterator[pa.Table]:
        """Yield tables of `LISTING_SCHEMA`; empty ones are dropped."""

    def batches(self) -> Iterator[pa.Table]:
        """Yield the images as tables of `LISTING_SCHEMA`, each image once, in no order.

        The first table comes with the first page of the listing. A second call lists again.

        Raises:
            SourceError: The source cannot be listed. That it holds no image is for the caller to judge.
            UsageError: The credentials are refused or may not list.
            StoreUnavailable: The store does not answer.
        """
        self.complete = False
        for table in self._tables():
            if table.num_rows:
                yield table
        self.complete = True


def listing_table(uris: Sequence[str], etags: Sequence[str | None], sizes: Sequence[int | None]) -> pa.Table:
    """Return a table of `LISTING_SCHEMA` in which every image is named by its address."""
    addresses = pa.array(uris, pa.string())
    columns = [addresses, addresses, pa.array(etags, pa.string()), pa.array(sizes, pa.int64())]
    return pa.Table.from_arrays(columns, schema=LISTING_SCHEMA)


def kept_table(objects: Iterable[ObjectInfo], names: Names) -> pa.Table:
    """Return the objects of one page that are images, as far as their names tell."""
    kept = [found for found in objects if names.keep(found.name, found.size_bytes)]
    uris = [names.address(found.name) for found in kept]
    return listing_table(uris, [found.etag for found in kept], [found.size_bytes for found in kept])
