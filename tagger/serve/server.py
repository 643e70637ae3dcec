"""The process: sockets, connections, signals, and the order in which things start and end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tagger.errors import UsageError
from tagger.serve.access_log import AccessLog
from tagger.serve.app import create_app
from tagger.serve.guard import SAFE_HEADERS
from tagger.serve.metrics import Metrics
from tagger.serve.problems import Refused
from tagger.serve.served import Served
from tagger.settings import load_settings
from tagger.storage import StorageOptions

_log = logging.getLogger("tagger.serve")

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tagger.serve.options import ServeOptions
    from tagger.settings import Settings

SWITCH_S: Final = 0.0005
"""How long one thread may keep Python from the others: the event loop answers hundreds of callers while
searches run, and the usual 5 ms would be most of their time."""

_SPARE_FILES: Final = 256
_BACKLOG: Final = 2048
_SLACK_S: Final = 30.0
_GRACE_S: Final = 1.0
_MOST_HEAD_BYTES: Final = 80 << 10  # an image_id of 4,096 characters, percent-encoded, takes 48 KB
_MOST_HEADERS: Final = 100
_MALFORMED: Final = Refused(400, "the request is malformed, or its address or headers are too long")


def serve(
    collection: str,
    options: ServeOptions,
    *,
    storage: StorageOptions | None = None,
    settings: Settings | None = None,
    access_log: bool = True,
    on_listen: Callable[[str], None] = lambda _: None,
    on_ready: Callable[[str, float], None] = lambda _, __: None,
) -> None:
    """Serve a collection until SIGTERM or SIGINT; then finish what was begun.

    Args:
        collection: Folder or prefix of a collection with an index.
        options: Where and how.
        storage: How to reach the collection and its images.
        settings: What the environment says; read if not given.
        access_log: Write a line of JSON a request to stderr.
        on_listen: Called with the address once it can be connected to.
        on_ready: Called with the address and the seconds it took once requests are answered.

    Raises:
        UsageError: There is no collection or index, its model is not here, or the address cannot be used.
        StoreUnavailable: The store does not answer.
    """
    began = time.monotonic()
    settings = settings or load_settings()
    metrics = Metrics()
    served = Served(
        collection,
        storage=storage or StorageOptions(),
        settings=settings,
        options=options,
        metrics=metrics,
    )
    log = None
    try:
        served.require_usable()
        with _bound(options) as listener:
            log = AccessLog(sys.stderr.buffer) if access_log else None
            address = _address(options.host, listener.getsockname()[1])
            on_listen(address)
            server = _Server(_config(served, log), served)

            def load() -> None:
                try:
                    served.load()
                    gc.collect()
                    gc.freeze()  # millions of words and ids are not looked through again
                except Exception as error:
                    server.fail(error)
                else:
                    on_ready(address, time.monotonic() - began)

            loading = threading.Thread(target=load, name="tagger-load", daemon=True)
            loading.start()
            before = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_S)
            try:
                server.run([listener])
            finally:
                sys.setswitchinterval(before)
                gc.unfreeze()
            loading.join()
        if server.error is not None:
            raise server.error
    finally:
        served.close()
        if log is not None:
            log.close()


def _config(served: Served, log: AccessLog | None) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # every malformed request is a warning there
    options = served.options
    return uvicorn.Config(
        create_app(served, log=log),
        http=_protocol(served),
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(options.upload_s + options.request_s),
    )


class _Server(uvicorn.Server):
    """Takes requests for a while after SIGTERM, so that load balancers notice before anybody is refused."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self._served = served
        self._drain_until: float | None = None
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """End because of an error."""
        self.error = error
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second signal does not wait."""
        del frame
        if self._drain_until is not None or sig == signal.SIGINT or self._served.why_not_ready:
            self.should_exit = True
        if not self._served.draining:
            _log.info("%s: answering what is asked, then ending", signal.Signals(sig).name)
        self._served.draining = True
        self._drain_until = time.monotonic() + self._served.options.drain_s

    async def on_tick(self, counter: int) -> bool:
        """End once the time for draining is over."""
        if self._drain_until is not None and time.monotonic() >= self._drain_until:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door right after looking whether somebody stands before it: who did is let in."""
        for _ in range(3):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


