"""Sources that are places: a bucket or prefix, a folder, a single image."""

from __future__ import annotations

import glob
import os
import shlex
from typing import TYPE_CHECKING

from tagger.errors import SourceError
from tagger.source.listing import Source, kept_table, listing_table
from tagger.source.ranges import list_ranges
from tagger.storage import LocalStore, ObjectInfo, Store, decode_path, encode_path, file_etag
from tagger.storage.local import cannot_list
from tagger.storage.walk import Unlistable, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from tagger.source.names import Globs, Names


class PrefixSource(Source):
    """Every image below a prefix of a bucket.

    Args:
        store: The prefix; on S3 it is listed by several requests at a time.
        names: The rules for names below it.
    """

    def __init__(self, store: Store, names: Names) -> None:
        super().__init__(store.uri)
        self._store = store
        self._names = names

    def covers(self, uri: str) -> bool:  # noqa: D102 - as in Source
        return self._names.covers(uri)

    def _tables(self) -> Iterator[pa.Table]:
        for page in self._pages():
            yield kept_table(page, self._names)

    def _pages(self) -> Iterator[list[ObjectInfo]]:
        if not self.uri.startswith("s3://"):
            return self._store.list()
        from tagger.storage.s3_objects import S3Objects

        store = self._store
        assert isinstance(store, S3Objects)
        return list_ranges(lambda after: store.page("", after))


class FolderSource(Source):
    """Every image in a local folder and its subfolders.

    Symbolic links are followed, except into a folder that holds the link; a picture found under two names is
    listed under both. A folder that may not be listed is an error, unless --exclude leaves out all in it.

    Args:
        store: The folder.
        names: The rules for names in it.
        leave_out: Path of the collection, which may be there under another name; None for none.
    """

    def __init__(self, store: LocalStore, names: Names, leave_out: bytes | None) -> None:
        super().__init__(store.uri)
        self._root = store.root
        self._start = store.root.rstrip(b"/") + b"/"
        self._names = names
        self._leave_out = leave_out

    def covers(self, uri: str) -> bool:  # noqa: D102 - as in Source
        return self._names.covers(uri)

    def _tables(self) -> Iterator[pa.Table]:
        try:
            for files in walk(self._root, enter=self._enter, want=self._want):
                found = (
                    ObjectInfo(self._name(path), file_etag(status), status.st_size) for path, status in files
                )
                yield kept_table(found, self._names)
        except OSError as error:
            raise SourceError(cannot_list(error) + self._way_out(error)) from None

    def _name(self, path: bytes) -> str:
        return encode_path(path[len(self._start) :])

    def _want(self, path: bytes) -> bool:
        return self._names.keep(self._name(path))

    def _way_out(self, error: OSError) -> str:
        """Say how to leave out what cannot be listed; nothing of the folder itself."""
        path = error.filename
        if not isinstance(path, bytes) or not path.startswith(self._start):
            return ""
        pattern = glob.escape(self._name(path)) + ("/*" if isinstance(error, Unlistable) else "")
        return f"; make it readable, or leave it out with --exclude {shlex.quote(pattern)}"

    def _enter(self, folder: bytes) -> bool:
        if not self._names.enter(self._name(folder)):
            return False
        if self._leave_out is None:
            return True
        try:
            return not os.path.samefile(folder, self._leave_out)  # noqa: PTH121
        except OSError:
            return True


class SingleSource(Source):
    """One image.

    Args:
        store: The folder or prefix that holds it.
        name: Its name there.
        globs: The operator's patterns; compared with the last part of the name.
    """

    def __init__(self, store: Store, name: str, globs: Globs) -> None:
        super().__init__(store.address(name))
        self._store = store
        self._name = name
        self._kept = globs.match(name.rpartition("/")[2])

    def covers(self, uri: str) -> bool:  # noqa: D102 - as in Source
        return self._kept and uri == self.uri

    def _tables(self) -> Iterator[pa.Table]:
        if not self._kept:
            return
        found = self._store.head(self._name)
        if found is None:
            raise SourceError(f"there is no image {self.uri}")
        yield listing_table([self.uri], [found.etag], [found.size_bytes])


def file_path(uri: str) -> bytes:
    """Return the path of a canonical `file://` address."""
    return decode_path(uri.removeprefix("file://")) or b"/"
