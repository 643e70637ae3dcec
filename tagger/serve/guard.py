"""The door: every request passes it before the application sees it, and is counted when it leaves.

Here is decided who is let in (Host, Origin, key), how much (rate, bytes, time, work at hand), and what every
answer carries. Nothing is parsed for a request that is refused, so that refusing stays cheap under load.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tagger.errors import TaggerError
from tagger.serve.gates import Gate, Rate
from tagger.serve.problems import Refused, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from tagger.serve.access_log import AccessLog
    from tagger.serve.served import Served

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_log = logging.getLogger("tagger.serve")

REQUEST_ID: Final = "tagger.request_id"
"""Where the application finds a request's id in its scope."""

_WANTED: Final = frozenset(
    {b"host", b"origin", b"authorization", b"content-length", b"content-type", b"transfer-encoding"}
)
_LINGER_BYTES: Final = 32 << 20
_LINGER_S: Final = 2.0
_WAITING: Final = 3  # of what takes longer
_UPLOADS: Final = 8  # of the largest size, in memory at once
_SMALL_BYTES: Final = 64 << 10
_TAKES_BODY: Final = frozenset({"search", "picture", "batch", "recommend", "decisions"})
_FORM_BYTES: Final = 64 << 10  # a multipart body's own words beside the picture
_PORT: Final = re.compile(r":[0-9]*$")
_GONE: Final = 499  # as nginx logs a caller who did not wait; nobody receives it

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS: Final = [
    # What every answer carries.
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", _POLICY),
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the door knows of an address.

    Attributes:
        name: For metrics and the log.
        gate: Which work it is; None for what costs nothing.
        is_open: Needs no key: the page itself, and what tells load balancers that the server is there.
        is_probe: Is never refused for load.
    """

    name: str
    gate: str | None = None
    is_open: bool = False
    is_probe: bool = False


_PICTURE: Final = Endpoint("search_picture", "picture")
_OTHER: Final = Endpoint("other")
ENDPOINTS: Final = {
    "/": Endpoint("page", is_open=True),
    "/healthz": Endpoint("healthz", is_open=True, is_probe=True),
    "/readyz": Endpoint("readyz", is_open=True, is_probe=True),
    "/metrics": Endpoint("metrics", is_probe=True),
    "/openapi.json": Endpoint("openapi", is_open=True),
    "/v1/collection": Endpoint("collection"),
    "/v1/search": Endpoint("search", "search"),
    "/v1/search/batch": Endpoint("search_batch", "batch"),
    "/v1/recommend": Endpoint("recommend", "recommend"),
    "/v1/tags": Endpoint("tags"),
    "/v1/image": Endpoint("image", "image"),
    "/v1/image/thumbnail": Endpoint("thumbnail", "image"),
    "/v1/image/explain": Endpoint("explain", "explain"),
    "/v1/products": Endpoint("products", "products"),
    "/v1/products/export": Endpoint("products_export", "export"),
    "/v1/product": Endpoint("product", "products"),
    "/v1/decisions": Endpoint("decisions", "decisions"),
}
WEB_PREFIX: Final = "/web/"
_WEB: Final = Endpoint("page", is_open=True)


class CallerGone(Exception):
    """The caller closed the connection before the body was whole."""


class Guard:
    """An ASGI application around another one.

    Args:
        app: What answers.
        served: What it answers from.
        log: Where each request leaves a line; None for none.
    """

    def __init__(self, app: App, served: Served, log: AccessLog | None) -> None:
        self._app = app
        self._served = served
        self._options = served.options
        self._metrics = served.metrics
        self._access = log
        self._keys = self._options.key_digests()
        self._rate = Rate(self._options.rate_per_s, self._options.most_at_once)
        cpus = served.cpus
        self._gates = {
            "search": Gate(cpus, waiting=1, burst=32 * cpus),
            "recommend": Gate(cpus, waiting=_WAITING, burst=16 * cpus),
            "batch": Gate(1, waiting=_WAITING, burst=_WAITING),
            "picture": Gate(cpus, waiting=2, burst=12 * cpus),
            "image": Gate(4, waiting=60, burst=64),
            "explain": Gate(1, waiting=3, burst=8),
            "products": Gate(cpus, waiting=_WAITING, burst=16 * cpus),
            "export": Gate(1, waiting=1, burst=2),
            "decisions": Gate(1, waiting=_WAITING, burst=64),
        }
        self._uploading = 0
        self._prefix = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        names = {"localhost", "127.0.0.1", "[::1]", self._options.host.lower()}
        self._hosts = frozenset(names | {name.lower() for name in self._options.allowed_hosts})

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request = _Request(scope, f"{self._prefix}-{next(self._numbers):x}", send, self._served)
        self._metrics.in_flight.inc()
        try:
            await self._answer(request, receive)
        except CallerGone:
            request.status = _GONE
        finally:
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - began
            self._metrics.answered(request.endpoint.name, request.status, seconds)
            if self._access is not None and not request.endpoint.is_probe:
                self._access.write(request.record(seconds))

    async def _answer(self, request: _Request, receive: Receive) -> None:
        gate = None
        reserved = 0
        try:
            self._let_in(request)
            name = request.endpoint.gate
            most = self._most_bytes(request)
            if name is not None:
                self._gates[name].require_room()  # before a large body is read for nothing
            if name in _TAKES_BODY and request.scope["method"] == "POST":
                reserved = self._reserve(request, most)
                with self._metrics.stage("upload"):
                    body = await self._read(receive, most)
                receive = _again(body, receive)
            if name is not None:
                self._gates[name].enter()
                gate = self._gates[name]
            scope = request.scope
            if scope["method"] == "HEAD":  # as GET; the server then leaves the body out
                scope = {**scope, "method": "GET"}
            async with asyncio.timeout(self._options.request_s):
                await self._app(scope, receive, request.send)
        except Refused as refused:
            await self._refuse(request, refused, receive)
        except TimeoutError:
            late = Refused(503, "the answer took too long; try again, or ask for less", retry_after_s=1)
            await self._refuse(request, late, receive)
        except TaggerError as error:
            await self._refuse(request, refusal(error), receive)
        except CallerGone:
            raise
        except Exception as error:
            _log.exception("request %s failed", request.id)
            await self._refuse(request, refusal(TaggerError(str(error))), receive)
        finally:
            self._uploading -= reserved
            if gate is not None:
                gate.leave()

    def _let_in(self, request: _Request) -> None:
        """Decide who is let in.

        Raises:
            Refused: 400, 401, 403 or 429.
        """
        headers = request.headers
        if request.doubled:
            raise Refused(400, f"there must be one {request.doubled.decode()} header")
        if self._options.is_loopback:
            self._require_own_host(headers, request.scope["method"])
        if not request.endpoint.is_open and self._keys:
            request.caller = self._require_key(headers.get(b"authorization"))
        else:
            client = request.scope.get("client")
            request.caller = str(client[0]).encode() if client else b"-"
        if not request.endpoint.is_probe:
            self._rate.take(request.caller)

    def _require_own_host(self, headers: dict[bytes, bytes], method: str) -> None:
        """Keep pages of other sites out, which a browser on this machine may show.

        A name that leads to 127.0.0.1 makes a foreign page of the same origin (DNS rebinding), and a form or
        fetch of a foreign page may post without reading the answer.
        """
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self._hosts:
            raise Refused(403, "this server answers to localhost alone; name other hosts with --allowed-host")
        origin = headers.get(b"origin")
        if method not in {"GET", "HEAD"} and origin is not None:
            try:
                parts = urlsplit(origin.decode("latin-1"))
                same = parts.netloc.lower() == headers.get(b"host", b"").decode("latin-1").lower()
            except ValueError:
                same = False
            if not same or parts.scheme not in {"http", "https"}:
                raise Refused(403, "pages of other sites may not use this server")

    def _require_key(self, given: bytes | None) -> bytes:
        scheme, _, key = (given or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise Refused(401, "send your API key: `Authorization: Bearer KEY`")
        digest = hashlib.sha256(key.strip()).digest()
        if digest not in self._keys:
            self._rate.take(b"wrong key")
            raise Refused(401, "this API key is not known")
        return digest

    def _most_bytes(self, request: _Request) -> int:
        if request.endpoint is _PICTURE:
            return self._options.max_picture_bytes + _FORM_BYTES
        many = request.endpoint.gate in {"batch", "decisions"}
        return self._options.max_batch_bytes if many else self._options.max_json_bytes

    def _reserve(self, request: _Request, most: int) -> int:
        """Set memory aside for a body.

        Returns:
            Bytes, to be given back.

        Raises:
            Refused: 400, 413, or 503 while others take all of it.
        """
        text = request.headers.get(b"content-length")
        length = most
        if text is not None and b"transfer-encoding" not in request.headers:
            if not text.isdigit():
                raise Refused(400, "Content-Length must be a number")
            length = int(text)
            if length > most:
                raise _too_large(most)
        if length <= _SMALL_BYTES:
            return 0  # a question is not refused because pictures take the room
        if self._uploading + length > _UPLOADS * self._options.max_picture_bytes:
            raise Refused(
                503, "the server is busy with other uploads; try again in a moment", retry_after_s=1
            )
        self._uploading += length
        return length

    async def _read(self, receive: Receive, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._options.upload_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CallerGone
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"the request must arrive within {self._options.upload_s:g} s") from None

    async def _refuse(self, request: _Request, refused: Refused, receive: Receive) -> None:
        if request.started:  # nothing can be taken back; the server ends the connection
            return
        body = refused.body(request.id)
        headers = [*refused.headers(), (b"content-length", str(len(body)).encode())]
        unread = refused.status in {408, 413}
        if unread:
            headers.append((b"connection", b"close"))
        await request.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await request.send({"type": "http.response.body", "body": body, "more_body": unread})
        if unread:
            # A connection that is closed while its caller still sends is reset, and the answer with it.
            if refused.status == 413:
                await _linger(receive)
            await request.send({"type": "http.response.body", "body": b"", "more_body": False})


class _Request:
    """One request on its way through."""

    __slots__ = (
        "_send",
        "_served",
        "bytes",
        "caller",
        "doubled",
        "endpoint",
        "headers",
        "id",
        "scope",
        "started",
        "status",
    )

    def __init__(self, scope: MutableMapping[str, Any], request_id: str, send: Send, served: Served) -> None:
        self.scope = scope
        self.id = scope[REQUEST_ID] = request_id
        self._send = send
        self._served = served
        self.started = False
        self.status = 0
        self.bytes = 0
        self.caller = b"-"
        self.doubled = b""
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _WANTED:
                if name in self.headers:
                    self.doubled = name
                self.headers[name] = value
        path = scope["path"]
        self.endpoint = ENDPOINTS.get(path) or (_WEB if path.startswith(WEB_PREFIX) else _OTHER)
        media_type = self.headers.get(b"content-type", b"").lower()
        if self.endpoint.name == "search" and media_type.startswith(b"multipart/"):
            self.endpoint = _PICTURE

    async def send(self, message: Message) -> None:
        """Send on, with what every answer carries."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = [*message.get("headers", ()), *SAFE_HEADERS, (b"x-request-id", self.id.encode())]
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            if self._served.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        else:
            self.bytes += len(message.get("body", b""))
        await self._send(message)

    def record(self, seconds: float) -> dict[str, Any]:
        """Return the line of the access log; neither query nor key is in it."""
        client = self.scope.get("client")
        return {
            "time": time.time(),
            "request_id": self.id,
            "client": client[0] if client else None,
            "method": self.scope["method"],
            "path": self.scope["path"][:200],
            "endpoint": self.endpoint.name,
            "status": self.status,
            "ms": round(1000 * seconds, 2),
            "bytes": self.bytes,
            "key": self.caller.hex()[:8] if len(self.caller) == 32 else None,
        }


def _host_name(host: str) -> str:
    """Return a Host header without its port.

    >>> _host_name("Localhost:8000"), _host_name("[::1]:8000"), _host_name("localhost:@evil.example")
    ('localhost', '[::1]', 'localhost:@evil.example')
    """
    return _PORT.sub("", host.strip().lower())


def _too_large(most: int) -> Refused:
    return Refused(413, f"the request is too large: at most {most:,} bytes")


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already, and then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _linger(receive: Receive) -> None:
    """Read on for a moment what nobody wants."""
    size = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while size < _LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return