class _Room:
    """Connections that are open, those without a request under way from the longest idle on."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0
        self.idle: dict[Any, None] = {}
        self.sending: dict[Any, None] = {}


def _protocol(served: Served) -> type[HttpToolsProtocol]:
    options = served.options
    room = _Room(_most_connections(options.max_connections))

    class Protocol(HttpToolsProtocol):
        """A connection that may not stay for nothing: uvicorn itself times only those that were answered.

        Headers must be whole `idle_s` after the connection or the answer before, however slowly they drip.
        """

        _timer: asyncio.TimerHandle | None = None
        _made_at = 0.0
        _unparsed = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Let it in; when the room is full, whoever has been idle for longest goes."""
            super().connection_made(transport)
            self._made_at = self.loop.time()
            room.open += 1
            served.metrics.connections.set(room.open)
            if room.open > room.most:
                oldest = next(iter(room.idle), None) or next(iter(room.sending), self)
                room.idle.pop(oldest, None)
                room.sending.pop(oldest, None)
                oldest.transport.abort()
            self._rest()

        def data_received(self, data: bytes) -> None:
            """Take bytes in; end a connection that sends headers, or an address, without end."""
            self._unparsed += len(data)
            super().data_received(data)
            if self._unparsed > _MOST_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("")

        def on_message_begin(self) -> None:
            """Begin to count its headers."""
            self._unparsed = 0
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            """Take a header in, or one behind a body in chunks."""
            if len(self.headers) >= _MOST_HEADERS:
                raise ValueError("too many headers")  # which the parser reports as malformed
            super().on_header(name, value)

        def on_body(self, body: bytes) -> None:
            """Take a part of a body in; how much it may be is the guard's to say."""
            self._unparsed = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            """Note that all of a request is here."""
            self._unparsed = 0
            room.sending.pop(self, None)
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget it."""
            room.open -= 1
            served.metrics.connections.set(room.open)
            room.idle.pop(self, None)
            room.sending.pop(self, None)
            self._set_timer(None)
            super().connection_lost(exc)

        def on_headers_complete(self) -> None:
            """Begin a request."""
            self._unparsed = 0
            room.idle.pop(self, None)
            room.sending[self] = None
            self._set_timer(options.upload_s + options.request_s + _SLACK_S)
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            """Wait for the next request."""
            goes_on = bool(self.pipeline)  # which super() takes the next request from
            super().on_response_complete()
            self._unset_keepalive_if_required()
            if not self.transport.is_closing() and not goes_on:
                self._rest()

        def shutdown(self) -> None:
            """Close it, but for one so young that its first request may be on the way."""
            if self.cycle is None and self.loop.time() - self._made_at < _GRACE_S:
                self._set_timer(_GRACE_S)
            else:
                super().shutdown()

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP, and end the connection."""
            del msg
            body = _MALFORMED.body("-")
            headers = [*_MALFORMED.headers(), *SAFE_HEADERS, (b"connection", b"close")]
            head = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
            )
            served.metrics.answered("malformed", _MALFORMED.status, 0.0)
            self.transport.close()

        def _rest(self) -> None:
            room.idle[self] = None
            self._set_timer(options.idle_s)

        def _set_timer(self, seconds: float | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    return Protocol


def _most_connections(wanted: int) -> int:
    """Return how many connections the process may hold open, after asking for as many as are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _SPARE_FILES + _BACKLOG
    if soft != resource.RLIM_INFINITY and soft < need:
        limit = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
    return wanted if soft == resource.RLIM_INFINITY else max(16, min(wanted, soft - _SPARE_FILES))


def _bound(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror or error}): name another "
            "--host or --port"
        ) from None
    return listener


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
