"""Every setting that comes from the environment; no other file reads it.

The standard AWS, Google and Azure variables are not listed here: boto3 and the stores read those themselves.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Settings:
    """What the environment decides, read once at the edge by `load_settings`.

    Attributes:
        cache_dir: Where converted models are kept, from TAGGER_CACHE; by default `tagger` in the user's cache
            folder (XDG_CACHE_HOME or ~/.cache). Safe to delete.
        cpus: CPUs this process may use: its affinity and, in a container, its quota; at least 1. TAGGER_CPUS
            overrides what was found.
        ray_address: Address of a Ray cluster, from RAY_ADDRESS; None starts one on this machine.
        machines: What that cluster may grow to, from TAGGER_MACHINES, such as `8x16cpu,4x4cpu+1gpu`.
        job_address: Where `tagger submit` and `tagger jobs` find the cluster, from RAY_API_SERVER_ADDRESS or
            RAY_ADDRESS; None means this machine.
        ray_token_is_set: Whether Ray's token authentication is on and has a token, as it must be for a
            cluster beyond this machine.
        object_store_bytes: Size of a local cluster's object store, from TAGGER_OBJECT_STORE_BYTES; None
            leaves it to Ray (30 % of memory). Lower it where /dev/shm is small.
        patience_s: How long one request to a store is tried again before it counts as failed, in seconds,
            from TAGGER_PATIENCE_S. 60 outlives a rolling restart; lower it where failing soon is better.
        request_timeout_s: How long a store may be silent within one request, in seconds, from
            TAGGER_REQUEST_TIMEOUT_S. Raise it for slow links.
        aws_region: AWS_REGION or AWS_DEFAULT_REGION; None leaves it to the AWS profile.
        api_key: What callers of `tagger serve` must know, from TAGGER_API_KEY; None asks for no key.
        allow_http: Whether Google or Azure storage may be reached without TLS: only an emulator
            (AZURE_STORAGE_USE_EMULATOR, or an http:// AZURE_ENDPOINT or GOOGLE_BASE_URL).
    """

    cache_dir: Path
    cpus: int = 1
    ray_address: str | None = None
    machines: str | None = None
    job_address: str | None = None
    ray_token_is_set: bool = False
    object_store_bytes: int | None = None
    patience_s: float = 60.0
    request_timeout_s: float = 30.0
    aws_region: str | None = None
    allow_http: bool = False
    api_key: str | None = field(default=None, repr=False)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings.

    Args:
        environ: The variables; those of this process by default.

    Raises:
        UsageError: A variable holds what it must not; the text names the variable.
    """
    environ = os.environ if environ is None else environ
    cache = environ.get("TAGGER_CACHE") or os.path.join(  # noqa: PTH118 - expanduser on a string keeps "~user"
        environ.get("XDG_CACHE_HOME") or "~/.cache", "tagger"
    )
    return Settings(
        cache_dir=Path(cache).expanduser().absolute(),
        cpus=_whole(environ, "TAGGER_CPUS", at_least=1) or usable_cpus(),
        ray_address=None if environ.get("RAY_ADDRESS") in ("", "local") else environ.get("RAY_ADDRESS"),
        machines=environ.get("TAGGER_MACHINES") or None,
        job_address=next(
            (
                environ[name]
                for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
                if environ.get(name) not in (None, "", "local", "auto")
            ),
            None,
        ),
        ray_token_is_set=_ray_token_is_set(environ),
        object_store_bytes=_whole(
            environ, "TAGGER_OBJECT_STORE_BYTES", at_least=80_000_000
        ),  # Ray's own bound
        patience_s=_seconds(environ, "TAGGER_PATIENCE_S", default=60.0, at_least=0.0),
        request_timeout_s=_seconds(environ, "TAGGER_REQUEST_TIMEOUT_S", default=30.0, at_least=1.0),
        api_key=environ.get("TAGGER_API_KEY") or None,
        aws_region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None,
        allow_http=bool(environ.get("AZURE_STORAGE_USE_EMULATOR"))
        or any(environ.get(name, "").startswith("http://") for name in ("AZURE_ENDPOINT", "GOOGLE_BASE_URL")),
    )


def environment_fingerprint(environ: Mapping[str, str] | None = None) -> str:
    """Return a digest of the variables that decide how stores are reached; equal while none of them changes.

    Opened connections are kept under it, so that a changed variable is heeded and no secret becomes a key.
    """
    environ = os.environ if environ is None else environ
    prefixes = ("AWS_", "BOTO_", "GOOGLE_", "AZURE_", "TAGGER_", "HTTP_", "HTTPS_", "http_", "https_")
    relevant = sorted(item for item in environ.items() if item[0].startswith(prefixes))
    return hashlib.sha256(repr((os.getpid(), relevant)).encode("utf-8", "surrogateescape")).hexdigest()


def variables() -> Mapping[str, str]:
    """Return the variables of this process, for what a user names one by one."""
    return os.environ


def _seconds(environ: Mapping[str, str], name: str, *, default: float, at_least: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{name} must be a number of seconds, got {text!r}") from None
    if not at_least <= value < float("inf"):
        raise UsageError(f"{name} must be at least {at_least:g}, got {text}")
    return value


def _whole(environ: Mapping[str, str], name: str, *, at_least: int) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise UsageError(f"{name} must be a whole number, got {text!r}")
    if int(text) < at_least:
        raise UsageError(f"{name} must be at least {at_least}, got {text}")
    return int(text)


def _ray_token_is_set(environ: Mapping[str, str]) -> bool:
    if environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return False
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return bool(environ.get("RAY_AUTH_TOKEN")) or path.is_file()


def memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_cpus() -> int:
    """Return how many CPUs this process may keep busy: its affinity, and the quota of its cgroup.

    A container with two CPUs of a machine with 64 sees all 64; only the quota tells.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2, seen from inside
        if quota != "max":
            allowed = min(allowed, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, allowed)
