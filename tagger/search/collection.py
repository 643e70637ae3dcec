"""The collection as programs use it: what is on disk, and what can be asked of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagger.collection import Collection as StoredCollection
from tagger.errors import QueryError, UnknownName
from tagger.index.filters import shown
from tagger.search.query import search
from tagger.search.recommending import DIVERSITY, recommend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from tagger.collection import Config, TagsTable
    from tagger.index import Filter, Index, Indexed
    from tagger.search.choosing import UserOptions
    from tagger.search.duplicates import Kind
    from tagger.search.grouping import Duplicates
    from tagger.search.incoming import Incoming
    from tagger.search.outliers import Outliers
    from tagger.search.picture import PictureReader
    from tagger.search.query import Found
    from tagger.search.users import Recommended
    from tagger.storage import StorageOptions, Store


class Collection(StoredCollection):
    """A collection with its index. Open it with `tagger.open`; threads may search it together.

    The index is loaded by the first search and kept; `index()` loads the newest one.
    """

    def __init__(self, store: Store, config: Config, table: TagsTable) -> None:
        super().__init__(store, config, table)
        self._index: Index | None = None
        self._reader: PictureReader | None = None
        self._opening = threading.Lock()

    def index(self, kind: str = "auto", *, rebuild: bool = False, address: str | None = None) -> Indexed:
        """Bring the index up to the tags table, and search that one from now on; see `tagger.index.index`."""
        from tagger.index import index

        made = index(self, kind=kind, rebuild=rebuild, address=address)
        with self._opening:  # a search that is opening the one before must not keep it
            self._index = None
        return made

    def opened_index(self) -> Index:
        """Return the index that is searched.

        Raises:
            IndexUnusable: There is none yet, or not one that may be served.
        """
        from tagger.index import Index

        with self._opening:
            if self._index is None:
                self._index = Index.open(self)
            return self._index

    def search(
        self,
        query: str | Path | bytes | None = None,
        *,
        image: str | Path | bytes | None = None,
        image_id: str | Sequence[str] | None = None,
        embedding: npt.ArrayLike | None = None,
        tag: str | None = None,
        k: int = 10,
        offset: int = 0,
        filter: Filter | Mapping[str, Any] | None = None,  # noqa: A002 - the word of the API
        fold: bool = False,
    ) -> Found:
        """Find images like a picture, with a tag, or both.

        Args:
            query: An image file, an image_id or a tag, whichever it is, in this order.
            image: An image file, or its bytes; it goes through the decoder and model of the collection.
            image_id: One image of the collection, or several.
            embedding: A vector of the collection's model, shape (D,).
            tag: A tag or category; beside a picture it narrows the search.
            k: Most matches, from 1 to 10,000.
            offset: Matches to skip, up to 1,000,000; with `fold` up to 10,000.
            filter: Which images may be found: `{"tags_any": ["cat"], "min_width_px": 800}`.
            fold: Keep one of several images that show the same picture.

        Returns:
            Matches, best first; `.next_offset` continues.

        Raises:
            QueryError: It cannot be answered as it was put; the text says why.
            IndexUnusable: The collection has no index; call `index()`.
        """
        index = self.opened_index()
        if query is not None:
            if image is not None or image_id is not None or embedding is not None or tag is not None:
                raise QueryError("query cannot go with image, image_id, embedding or tag: name what it is")
            kind, value = self.recognise(query)
            image = value if kind == "image" else None
            image_id = str(value) if kind == "image_id" else None
            tag = str(value) if kind == "tag" else None
        if image is not None:
            if embedding is not None:
                raise QueryError("search for an image or for an embedding, not for both")
            from tagger.search.picture import read_picture

            data = read_picture(image)  # before the model is loaded for nothing
            embedding = self._picture().embedding(data)
        return search(
            index,
            image_id=image_id,
            embedding=embedding,
            tag=tag,
            k=k,
            offset=offset,
            filter=filter,
            fold=fold,
        )

    def recommend(
        self,
        like: Sequence[str],
        dislike: Sequence[str] = (),
        *,
        k: int = 10,
        filter: Filter | Mapping[str, Any] | None = None,  # noqa: A002 - the word of the API
        diversity: float = DIVERSITY,
        fold: bool = True,
    ) -> Found:
        """Recommend images to a customer who liked some; see `tagger.search.recommend`.

        `k` is from 1 to 1,000.
        """
        return recommend(
            self.opened_index(), like, dislike, k=k, filter=filter, diversity=diversity, fold=fold
        )

    def recommend_users(
        self,
        events: str | Path,
        out: str | Path,
        *,
        k: int = 10,
        products: str | Path | None = None,
        filter: Filter | Mapping[str, Any] | None = None,  # noqa: A002 - the word of the API
        diversity: float | None = None,
        options: UserOptions | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Recommended:
        """Write recommendations for every customer in a file of events; see `tagger.search.users`.

        Args:
            events: CSV or Parquet with user_id, image_id or product_id, event, timestamp.
            out: File to write, `.csv` or `.parquet`.
            k: Most recommendations for a customer.
            products: CSV or Parquet with product_id and image_id, for events that name products.
            filter: Which images may be recommended.
            diversity: In [0, 1]; None for that of `options`.
            options: How they are chosen: weights of events, recency, blend of looks and behaviour.
            say: Takes a line at a time for the person who waits.
        """
        from tagger.search.choosing import UserOptions
        from tagger.search.users import recommend_users

        options = options or UserOptions()
        if diversity is not None:
            options = replace(options, diversity=diversity)
        index = self.opened_index()
        return recommend_users(
            index, events, out, k=k, products=products, filter=filter, options=options, say=say
        )

    def duplicates(
        self,
        out: str | Path | None = None,
        *,
        kind: Kind = "near",
        min_cosine: float | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Duplicates:
        """Group images that are one picture, or nearly; see `tagger.search.grouping.duplicates`."""
        from tagger.search.duplicates import NEAR_COSINE
        from tagger.search.grouping import duplicates

        least = NEAR_COSINE if min_cosine is None else min_cosine
        return duplicates(self, out, kind=kind, min_cosine=least, say=say)

    def compare(
        self,
        source: str,
        out: str | Path | None = None,
        *,
        kind: Kind = "near",
        min_cosine: float | None = None,
        storage: StorageOptions | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Incoming:
        """Tell which images of a source are here already; see `tagger.search.incoming.compare`."""
        from tagger.search.duplicates import NEAR_COSINE
        from tagger.search.incoming import compare

        least = NEAR_COSINE if min_cosine is None else min_cosine
        return compare(self, source, out, kind=kind, min_cosine=least, storage=storage, say=say)

    def outliers(
        self,
        out: str | Path | None = None,
        *,
        within: str | None = None,
        share: float | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Outliers:
        """Find images that do not look like their peers; see `tagger.search.outliers`."""
        from tagger.search.outliers import SHARE, outliers

        return outliers(self, out, within=within, share=SHARE if share is None else share, say=say)

    def recognise(self, query: str | Path | bytes) -> tuple[str, str | Path | bytes]:
        """Tell what a query is: ("image", "image_id" or "tag", and the query).

        Raises:
            QueryError: It is none of them.
        """
        if not isinstance(query, str | bytes | Path):
            raise QueryError(f"query must be an image file, an image_id or a tag, got {shown(query)}")
        if isinstance(query, bytes | Path):
            return "image", query
        index = self.opened_index()
        if _is_file(query):
            return "image", query
        if index.ids.find(query) is not None:
            return "image_id", query
        word = index.vocabulary.find(query)
        if word is not None:
            return "tag", word
        near = index.vocabulary.similar(query)
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise UnknownName(
            f"{shown(query)} is neither an image file, nor an image_id of the index, nor a tag or category"
            f"{hint}"
        )

    def _picture(self) -> PictureReader:
        from tagger.search.picture import PictureReader

        with self._opening:
            if self._reader is None:
                self._reader = PictureReader(self.config)
            return self._reader


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
