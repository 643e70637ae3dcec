"""Whether the server is alive and ready, what it counts, and what it serves."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tagger.serve.answers import ALWAYS, json_answer, off_the_loop, problems, served_by
from tagger.serve.bodies import MOST_FOLDED_OFFSET, MOST_K, MOST_OFFSET, CollectionBody, HealthBody, TagBody
from tagger.serve.metrics import CONTENT_TYPE
from tagger.vision.colors import COLOR_NAMES

router = APIRouter()

_WORDS = 20
_MOST_WORDS = 200


@router.get("/healthz", response_model=HealthBody, summary="Is the process alive?", responses=problems(403))
async def healthz() -> Response:
    """Answer as long as the process runs."""
    return json_answer({"status": "ok"})


@router.get(
    "/readyz",
    response_model=HealthBody,
    summary="May requests be sent here?",
    responses={**problems(403), 503: {"description": "Not now.", "model": HealthBody}},
)
async def readyz(request: Request) -> Response:
    """Answer 200 once index and model are loaded and until shutdown begins; else 503 and why."""
    why = served_by(request).why_not_ready
    return json_answer({"status": why or "ready"}, 503 if why else 200)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401, 403)},
)
async def metrics(request: Request) -> Response:
    """Return counters in Prometheus' text format."""
    return Response(served_by(request).metrics.text(), headers={"content-type": CONTENT_TYPE})


@router.get(
    "/v1/collection",
    response_model=CollectionBody,
    summary="What is served",
    responses=problems(*ALWAYS),
)
async def collection(request: Request) -> Response:
    """Tell the model, the number of images, and the version and age of the index."""
    served = served_by(request)
    loaded = served.loaded
    explains = await off_the_loop(served.background, lambda: served.explainer.explains(loaded))
    return json_answer(
        {
            **loaded.about(served.table_version),
            "colors": list(COLOR_NAMES),
            "explains": explains,
            "max_k": MOST_K,
            "framing": served.pictures.framing,
            "max_offset": MOST_OFFSET,
            "max_folded_offset": MOST_FOLDED_OFFSET,
            "max_picture_bytes": served.options.max_picture_bytes,
            "catalog": served.about_catalog(),
        }
    )


@router.get(
    "/v1/tags", response_model=list[TagBody], summary="Tags by their beginning", responses=problems(*ALWAYS)
)
async def tags(
    request: Request,
    prefix: Annotated[str, Query(max_length=200, description="How the tag, or a word in it, begins.")] = "",
    limit: Annotated[int, Query(ge=1, le=_MOST_WORDS, description="Most tags.")] = _WORDS,
) -> Response:
    """Return tags and categories for completion: most frequent first, those that begin so before others."""
    rows = served_by(request).loaded.tags
    wanted = prefix.casefold().strip()
    first = [row for row in rows if row[0].startswith(wanted)]
    later = (
        [row for row in rows if not row[0].startswith(wanted) and f" {wanted}" in row[0]]
        if len(first) < limit
        else []
    )
    return json_answer(
        [{"tag": word, "parent": parent, "count": n} for _, word, parent, n in [*first, *later][:limit]]
    )
