"""What endpoints share: JSON answers, the documented errors, and work off the event loop."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from fastapi.responses import Response

from tagger.serve.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from fastapi import Request

    from tagger.serve.served import Served

T = TypeVar("T")

_MEANING = {
    400: "The request is not understood.",
    401: "The API key is missing or unknown.",
    403: "The Host or Origin header names another site.",
    404: "An image, tag, colour or product is not there, or the image is gone from its source, or no catalog "
    "is served.",
    408: "The request did not arrive in time.",
    409: "The embedding was made by another model.",
    410: "The image in storage is not the one that was tagged, or cannot be shown any more.",
    413: "The request is too large.",
    415: "The body is neither JSON nor a form with a file.",
    422: "A field has a value that it must not have.",
    429: "Too many requests by one caller; `Retry-After` tells when to go on.",
    500: "A fault of the server; its log tells more under the request_id.",
    502: "The storage of the images refuses.",
    503: "Not ready, or busy; `Retry-After` tells when to try again.",
    504: "The storage of the images does not answer in time.",
}

ALWAYS = (400, 401, 403, 422, 429, 500, 503)
"""Errors that any endpoint of /v1 may answer."""

OF_BODIES = (408, 413, 415)
OF_IMAGES = (404, 410, 502, 504)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return errors as openapi.json describes them."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted(statuses):
        found[status] = {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            found[status]["headers"] = {
                "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}
            }
    return found


def json_answer(content: Any, status: int = 200) -> Response:
    """Return content as JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def served_by(request: Request) -> Served:
    """Return what a request is answered from."""
    found: Served = request.app.state.served
    return found


async def off_the_loop(pool: Executor, work: Callable[[], T]) -> T:
    """Do work in a thread of `pool`."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)
