"""Search and recommend."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from tagger.errors import TaggerError
from tagger.search import recommend as recommend_images
from tagger.search import search as search_images
from tagger.serve.answers import ALWAYS, OF_BODIES, json_answer, off_the_loop, problems, served_by
from tagger.serve.bodies import (
    HEAVY,
    BatchBody,
    BatchFound,
    FilterBody,
    FoundBody,
    RecommendBody,
    SearchBody,
    UploadBody,
)
from tagger.serve.guard import REQUEST_ID
from tagger.serve.problems import Refused, of_fields, refusal
from tagger.serve.requests import checked, content, errors, json_body, media_type

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from fastapi.responses import Response

    from tagger.search import Found
    from tagger.serve.served import Served

router = APIRouter()

_MOST_FIELDS = 10
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_MOST_FIELD_BYTES = 64 << 10


@router.post(
    "/v1/search",
    response_model=FoundBody,
    summary="Images like a picture, or with a tag",
    responses=problems(*ALWAYS, *OF_BODIES, 404, 409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {**content(SearchBody), **content(UploadBody, "multipart/form-data")},
        }
    },
)
async def search(request: Request) -> Response:
    """Search by image_id, embedding or tag (JSON), or by an uploaded picture (multipart, `file`)."""
    served = served_by(request)
    if media_type(request) == "multipart/form-data":
        asked, data = await _form(request)
        served.loaded  # noqa: B018 - not ready is told before the model works
        embedding = await asyncio.wrap_future(served.pictures.submit(data))
    else:
        asked, embedding = await json_body(request, SearchBody), None
    return json_answer(await _search(served, asked, embedding))


@router.post(
    "/v1/search/batch",
    response_model=BatchFound,
    summary="Up to 100 searches at once",
    responses=problems(*ALWAYS, *OF_BODIES),
    openapi_extra={"requestBody": {"required": True, "content": content(BatchBody)}},
)
async def search_batch(request: Request) -> Response:
    """Answer several searches; one that cannot be answered costs the others nothing."""
    served = served_by(request)
    asked = await json_body(request, BatchBody)
    results: list[Any] = []
    for query in asked.queries:  # one after the other, so that single searches come between them
        try:
            results.append(await _search(served, query, None))
        except TaggerError as error:
            results.append(refusal(error).problem(request.scope[REQUEST_ID]))
    return json_answer({"results": results})


@router.post(
    "/v1/recommend",
    response_model=FoundBody,
    summary="Images for somebody who liked some",
    responses=problems(*ALWAYS, *OF_BODIES, 404),
    openapi_extra={"requestBody": {"required": True, "content": content(RecommendBody)}},
)
async def recommend(request: Request) -> Response:
    """Recommend images like those that were liked and unlike those that were disliked."""
    served = served_by(request)
    asked = await json_body(request, RecommendBody)
    index = served.loaded.index

    def work() -> Found:
        with served.metrics.stage("recommend"):
            return recommend_images(
                index,
                asked.positive,
                asked.negative,
                k=asked.k,
                filter=_filter(asked.filter),
                diversity=asked.diversity,
            )

    pool = served.heavy if asked.k > HEAVY // 10 else served.workers
    return json_answer((await off_the_loop(pool, work)).to_json())


async def _search(
    served: Served, asked: SearchBody, embedding: npt.NDArray[np.float32] | None
) -> dict[str, Any]:
    index = served.loaded.index

    def work() -> Found:
        with served.metrics.stage("search"):
            return search_images(
                index,
                image_id=asked.image_id,
                embedding=asked.embedding if embedding is None else embedding,
                tag=asked.tag,
                k=asked.k,
                offset=asked.offset,
                filter=_filter(asked.filter),
                fold=asked.fold,
                model_id=asked.model_id,
            )

    found = (await off_the_loop(served.heavy if asked.is_heavy else served.workers, work)).to_json()
    if (found["next_offset"] or 0) > asked.most_offset:
        found["next_offset"] = None  # as far as pages go
    return found


def _filter(given: FilterBody | None) -> dict[str, Any] | None:
    return None if given is None else given.model_dump()


class _Parser(MultiPartParser):
    spool_max_size = 1 << 30  # the door has bounded the body, and it is in memory: nothing goes to disk


async def _form(request: Request) -> tuple[SearchBody, bytes]:
    """Return the words of a form and the picture in it."""
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_MOST_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refused(400, f"the form cannot be read: {error}"[:300]) from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refused(422, "the form needs a field `file` with an image file")
        data = await file.read()
        given: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name == "file":
                continue
            if not isinstance(value, str) or name in given:
                raise Refused(422, f"the form has a field {name[:50]!r} that it must not have")
            given[name] = value
        return _from_words(given), data
    finally:
        await form.close()


def _from_words(given: dict[str, str]) -> SearchBody:
    """Return the fields of a form, which are all text, as the JSON body would have them."""
    parsed: dict[str, Any] = dict(given)
    for name in ("k", "offset"):
        if name in parsed:
            if not _WHOLE.fullmatch(parsed[name].strip()):
                raise Refused(422, f"{name}: must be a whole number")
            parsed[name] = int(parsed[name])
    if "fold" in parsed:
        if parsed["fold"].lower() not in {"true", "false", "1", "0"}:
            raise Refused(422, "fold: must be true or false")
        parsed["fold"] = parsed["fold"].lower() in {"true", "1"}
    if "filter" in parsed:
        parsed["filter"] = checked(FilterBody, parsed["filter"].encode("utf-8", "surrogatepass"), "filter")
    unknown = set(parsed) - {"k", "offset", "fold", "filter", "tag"}
    if unknown:
        raise Refused(
            422, f"the form has no field {min(unknown)[:50]!r}; it has file, tag, k, offset, fold, filter"
        )
    try:
        return SearchBody.model_validate(parsed)
    except ValidationError as error:
        raise of_fields(errors(error)) from None
