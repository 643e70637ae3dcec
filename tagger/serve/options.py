"""How the API is served: where it listens, who may call it, and what one request may cost."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tagger.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

LEAST_KEY: Final = 16
_MOST_KEY_FILE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the operator decides.

    Attributes:
        host: Address to listen on. Any but this machine's own needs an API key.
        port: 0 takes a free one.
        api_keys: Keys that are let in; without any, everybody on this machine is.
        allowed_hosts: Names by which the server may be called beside localhost, while it listens on this
            machine alone: that of a proxy in front of it.
        rate_per_s: Requests a second that one key, or without keys one address, may make over time. An
            application's own traffic should stay below; raise it for a large one.
        burst: Requests that may come at once; None for those of two seconds, at least 20.
        max_json_bytes: Largest JSON body: an embedding of 16,384 numbers fits.
        max_batch_bytes: Largest JSON body of a batch: 100 embeddings of 4,096 numbers fit.
        max_picture_bytes: Largest picture to search for.
        max_pixels: Most pixels of such a picture; decoding takes 3 bytes for each.
        upload_s: Time in which a request's body must have come, in seconds. Raise it for slow links.
        request_s: Time in which it must be answered, in seconds.
        idle_s: Time a connection may say nothing, in seconds.
        max_connections: Connections at a time; beyond, the one that has been idle for longest is closed.
        reload_s: How often a new version of the index is looked for, in seconds.
        drain_s: After SIGTERM, how long requests are still taken while load balancers notice, in seconds.
        cache_bytes: Memory for thumbnails.
        catalog: Parquet file of `tagger enrich`, whose products are served, too.
        decisions: Where decisions about the products' tags are kept; beside the catalog if not given.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    rate_per_s: float = 1000.0
    burst: int | None = None
    max_json_bytes: int = 1 << 20
    max_batch_bytes: int = 8 << 20
    max_picture_bytes: int = 20 << 20
    max_pixels: int = 60_000_000
    upload_s: float = 20.0
    request_s: float = 30.0
    idle_s: float = 20.0
    max_connections: int = 1000
    reload_s: float = 2.0
    drain_s: float = 2.0
    cache_bytes: int = 128 << 20
    catalog: Path | None = None
    decisions: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be from 0 to 65535, got {self.port}")
        if not 0 < self.rate_per_s < float("inf"):
            raise UsageError(f"--rate must be above 0, got {self.rate_per_s:g}")
        for key in self.api_keys:
            if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise UsageError(
                    f"an API key must have at least {LEAST_KEY} characters, all printable ASCII "
                    "but the space: `openssl rand -hex 32` makes one"
                )
        if self.decisions is not None and self.catalog is None:
            raise UsageError("--decisions needs --catalog: decisions are made about a catalog's products")
        if not self.is_loopback and not self.api_keys:
            raise UsageError(
                f"--host {self.host} can be reached by others: set an API key in TAGGER_API_KEY or "
                "--api-key-file"
            )

    @property
    def decisions_file(self) -> Path | None:
        """Where decisions are kept; None without a catalog."""
        if self.catalog is None:
            return None
        return self.decisions or self.catalog.with_name(f"{self.catalog.stem}.decisions.csv")

    @property
    def most_at_once(self) -> int:
        """Requests of one caller that may come at once."""
        return max(20, round(2 * self.rate_per_s)) if self.burst is None else self.burst

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def key_digests(self) -> frozenset[bytes]:
        """Return the sha256 of each key: comparing those tells nothing about the keys by its duration."""
        return frozenset(hashlib.sha256(key.encode()).digest() for key in self.api_keys)


def read_keys(path: Path) -> tuple[str, ...]:
    """Read a file of API keys, one a line; empty lines and those that begin with # are left out.

    Raises:
        UsageError: It cannot be read, or has no key. The text never shows a key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_KEY_FILE).decode()
    except OSError as error:
        raise UsageError(f"--api-key-file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--api-key-file {path} is not a text file") from None
    lines = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise UsageError(f"--api-key-file {path} holds no key: write one a line")
    return keys
