"""Reading images in workers, by full address."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tagger.storage.local import LocalStore
from tagger.storage.store import StorageOptions
from tagger.storage.uris import encode_path, given_path, split_uri

if TYPE_CHECKING:
    from tagger.storage.store import Store


class ImageReader:
    """Reads images by their `uri`. Threads share one; it keeps one connection per bucket.

    Pickling carries the options alone: each worker finds its own credentials.

    Args:
        options: How to reach object storage.
    """

    def __init__(self, options: StorageOptions = StorageOptions()) -> None:  # noqa: B008 - frozen
        self.options = options
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], Store] = {}

    def read_image(
        self, uri: str, *, if_match: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str | None]:
        """Return an image's bytes and etag.

        Args:
            uri: The raw address, as listed.
            if_match: Read only the version with this etag.
            max_bytes: Refuse a larger file before reading it.

        Raises:
            ImageError: Only this image is concerned; becomes its row.
            StoreUnavailable: The credentials are refused, or nobody answers.
            UsageError: The address is none, or the settings for its store cannot be used.
        """
        scheme, bucket, key = split_uri(uri)
        if scheme == "file":
            key = encode_path(given_path(uri))
        return self._store(scheme, bucket).fetch(key, if_match=if_match, max_bytes=max_bytes)

    def _store(self, scheme: str, bucket: str) -> Store:
        from tagger.storage import open_store

        with self._lock:
            found = self._buckets.get((scheme, bucket))
            if found is None:
                found = (
                    LocalStore("/", self.options)
                    if scheme == "file"
                    else open_store(f"{scheme}://{bucket}", self.options)
                )
                self._buckets[scheme, bucket] = found
            return found

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageReader, (self.options,)
