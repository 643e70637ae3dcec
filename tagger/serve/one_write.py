"""HTTP as uvicorn speaks it, but with an answer's head and body in one write.

uvicorn writes them one after the other, and Python lets other threads run in between. A process that is
killed in that moment has sent a head without a body: whoever is before it can then no longer ask another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio


class OneWrite:
    """A transport that writes at the end of the event loop's turn what was written during it.

    Args:
        transport: That really writes.
        loop: Whose turn it is.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write, soon."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Write what waits, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's, over such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]


def install() -> None:
    """Let every uvicorn of this process use it that is not told another one: Serve's cannot be told."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:Protocol"
