"""What every store can do, whatever it is made of."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tagger.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_PIECE_BYTES: Final = 16 << 20
_DOWNLOAD_THREADS: Final = 4


@dataclass(frozen=True)
class StorageOptions:
    """How to reach object storage; holds no secret and travels to workers, which resolve their own.

    Attributes:
        anonymous: Send unsigned requests, for public buckets.
        requester_pays: Agree to pay for requests to buckets that ask for it.
    """

    anonymous: bool = False
    requester_pays: bool = False


class ObjectInfo(NamedTuple):
    """One listed object.

    Attributes:
        name: Raw key relative to the store; for files as `encode_path` writes it.
        etag: Version of the content, without the quotes HTTP puts around it; None if the store has none.
        size_bytes: Size of the content.
    """

    name: str
    etag: str | None
    size_bytes: int


# Named here, because inside the classes `list` is their own method.
Objects = list[ObjectInfo]
Page = tuple[Objects, bool]


class Store(ABC):
    """A folder or key prefix and all below it. Threads may share one.

    Pickling keeps the address and the options; the receiving process opens it with its own credentials.

    Attributes:
        uri: Canonical address without a trailing slash; `uri + "/" + name` is the address of an object.
        options: How it was opened.
    """

    uri: str
    options: StorageOptions

    @abstractmethod
    def fetch(
        self, name: str, *, if_match: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str | None]:
        """Return an object's bytes and etag, both of one version.

        Args:
            name: Raw key relative to the store.
            if_match: Read only this version.
            max_bytes: Refuse a larger object, before its content is read.

        Raises:
            ImageError: not_found, changed, forbidden, too_large, read_error or timeout.
            StoreUnavailable: The credentials are refused, or nobody answers.
        """

    @abstractmethod
    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from `start`; fewer only at the end. Raises as `fetch` does."""

    @abstractmethod
    def head(self, name: str) -> ObjectInfo | None:
        """Return size and etag of an object, or None if there is none. Raises as `fetch` does."""

    @abstractmethod
    def put(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write an object whole or not at all, and return its etag.

        Args:
            name: Raw key relative to the store.
            data: The content.
            if_absent: Write only if there is no such object.
            if_match: Write only over this version.

        Raises:
            AlreadyExists: `if_absent`, and the object exists.
            PreconditionFailed: `if_match`, and the object is another version or missing.
            StoreUnavailable: The store cannot be written.
        """

    @abstractmethod
    def upload(self, name: str, path: Path) -> None:
        """Write an object from a file that may not fit into memory, whole or not at all.

        The file may be moved: it is the caller's temporary one, and is gone or of no use afterwards.

        Raises:
            StoreUnavailable: The store cannot be written.
        """

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is missing already is no error.

        Raises:
            StoreUnavailable: The store cannot be written.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Objects]:
        """Yield every object whose name begins with `prefix`, in batches; a missing folder is empty.

        Raises:
            SourceError: There is no such bucket.
            UsageError: The credentials are refused or may not list.
            StoreUnavailable: Nobody answers.
        """

    @abstractmethod
    def check(self) -> None:
        """Make one cheap request to see whether the store can be listed. Raises as `list` does."""

    def read(self, name: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """Return an object's bytes; as `fetch`, without the etag."""
        return self.fetch(name, if_match=if_match, max_bytes=max_bytes)[0]

    def download(self, name: str, path: Path, size_bytes: int) -> None:
        """Write an object's first `size_bytes` bytes to a file, piece by piece. Raises as `fetch` does."""
        starts = range(0, size_bytes, _PIECE_BYTES)
        with path.open("wb") as file, ThreadPoolExecutor(_DOWNLOAD_THREADS) as pool:
            file.truncate(size_bytes)

            def piece(start: int) -> None:
                data = self.read_range(name, start, min(_PIECE_BYTES, size_bytes - start))
                os.pwrite(file.fileno(), data, start)

            for _ in pool.map(piece, starts):
                pass

    def exists(self, name: str) -> bool:
        """Tell whether an object is there. Raises as `fetch` does."""
        return self.head(name) is not None

    def address(self, name: str) -> str:
        """Return the URI of an object in this store."""
        return f"{self.uri}/{name}"

    def delta_options(self) -> dict[str, str]:
        """Return storage options for deltalake with credentials as fresh as they get. Never log them."""
        return {}

    def delta_uri(self, subpath: str = "") -> str:
        """Return the address deltalake opens for a folder below this store."""
        return f"{self.uri}/{subpath}" if subpath else self.uri

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def __reduce__(self) -> tuple[object, ...]:
        from tagger.storage import open_store

        return open_store, (self.uri, self.options)


def check_size(size_bytes: int, max_bytes: int | None) -> None:
    """Refuse an object that is larger than allowed.

    Raises:
        ImageError: too_large.
    """
    if max_bytes is not None and size_bytes > max_bytes:
        raise ImageError("too_large", f"the file has {size_bytes:,} bytes, and {max_bytes:,} are allowed")
