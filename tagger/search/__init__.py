"""Query, recommend: what an indexed collection answers.

Importing this package loads neither faiss nor a model: what needs them imports them when called.
"""

from tagger.search.collection import Collection
from tagger.search.query import Found, Match, search
from tagger.search.recommending import recommend

__all__ = ["Collection", "Found", "Match", "recommend", "search"]
