"""A small S3 server in memory, for what a real one cannot show: any raw key, any order, failures on demand.

It checks no signature: whether credentials are refused is a question for SeaweedFS.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_DATE: Final = "Mon, 02 Nov 2026 08:00:00 GMT"


@dataclass(frozen=True)
class Answer:
    """What a fault answers instead of the right thing.

    Attributes:
        status: HTTP status; 0 resets the connection.
        code: S3's error code.
        cut_at: Send the right answer, but end the connection after so many bytes of its body.
        apply: Carry a write out first, and then answer this.
        silent_s: Say nothing for so long, or until the server stops, and then reset.
    """

    status: int = 0
    code: str = ""
    cut_at: int | None = None
    apply: bool = False
    silent_s: float = 0.0


class RawS3:
    """An S3 server in memory on 127.0.0.1; a context manager.

    Attributes:
        objects: Raw key to content, for the one bucket `raw`.
        fault: Called with (method, key) before each request on an object, and ("LIST", start-after) before
            each listing; an `Answer` replaces the right one.
        requests: (method, key) of every request so far.
        deleted: Keys that take their place in a page of a listing and are not shown, as delete markers do.
        order: Sorts keys for listings; by the bytes of UTF-8, as Amazon does, unless changed.
    """

    bucket = "raw"

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})
        self.fault: Callable[[str, str], Answer | None] = lambda _method, _key: None
        self.order: Callable[[str], Any] = lambda key: key.encode()
        self.deleted: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.page_keys = 1000
        self.stopping = threading.Event()
        self.lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        """Address of the bucket."""
        return f"s3://{self.bucket}"

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def env(self) -> dict[str, str]:
        """Return the AWS_* variables that lead the standard tools to this server."""
        return {
            "AWS_ACCESS_KEY_ID": "raw",
            "AWS_SECRET_ACCESS_KEY": "raw-secret-0123456789",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are killed in the middle of a request: tests do that."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: RawS3

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        key, query = self._begin()
        if "list-type" in query:
            self._list(query)
            return
        fault = self._fault("GET", key)
        if fault is not None and fault.cut_at is None:
            self._refuse(fault)
            return
        data = self.store.objects.get(key)
        if data is None:
            self._refuse(Answer(404, "NoSuchKey"))
            return
        etag = _etag(data)
        if self.headers.get("If-Match", etag) != etag:
            self._refuse(Answer(412, "PreconditionFailed"))
            return
        headers, status = {"ETag": etag, "Last-Modified": _DATE}, 200
        span = self.headers.get("Range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            if int(first) >= len(data):
                self._refuse(Answer(416, "InvalidRange"))
                return
            end = min(int(last) + 1, len(data)) if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        self._answer(status, data, headers, cut_at=fault.cut_at if fault else None)

    def do_HEAD(self) -> None:
        key, _ = self._begin()
        fault = self._fault("HEAD", key)
        data = self.store.objects.get(key)
        if fault is not None or data is None:
            self._refuse(fault or Answer(404), body=False)
            return
        self._answer(200, b"", {"ETag": _etag(data), "Last-Modified": _DATE}, length=len(data))

    def do_PUT(self) -> None:
        key, _ = self._begin()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self._fault("PUT", key)
        if fault is not None and not fault.apply:
            self._refuse(fault)
            return
        with self.store.lock:
            old = self.store.objects.get(key)
            wanted = self.headers.get("If-Match")
            taken = self.headers.get("If-None-Match") == "*" and old is not None
            if taken or (wanted is not None and (old is None or _etag(old) != wanted)):
                self._refuse(Answer(412, "PreconditionFailed"))
                return
            self.store.objects[key] = body
        if fault is not None:
            self._refuse(fault)
            return
        self._answer(200, b"", {"ETag": _etag(body)})

    def do_DELETE(self) -> None:
        key, _ = self._begin()
        fault = self._fault("DELETE", key)
        if fault is not None:
            self._refuse(fault)
            return
        with self.store.lock:
            self.store.objects.pop(key, None)
        self._answer(204, b"", {})

    def _begin(self) -> tuple[str, dict[str, list[str]]]:
        path, _, query = self.path.partition("?")
        key = unquote(path).removeprefix(f"/{self.store.bucket}").removeprefix("/")
        return key, parse_qs(query, keep_blank_values=True)

    def _fault(self, method: str, key: str) -> Answer | None:
        with self.store.lock:
            self.store.requests.append((method, key))
            return self.store.fault(method, key)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        fault = self._fault("LIST", after)
        if fault is not None:
            self._refuse(fault)
            return
        order = self.store.order
        with self.store.lock:
            keys = [key for key in self.store.objects if key.startswith(prefix)]
            contents = dict(self.store.objects)
        keys = sorted((key for key in keys if not after or order(key) > order(after)), key=order)
        size = min(int(query.get("max-keys", ["1000"])[0]), self.store.page_keys)
        page, more = keys[:size], len(keys) > size
        url = query.get("encoding-type") == ["url"]
        rows = "".join(
            f"<Contents><Key>{quote(key) if url else escape(key)}</Key><Size>{len(contents[key])}</Size>"
            f"<ETag>{escape(_etag(contents[key]))}</ETag>"
            "<LastModified>2026-11-02T08:00:00.000Z</LastModified></Contents>"
            for key in page
            if key not in self.store.deleted
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more and page else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.store.bucket}</Name><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"{'<EncodingType>url</EncodingType>' if url else ''}{rows}</ListBucketResult>"
        )
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _refuse(self, answer: Answer, *, body: bool = True) -> None:
        if answer.silent_s:
            self.store.stopping.wait(answer.silent_s)
        if answer.status == 0:
            # Linger 0: the close becomes a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        key, _ = self._begin()
        error = f"<Error><Code>{answer.code}</Code><Key>{escape(key)}</Key></Error>"
        self._answer(answer.status, error.encode() if body else b"", {"Content-Type": "application/xml"})

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        length: int | None = None,
        cut_at: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if cut_at is not None:
            body = body[:cut_at]
            self.close_connection = True
        self.wfile.write(body)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
