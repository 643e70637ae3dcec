"""Query, recommend: what an indexed collection answers.

Importing this package loads neither faiss nor a model: what needs them imports them when called.
"""

from tagger.search.choosing import UserOptions
from tagger.search.collection import Collection
from tagger.search.events import EventOptions
from tagger.search.query import Found, Match, search
from tagger.search.recommending import recommend
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
