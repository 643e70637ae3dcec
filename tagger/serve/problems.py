"""Errors as the API tells them: RFC 9457 problem+json, one sentence that says what to do."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson

from tagger.errors import (
    ImageError,
    ModelError,
    OtherModel,
    QueryError,
    StoreUnavailable,
    TaggerError,
    UnknownName,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MEDIA_TYPE: Final = "application/problem+json"


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        detail: One sentence for a person.
        errors: Which fields are wrong: `{"field": …, "message": …}`.
        similar: Words that may have been meant.
        retry_after_s: When it is worth trying again, in seconds.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        similar: Sequence[str] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.similar = list(similar)
        self.retry_after_s = retry_after_s

    def problem(self, request_id: str) -> dict[str, Any]:
        """Return the problem as it is told."""
        problem: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            problem["errors"] = self.errors
        if self.similar:
            problem["similar"] = self.similar
        return problem

    def body(self, request_id: str) -> bytes:
        """Return the problem as JSON."""
        return orjson.dumps(self.problem(request_id))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to it."""
        found = [(b"content-type", MEDIA_TYPE.encode())]
        if self.retry_after_s is not None:
            found.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.status == HTTPStatus.UNAUTHORIZED:
            found.append((b"www-authenticate", b'Bearer realm="tagger"'))
        return found


_OF_STORAGE: Final = {"not_found": 404, "forbidden": 502, "timeout": 504, "read_error": 502}
"""What an image that cannot be read or decoded any more means to a caller; others are 410."""


def refusal(error: TaggerError) -> Refused:
    """Return the answer to a request that met an error."""
    if isinstance(error, OtherModel):
        return Refused(409, str(error))
    if isinstance(error, UnknownName):
        return Refused(404, str(error), similar=error.similar)
    if isinstance(error, QueryError | ModelError):
        return Refused(422, str(error))
    if isinstance(error, StoreUnavailable):
        return Refused(503, "the storage of the images does not answer; try again", retry_after_s=5)
    if isinstance(error, ImageError):
        return Refused(_OF_STORAGE.get(error.code, 410), f"the image cannot be shown: {error.detail}")
    return Refused(500, "something went wrong; the log of the server tells what, under this request_id")


_WORDING: Final = (
    ("Value error, ", ""),
    ("Input should be", "must be"),
    ("String should", "must"),
    ("List should", "must"),
    ("Extra inputs are not permitted", "there is no such field"),
    ("Field required", "is missing"),
)
"""What pydantic says, and how it is said here."""

_OF_TYPES: Final = ("constrained-", "list[")  # in the path of a field that may be of several types
_MOST_FIELDS: Final = 20


def of_fields(errors: list[Any]) -> Refused:
    """Return the answer to a request whose fields are wrong, from what pydantic says of them.

    >>> missing = {"loc": ("queries", 0, "k"), "msg": "Input should be less than or equal to 1000"}
    >>> of_fields([missing]).detail
    'queries.0.k: must be less than or equal to 1000'
    """
    messages: dict[str, list[str]] = {}
    for one in errors:
        path = [str(part) for part in one["loc"] if not str(part).startswith(_OF_TYPES)]
        message = str(one["msg"])
        for theirs, ours in _WORDING:
            message = message.replace(theirs, ours)
        messages.setdefault(".".join(path)[:200], []).append(message)
    fields = [
        {"field": field, "message": ", or ".join(some)[:300]}
        for field, some in list(messages.items())[:_MOST_FIELDS]
    ]
    first = fields[0]
    return Refused(422, f"{first['field'] or 'the body'}: {first['message']}", errors=fields)
