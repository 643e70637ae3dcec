"""What deltalake's errors mean for the operator. Their text is matched because they carry nothing else."""

from __future__ import annotations

import re
from typing import Final

from tagger.errors import RunError, StoreUnavailable, TaggerError

_FULL: Final = re.compile(
    r"no space left|os error 28\b|disk quota|quota exceeded|insufficient ?storage|\b507\b", re.IGNORECASE
)
_REFUSED: Final = re.compile(
    r"access ?denied|expired ?token|token.{0,20}expired|invalid ?access ?key|signature ?does ?not ?match|"
    r"permission ?denied|unauthenticated|unauthorized|forbidden|\b40[13]\b",
    re.IGNORECASE,
)


class _Refused(StoreUnavailable):
    """The store answers, and says no."""


def store_trouble(error: BaseException, uri: str) -> TaggerError:
    """Return the error of ours for what deltalake raised while working on the collection `uri`.

    The text of the original is left out: it can quote requests with what signs them.
    """
    if isinstance(error, TaggerError):
        return error
    text = str(error)
    if _FULL.search(text):
        return RunError(
            f"no space left at {uri}; what was committed is kept: make room and start the same command again"
        )
    if _REFUSED.search(text):
        return _Refused(f"the store refuses to read or write {uri}; check the credentials")
    return StoreUnavailable(f"the store does not serve {uri} ({type(error).__name__})")


def is_passing(error: TaggerError) -> bool:
    """Tell whether trying the same again may help: the store is unreachable, throttles or fails."""
    return isinstance(error, StoreUnavailable) and not isinstance(error, _Refused)
