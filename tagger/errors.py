"""Every exception of tagger, named by who acts on it.

    TaggerError
    ├── UsageError               the operator, before any work is done     (exit 2)
    │   ├── SourceError          no such bucket, empty prefix, bad manifest
    │   ├── ModelError           unknown model, missing or altered weights
    │   ├── TaxonomyError        a taxonomy file that cannot be used
    │   ├── CollectionError      another model, another format, not a collection
    │   ├── IndexUnusable        no index, a damaged one, one of another model
    │   └── QueryError           a question the index cannot answer as it was put
    │       ├── UnknownName      an image_id, tag or colour that is not there
    │       └── OtherModel       an embedding that another model made
    ├── RunError                 the operator starts the run again         (exit 1)
    │   ├── CollectionBusy       another run is writing
    │   ├── TakenOver            another run took this one's place
    │   ├── StoreUnavailable     storage refuses, throttles or does not answer
    │   └── ClusterUnavailable   the head of the cluster does not answer
    ├── StillRunning             nobody: a job goes on unwatched        (exit 130)
    └── ImageError               nobody: it becomes the row of one image

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ERROR_CODES: Final = (
    "not_found",
    "changed",
    "forbidden",
    "read_error",
    "empty",
    "too_large",
    "too_many_pixels",
    "unsupported_format",
    "corrupt",
    "timeout",
    "crash",
)
"""Every value of the `error` column, in the order the stages can raise them."""

SETTLED_CODES: Final = frozenset(
    {"empty", "too_large", "too_many_pixels", "unsupported_format", "corrupt", "crash"}
)
"""Failures that would only repeat: later runs leave such images out until their etag changes."""


class TaggerError(Exception):
    """Base of every error tagger raises on purpose; its text is one sentence that says what to do."""

    exit_code = 1


class UsageError(TaggerError):
    """Wrong usage or settings, found before any work was done."""

    exit_code = 2


class SourceError(UsageError):
    """The source cannot be listed: no such bucket, nothing under the prefix, a bad manifest."""


class ModelError(UsageError):
    """The model is unknown, or its weights are missing, altered or unusable."""


class TaxonomyError(UsageError):
    """The taxonomy file cannot be used; the text names the line."""


class CollectionError(UsageError):
    """The folder is not a collection, or was made by another model or format."""


class IndexUnusable(UsageError):
    """The collection has no index, or not one that may be served; `tagger index` makes another."""


class QueryError(UsageError):
    """A question that the index cannot answer as it was put: the caller changes it."""


class UnknownName(QueryError):
    """The question names an image, a tag or a colour that the index does not have.

    Args:
        text: One sentence.
        similar: Words that may have been meant.
    """

    def __init__(self, text: str, similar: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.similar = tuple(similar)


class OtherModel(QueryError):
    """The question holds an embedding that was not made by the model of the index."""


class RunError(TaggerError):
    """The run failed; what was committed is kept, and the same command goes on from there."""


class CollectionBusy(RunError):
    """Another run is writing to the collection."""


class TakenOver(RunError):
    """Another run took over the collection while this one stood still."""


class StoreUnavailable(RunError):
    """Storage refuses the credentials, throttles without end, or does not answer."""


class ClusterUnavailable(RunError):
    """The head of a cluster, or its job server, cannot be reached, or is not able to answer."""


class StillRunning(TaggerError):
    """Somebody stopped watching a job; it goes on, and the text says how to watch or stop it."""

    exit_code = 130


class ImageError(TaggerError):
    """One image cannot be tagged; becomes the `error` and `error_detail` of its row.

    Args:
        code: One of `ERROR_CODES`.
        detail: One sentence for a person. Never holds a secret or a signed address.
    """

    def __init__(self, code: str, detail: str) -> None:
        if code not in ERROR_CODES:
            raise ValueError(f"code must be one of {', '.join(ERROR_CODES)}, got {code!r}")
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
