"""The web page: files of this package, read once."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tagger.serve.guard import WEB_PREFIX
from tagger.serve.problems import Refused

router = APIRouter(include_in_schema=False)

_PAGE: Final = "index.html"
_MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return the content, media type and etag of every file by name."""
    found = {}
    for file in (files("tagger") / "serve" / "web").iterdir():
        media_type = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            data = file.read_bytes()
            found[file.name] = data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return found


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Return the page."""
    return _answer(request, _PAGE)


@router.api_route(WEB_PREFIX + "{name}", methods=["GET", "HEAD"])
async def part(request: Request, name: str) -> Response:
    """Return a script, style or drawing of the page."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise Refused(404, "there is no such file")
    data, media_type, etag = found
    headers = {"etag": etag, "cache-control": "no-cache"}  # asks each time, and is told that it is the same
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
