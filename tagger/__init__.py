"""tagger: a bucket of images in, a trustworthy table of tags and embeddings out."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.catalog import EnrichOptions, enrich
    from tagger.engine import Run, tag
    from tagger.index import Filter
    from tagger.search import Collection
    from tagger.storage import StorageOptions

__version__ = "0.1.0"

__all__ = ["Collection", "EnrichOptions", "Filter", "Run", "__version__", "enrich", "open", "tag"]


def open(collection: "str | os.PathLike[str]", options: "StorageOptions | None" = None) -> "Collection":  # noqa: A001
    """Open a collection to read and search it; see `tagger.search.Collection`.

    Args:
        collection: Folder or prefix where the results are.
        options: How to reach its storage; None reads the standard AWS settings.
    """
    from tagger.search import Collection

    return Collection.open(os.fspath(collection), options)


def __getattr__(name: str) -> Any:
    """Load what needs more than the standard library when it is asked for."""
    homes = {
        "Collection": "tagger.search",
        "EnrichOptions": "tagger.catalog",
        "Filter": "tagger.index",
        "Run": "tagger.engine",
        "enrich": "tagger.catalog",
        "tag": "tagger.engine",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
