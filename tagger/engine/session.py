"""A Ray cluster for the time of one run: our own on this machine, or one that is there already."""

import contextlib
import importlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tagger.engine.lean import forgetful_data, lean_data, lean_start
from tagger.engine.resources import object_store_bytes
from tagger.errors import ClusterUnavailable, RunError, UsageError
from tagger.settings import Settings

_ANSWER_S = 10.0
_LOOK_S = 3.0
_TICK_S = 0.2
_SILENT_S = 15.0  # that the head may be silent, to be started again, say

_SPARE_WORKERS = 8  # beside one for each CPU: those that read the plan, hold a model, write a group


@contextlib.contextmanager
def ray_session(
    address: str | None, *, settings: Settings, cpus: int | None = None
) -> Iterator[dict[str, float]]:
    """Connect to a Ray cluster, or start one on this machine, and leave it as it was found.

    Our own cluster listens on loopback, sends no usage statistics, and asks every client for a token
    that only this process and its workers know.

    Args:
        address: Address of a running cluster, or None for one of our own.
        settings: What the environment says.
        cpus: Logical CPUs of our own cluster; None takes those of the machine.

    Yields:
        The resources of the cluster, as Ray names them.

    Raises:
        UsageError: The cluster is beyond loopback and no token is set.
        RunError: The cluster does not answer.
    """
    require_token(address, settings)
    with _environment(address):
        # Ray Data takes a second to import and a cluster seconds to start: one waits while the other works.
        threading.Thread(target=importlib.import_module, args=("ray.data",), daemon=True).start()
        yield from _connected(address, settings, cpus or settings.cpus)


def _connected(address: str | None, settings: Settings, cpus: int) -> Iterator[dict[str, float]]:
    import ray

    own = address is None
    if own and ray._raylet.get_authentication_mode() != ray._raylet.AuthenticationMode.TOKEN:  # noqa: SLF001
        raise UsageError(
            "Ray was imported before tagger could have it ask for a token: "
            "set RAY_AUTH_MODE=token in the environment, or import ray after the first run"
        )
    if ray.is_initialized():
        raise UsageError(
            "this process is connected to Ray already: "
            "call ray.shutdown() first, or run tagger in its own process"
        )
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if own:
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": settings.object_store_bytes or object_store_bytes(cpus),
            "_system_config": {
                # Idle workers are kept: the next group to write would pay for a new one, 1 s of CPU.
                "num_workers_soft_limit": cpus + _SPARE_WORKERS,
                "enable_metrics_collection": False,  # for a dashboard that is not there
                # A client that finds the object store not ready yet tries again at once, not after a second.
                "raylet_client_connect_timeout_milliseconds": 50,
                "raylet_client_num_connect_attempts": 200,
                "preload_python_modules": ["tagger.engine.stream"],  # while the driver wires the stream
            },
        }
    else:
        options |= {"address": address, "namespace": "tagger"}
    try:
        if address is not None:
            _require_answer(address)
        with (
            _without_stderr(),
            _without_messages(),
            _within_reach(),
            lean_start() if own else contextlib.nullcontext(),
        ):
            ray.init(**{name: value for name, value in options.items() if value is not None})
    except KeyboardInterrupt:
        ray.shutdown()  # of what it has started so far
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"the Ray cluster {address or 'of this machine'} does not answer: {reason}") from error
    try:
        with forgetful_data(), lean_data() if own else contextlib.nullcontext():
            yield ray.cluster_resources()
    except ClusterUnavailable:
        raise  # to take leave of a cluster that is gone takes a minute, and then Ray ends the process
    except BaseException:
        _leave()
        raise
    else:
        _leave()


def _leave() -> None:
    import ray

    with _within_reach():
        ray.shutdown()


