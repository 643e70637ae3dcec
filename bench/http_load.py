"""Requests at a given rate, whatever the server does: an open loop, so that a slow answer delays no request.

Latency is counted from the moment a request was due. Bodies are made beforehand; the client costs some 0.1 ms
of CPU a request, and what it used is in the result.
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httptools
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CONNECTIONS: Final = 256
_END_S: Final = 30.0


@dataclass
class Load:
    """What became of the requests.

    Attributes:
        seconds: From the first request to the last answer.
        wanted_per_s: The rate.
        latencies: Seconds of each answer, by status; 0 stands for a connection that broke.
        cpu: Share of a core that the client used.
    """

    seconds: float
    wanted_per_s: float
    latencies: dict[int, list[float]] = field(default_factory=dict)
    cpu: float = 0.0

    @property
    def sent(self) -> int:
        """Requests in all."""
        return sum(map(len, self.latencies.values()))

    def count(self, *statuses: int) -> int:
        """Return how many had one of these statuses."""
        return sum(len(self.latencies.get(status, ())) for status in statuses)

    def percentile_ms(self, percent: float, *statuses: int) -> float | None:
        """Return a percentile of the latency of answers with one of these statuses; None without any."""
        found = [one for status in statuses for one in self.latencies.get(status, ())]
        return float(np.percentile(found, percent)) * 1000 if found else None

    def to_json(self) -> dict[str, Any]:
        """Return what a report needs."""
        refused = (429, 503)
        return {
            "wanted_per_s": self.wanted_per_s,
            "sent": self.sent,
            "answered_per_s": self.count(200) / self.seconds,
            "p50_ms": self.percentile_ms(50, 200),
            "p99_ms": self.percentile_ms(99, 200),
            "refused": self.count(*refused),
            "refused_p50_ms": self.percentile_ms(50, *refused),
            "refused_p99_ms": self.percentile_ms(99, *refused),
            "failed": self.sent - self.count(200, *refused),
            "client_cpu": self.cpu,
        }


def request(path: str, body: bytes, media_type: str = "application/json", *, close: bool = False) -> bytes:
    """Return a POST request as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n"
    )
    return head.encode() + body


def upload(path: str, picture: bytes, **words: str) -> bytes:
    """Return a POST request with a picture in a form."""
    mark = b"tagger-bench-boundary"
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (mark, k.encode(), v.encode())
        for k, v in words.items()
    ]
    parts.append(
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="q.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%b\r\n--%b--\r\n" % (mark, picture, mark)
    )
    return request(path, b"".join(parts), f"multipart/form-data; boundary={mark.decode()}")


def run(port: int, requests: Sequence[bytes], *, per_s: float, seconds: float, seed: int = 0) -> Load:
    """Send requests in turn, at random moments (a Poisson process), and wait for their answers."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(port, requests, per_s, seconds, seed))


async def _run(port: int, requests: Sequence[bytes], per_s: float, seconds: float, seed: int) -> Load:
    # Of a Poisson process with just so many events: gaps drawn one by one would make the period longer or
    # shorter by chance, for 900 requests by three in a hundred, and the rate with it.
    due = np.sort(np.random.default_rng(seed).uniform(0, seconds, max(1, round(per_s * seconds))))
    pool = _Pool(port)
    load = Load(seconds, per_s)
    answers: list[asyncio.Future[None]] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()

    def note(at: float) -> Callable[[int], None]:
        def done(status: int) -> None:
            load.latencies.setdefault(status, []).append(time.perf_counter() - at)

        return done

    for n, offset in enumerate(due):
        at = began + float(offset)
        wait = at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        answers.append(await pool.send(requests[n % len(requests)], note(at)))
    await asyncio.wait(answers, timeout=_END_S)
    load.seconds = max(seconds, time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    load.cpu = used / load.seconds
    pool.close()
    return load


class _Pool:
    """Connections that are kept, as many as are needed at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._room = asyncio.Semaphore(_CONNECTIONS)

    async def send(self, data: bytes, note: Callable[[int], None]) -> asyncio.Future[None]:
        """Send a request; the future ends when `note` was told its status."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        await self._room.acquire()
        connection = None
        while self._free and connection is None:
            connection = self._free.pop()
            if connection.is_closed:
                connection = None
        if connection is None:
            try:
                _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            except OSError:
                self._end(None, 0, note, done)
                return done
            self._all.add(connection)
        owner = connection
        owner.ask(data, lambda status: self._end(owner, status, note, done))
        return done

    def _end(
        self,
        connection: _Connection | None,
        status: int,
        note: Callable[[int], None],
        done: asyncio.Future[None],
    ) -> None:
        note(status)
        if connection is not None and not connection.is_closed:
            self._free.append(connection)
        elif connection is not None:
            self._all.discard(connection)
        self._room.release()
        if not done.done():
            done.set_result(None)

    def close(self) -> None:
        for connection in self._all:
            connection.end()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._told: Callable[[int], None] | None = None
        self._transport: Any = None
        self._parser: Any = None
        self._keep = True
        self.is_closed = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, data: bytes, told: Callable[[int], None]) -> None:
        self._told = told
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        told, self._told = self._told, None
        if not self._parser.should_keep_alive():
            self.is_closed = True
            self._transport.close()
        if told is not None:
            told(self._parser.get_status_code())

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_closed = True
        told, self._told = self._told, None
        if told is not None:
            told(0)

    def end(self) -> None:
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()
