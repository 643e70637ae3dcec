"""Bodies of requests: how openapi.json describes them, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from tagger.serve.answers import off_the_loop, served_by
from tagger.serve.bodies import example
from tagger.serve.problems import Refused, of_fields

if TYPE_CHECKING:
    from fastapi import Request

Body = TypeVar("Body", bound=BaseModel)

_LARGE_BYTES = 64 << 10


def content(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    """Return a request body as openapi.json describes it."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if "json_schema_extra" in model.model_config:
        content["example"] = example(model)
    return {media_type: content}


def media_type(request: Request) -> str:
    """Return what a request brings."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, model: type[Body]) -> Body:
    """Return the JSON that a request brings.

    Raises:
        Refused: 400, 415 or 422.
    """
    given = media_type(request)
    if given != "application/json" and not given.endswith("+json"):
        raise Refused(415, "send JSON, with `Content-Type: application/json`")
    data = await request.body()
    if len(data) <= _LARGE_BYTES:
        return checked(model, data)
    return await off_the_loop(served_by(request).background, lambda: checked(model, data))


def checked(model: type[Body], data: bytes, name: str = "the body") -> Body:
    """Return JSON as a model.

    Raises:
        Refused: 400 or 422.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        found = errors(error)
        if found[0]["type"] == "json_invalid":
            raise Refused(400, f"{name} is no JSON: {found[0]['msg']}"[:300]) from None
        raise of_fields(found) from None


def errors(error: ValidationError) -> list[Any]:
    """Return what is wrong, without what was sent."""
    return list(error.errors(include_url=False, include_input=False, include_context=False))
