"""Query, recommend: what an indexed collection answers.

Importing this package loads neither faiss nor a model: what needs them imports them when called. The batch
job for all customers is loaded when it is asked for, because a search should not wait for DuckDB.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tagger.search.collection import Collection
from tagger.search.query import Found, Match, search
from tagger.search.recommending import recommend

if TYPE_CHECKING:
    from tagger.search.choosing import UserOptions
    from tagger.search.events import EventOptions
    from tagger.search.users import Recommended, recommend_users

__all__ = [
    "Collection",
    "EventOptions",
    "Found",
    "Match",
    "Recommended",
    "UserOptions",
    "recommend",
    "recommend_users",
    "search",
]


def __getattr__(name: str) -> Any:
    """Load the batch job when it is asked for."""
    homes = {
        "EventOptions": "tagger.search.events",
        "Recommended": "tagger.search.users",
        "UserOptions": "tagger.search.choosing",
        "recommend_users": "tagger.search.users",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
