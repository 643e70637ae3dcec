"""Addresses of job servers, and of what is taken for one."""

from urllib.parse import urlsplit

from tagger.errors import UsageError


def parse_address(address: str) -> str:
    """Return the address of a job server without a slash at its end.

    >>> parse_address("http://10.0.0.5:8265/")
    'http://10.0.0.5:8265'

    Raises:
        UsageError: It is another kind of address; the text says which one is needed.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if (
        parts.scheme in ("http", "https")
        and host
        and not (parts.query or parts.fragment or "@" in parts.netloc)
    ):
        if port == 6379:
            raise UsageError(f"{_shown(address)} is the port of Ray's own processes: {where(host)}")
        return address.rstrip("/")
    if "@" in address:
        raise UsageError("a job server's address has no user and password: Ray's token takes their place")
    name = address.split("://", 1)[-1].rpartition(":")[0].strip("/") or "HOST"
    if parts.scheme == "ray":
        raise UsageError(f"{_shown(address)} is an address of the Ray client: {where(name)}")
    raise UsageError(f"{_shown(address)} is no address of a job server: {where(name)}")


def where(host: str) -> str:
    """Say where jobs are submitted to instead."""
    return f"jobs are submitted to the dashboard's, such as http://{host}:8265"


def _shown(address: str) -> str:
    return address[:200]
