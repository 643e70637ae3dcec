"""The API as a FastAPI application: addresses, bodies, and openapi.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from tagger import __version__
from tagger.errors import TaggerError
from tagger.serve import images_api, products_api, questions_api, state_api, web
from tagger.serve.bodies import REQUESTS
from tagger.serve.guard import REQUEST_ID, Guard
from tagger.serve.problems import Refused, of_fields, refusal
from tagger.serve.product_bodies import DecisionsBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import Request

    from tagger.serve.access_log import AccessLog
    from tagger.serve.served import Served

_ABOUT: Final = (
    "Similar images, images by tag, and recommendations from a tagged collection; and the products of an "
    "enriched catalog. Ids travel as query "
    "parameters or in bodies, never in paths: they are addresses with slashes. Errors are "
    "`application/problem+json` (RFC 9457)."
)
_REF: Final = "#/components/schemas/{model}"


def create_app(served: Served, *, log: AccessLog | None = None) -> Guard:
    """Return the API as an ASGI application, its door included.

    Args:
        served: What it answers from; the caller loads and closes it.
        log: Where each request leaves a line; None for none.
    """
    # Pages of documentation would fetch their scripts from elsewhere: openapi.json is enough.
    app = FastAPI(
        title="tagger",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.served = served
    for module in (state_api, questions_api, images_api, products_api, web):
        app.include_router(module.router)
    app.add_exception_handler(Refused, _problem(lambda error: error))
    app.add_exception_handler(TaggerError, _problem(refusal))
    app.add_exception_handler(RequestValidationError, _problem(_of_fields))
    app.add_exception_handler(HTTPException, _problem(_of_http))
    app.add_exception_handler(Exception, _problem(lambda error: refusal(TaggerError(str(error)))))
    app.openapi = lambda: _openapi(app, secured=bool(served.options.api_keys))  # type: ignore[method-assign]
    return Guard(app, served, log)


def _problem(make: Callable[[Any], Refused]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        refused = make(error)
        response = Response(refused.body(request.scope[REQUEST_ID]), refused.status)
        for name, value in refused.headers():
            response.headers[name.decode()] = value.decode()
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)  # Allow, of a method that is not taken
            if response.headers.get("allow") == "GET":
                response.headers["allow"] = "GET, HEAD"  # which the door turns into GET
        return response

    return handle


def _of_fields(error: RequestValidationError) -> Refused:
    return of_fields(list(error.errors()))


def _of_http(error: HTTPException) -> Refused:
    told = {
        404: "there is no such address; /openapi.json lists them",
        405: "this address takes another method; /openapi.json lists them",
    }
    return Refused(error.status_code, told.get(error.status_code, str(error.detail)))


def _openapi(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    models = [(model, "validation") for model in (*REQUESTS.values(), DecisionsBody)]
    _, definitions = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    if secured:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
        for path in ("/healthz", "/readyz"):
            schema["paths"][path]["get"]["security"] = []
    app.openapi_schema = schema
    return schema
