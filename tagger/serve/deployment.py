"""The search API as a Ray Serve deployment. The one module of this folder that knows Ray.

    deploy(ClusterOptions(collection="s3://bucket/collection", replicas=2))

Each replica is what `tagger serve` is: the door, the application, and an index that looks for newer versions
of itself. HAProxy, one a node, is before them; it sends a request again whose replica dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import gc
import hashlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from tagger.errors import RunError, UsageError
from tagger.serve import one_write
from tagger.serve.access_log import AccessLog
from tagger.serve.app import create_app
from tagger.serve.known_answers import KnownAnswers
from tagger.serve.metrics import Metrics
from tagger.serve.served import Served
from tagger.serve.server import SWITCH_S
from tagger.settings import load_settings
from tagger.storage import StorageOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tagger.serve.guard import Guard
    from tagger.serve.scale import ClusterOptions
    from tagger.settings import Settings

NAME: Final = "search"
"""Of the application and its one deployment."""

_HEALTH_TIMEOUT_S: Final = 30.0
_DRAIN_S: Final = 60.0
_CONTROLLER: Final = "SERVE_CONTROLLER_ACTOR", "serve"  # name and namespace


@serve.ingress()
class Search:
    """One replica.

    Args:
        options: What the operator decided.
    """

    def __init__(self, options: ClusterOptions) -> None:
        settings = dataclasses.replace(load_settings(), cpus=options.cpus)
        self._served = Served(
            options.collection,
            storage=StorageOptions(anonymous=options.anonymous),
            settings=settings,
            options=options.serve_options(settings.api_key, _listening_on()),
            metrics=Metrics(),
            turn=lambda: _turn(settings, options.collection),
        )
        logging.getLogger("tagger.serve").setLevel(logging.INFO)
        one_write.install()
        self._served.require_usable()
        self._served.load()
        self._known = KnownAnswers(self._served.loaded.index)
        self._log = AccessLog(sys.stderr.buffer) if options.access_log else None
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # as the server does, and for its reason

    def __serve_build_asgi_app__(self) -> Guard:
        """Return what answers HTTP."""
        return create_app(self._served, log=self._log)

    async def check_health(self) -> None:
        """Ask known questions, by the way that searches go. Serve replaces a replica that fails three times.

        Raises:
            IndexUnusable: Its answers have changed.
            RunError: It is not ready.
        """
        await asyncio.wrap_future(self._served.workers.submit(self._require_health))

    def _require_health(self) -> None:
        why = self._served.why_not_ready
        if why is not None:
            raise RunError(why)
        index = self._served.loaded.index
        if self._known.index is not index:
            self._known = KnownAnswers(index)  # a newer version, whose files were checked just now
        self._known.require_same()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never whole
            self._served.close()
            if self._log is not None:
                self._log.close()


def application(options: ClusterOptions) -> serve.Application:
    """Return the API as an application for `serve.run`."""
    scaling: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas is not None and options.max_replicas > options.replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=options.replicas,
                max_replicas=options.max_replicas,
                target_ongoing_requests=options.ongoing,
                upscale_delay_s=5.0,
                downscale_delay_s=300.0,
                metrics_interval_s=1.0,
                look_back_period_s=5.0,
            )
        }
    deployment = serve.deployment(
        Search,
        name=NAME,
        max_ongoing_requests=options.max_ongoing,
        ray_actor_options={"num_cpus": options.cpus},
        health_check_period_s=options.health_s,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config=LoggingConfig(enable_access_log=False),  # the replica writes its own, without queries
        **scaling,
    )
    return deployment.bind(options)


def deploy(options: ClusterOptions) -> str:
    """Serve a collection on the cluster that this process is connected to, and return its address.

    Raises:
        UsageError: The cluster's Serve listens elsewhere.
        RunError: The replicas do not come up; the text is Serve's.
    """
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": options.host, "port": options.port, "keep_alive_timeout_s": 20},
    )
    found = _listening_on()
    if found != options.host:
        raise UsageError(
            f"Ray Serve runs on this cluster already, and listens on {found}: `serve shutdown` ends it"
        )
    try:
        serve.run(application(options), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise RunError(f"the search API did not start: {error}") from None
    return f"http://{options.host}:{options.port}"


def _listening_on() -> str:
    """Return the address that Serve listens on, whatever anybody told it: the door must know it."""
    name, namespace = _CONTROLLER
    config = ray.get(ray.get_actor(name, namespace=namespace).get_http_config.remote())
    return config.host or "0.0.0.0"  # noqa: S104 - that is what Serve makes of none


@contextlib.contextmanager
def _turn(settings: Settings, collection: str) -> Iterator[None]:
    """Let the replicas of one node load a newer version one after the other."""
    folder = settings.cache_dir / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(collection.encode()).hexdigest()[:16]
    with (folder / f"{name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