class HeadWatch:
    """Looks now and then whether the head of a cluster answers.

    Ray ends a process that has lost it, a minute later and without a word.
    """

    def __init__(self) -> None:
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self._next = 0.0
        self._silent_since: float | None = None

    def require(self) -> None:
        """Look, if it is time.

        Raises:
            ClusterUnavailable: It has not answered for a while.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_S
        if self.answers():
            self._silent_since = None
            return
        self._silent_since = self._silent_since or now
        if now - self._silent_since >= _SILENT_S:
            raise ClusterUnavailable(
                "the head of the Ray cluster does not answer any more; what is committed is kept: "
                "start the same command again when it is back"
            )

    def wait(self) -> None:
        """Return as soon as it answers.

        Raises:
            ClusterUnavailable: It does not, for a while.
        """
        while not self.answers():
            self.require()
            time.sleep(_TICK_S)

    def answers(self) -> bool:
        """Tell whether it answers now: many calls of Ray would wait until it does, or until Ray gives up."""
        try:
            socket.create_connection(self._head, timeout=_LOOK_S).close()
        except OSError:
            return False
        return True


_own_token: list[str] = []  # Ray reads the token once in the life of a process: a second run must keep it
_made_token: list[str] = []  # the same, where it is not one of the user's


@contextlib.contextmanager
def _environment(address: str | None) -> Iterator[None]:
    """Tell Ray what it only takes from the environment, before anything imports it.

    What was there before comes back at the end, but for the token: in a process that had it once, Ray starts
    nothing more without it, and a program may go on with Ray of its own.
    """
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that comes late must not start another cluster
        # Ray's C++ core writes to stderr past logging; only what kills a process is worth a line.
        "RAY_BACKEND_LOG_LEVEL": os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal"),
    }
    if address is None:
        if not _own_token:
            if not os.environ.get("RAY_AUTH_TOKEN"):
                _made_token.append(secrets.token_hex(32))
            _own_token.append(os.environ.get("RAY_AUTH_TOKEN") or _made_token[0])
        wanted |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _own_token[0],
            # Despite its name this is what keeps every port of a local cluster on 127.0.0.1, on Linux too.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            elif not (address is None and name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")):
                os.environ.pop(name, None)


def require_token(address: str | None, settings: Settings) -> None:
    """Refuse a cluster that anybody on the network could use; called before a run makes anything, too.

    Raises:
        UsageError: The cluster is beyond loopback and no token is set.
    """
    token_is_theirs = settings.ray_token_is_set and os.environ.get("RAY_AUTH_TOKEN") not in _made_token
    if address is not None and not _is_loopback(address) and not token_is_theirs:
        raise UsageError(
            f"--address {address} may lead beyond this machine and Ray's token authentication is off: "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on the cluster"
        )


def _require_answer(address: str) -> None:
    """See whether anybody listens: Ray itself waits for minutes, and hears no signal meanwhile.

    Raises:
        ConnectionError: Nobody does.
    """
    host, colon, port = address.split("://", 1)[-1].rpartition(":")
    if not (colon and port.isdecimal()):
        return  # such as `auto`, which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ConnectionError(f"nobody listens there ({error.strerror or error})") from None


@contextlib.contextmanager
def _within_reach() -> Iterator[None]:
    """Stay within reach: ray.init and ray.shutdown change who hears SIGTERM and Ctrl-C.

    The one takes SIGTERM over, to exit at once with 15, the other leaves it to nobody. And to be able to kill
    its servers together, Ray moves this process to a process group of its own, where Ctrl-C in a script,
    under make or in a pipe no longer finds it.
    """
    from ray._private import utils

    before, group = signal.getsignal(signal.SIGTERM), os.getpgrp()
    take_over, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = take_over
        with contextlib.suppress(OSError):
            os.setpgid(0, group)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Keep out what Ray prints to stdout when a machine or worker is lost: pages of its log amid our JSON."""
    from ray._private import worker

    listen = worker.listen_error_messages
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = listen


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep out what Ray's C++ core prints while it starts: it announces the log level it was told to use."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - not a path of ours
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _is_loopback(address: str) -> bool:
    """Tell whether an address names this machine.

    >>> [_is_loopback(a) for a in ("127.0.0.1:6379", "ray://localhost:10001", "10.0.0.7:6379", "auto")]
    [True, True, False, False]
    """
    host = address.split("://", 1)[-1].rsplit(":", 1)[0].strip("[]")
    if host in ("localhost", "local"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
