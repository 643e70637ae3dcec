"""Numbers → words: which tags and categories a model's outputs stand for."""

from tagger.tags.assign import Activation, probabilities
from tagger.tags.load import load_taxonomy
from tagger.tags.statements import read_statements
from tagger.tags.taxonomy import (
    CATEGORY_THRESHOLD,
    CATEGORY_TOP_K,
    DEFAULT_THRESHOLD,
    DEFAULT_TOP_K,
    Entry,
    Taxonomy,
)

__all__ = [
    "CATEGORY_THRESHOLD",
    "CATEGORY_TOP_K",
    "DEFAULT_THRESHOLD",
    "DEFAULT_TOP_K",
    "Activation",
    "Entry",
    "Taxonomy",
    "load_taxonomy",
    "probabilities",
    "read_statements",
]
