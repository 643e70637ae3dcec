"""Embeddings → FAISS: which index suits, building it, keeping it up to date, loading, filtering.

Importing this package loads neither faiss nor pyroaring: what needs them imports them when called.
"""

from tagger.index.checking import check_index
from tagger.index.filters import Filter
from tagger.index.making import KINDS, Indexed, index
from tagger.index.manifest import Manifest
from tagger.index.opened import Index

__all__ = ["KINDS", "Filter", "Index", "Indexed", "Manifest", "check_index", "index"]
