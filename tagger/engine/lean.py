"""What Ray and Ray Data start for large clusters, left out where the cluster is one machine of our own.

A run on two cores pays for every process: some 0.5 to 1 s of CPU each, before the first image. Left out are
the autoscaler's monitor, the dashboard, the log monitor and raylet's two agents (nobody asks them: the
cluster lives as long as the run, in one environment), and three actors of Ray Data that keep statistics for
the dashboard, divide a cluster between datasets, and remember on which node an actor is. A cluster that was
there before is left as it is; `forgetful_data` alone holds for it, too, because it is about this process.

All of it replaces names inside Ray, which pyproject.toml holds to one minor version.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from tagger.engine import idle_agent

_LOOK_S = 0.02
_NODE_S = 10.0  # then Ray's own way, which looks once a second and gives up with an error


@contextlib.contextmanager
def lean_start() -> Iterator[None]:
    """Have `ray.init` start only what runs tasks: gcs_server and raylet."""
    from ray._private import ray_constants, services
    from ray._private.node import Node

    get_node = services.get_node
    python = services._build_python_executable_command_memory_profileable  # noqa: SLF001
    agents = (ray_constants.PROCESS_TYPE_DASHBOARD_AGENT, ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT)

    def start_nothing(*_: Any, **__: Any) -> None:
        """Stand in for what starts a process."""

    def get_node_soon(gcs_address: str, node_id: str) -> Any:
        _wait_for_node(gcs_address, node_id)
        return get_node(gcs_address, node_id)

    def python_for(component: str, *rest: Any, **options: Any) -> list[str]:
        if component in agents:  # the path of its script and its options follow
            return [sys.executable, "-I", "-S", idle_agent.__file__]
        command: list[str] = python(component, *rest, **options)
        return command

    with contextlib.ExitStack() as stack:
        stack.enter_context(
            _replaced(services, "_build_python_executable_command_memory_profileable", python_for)
        )
        # The monitor is also what a shutdown waits a second for.
        for name in ("start_monitor", "start_api_server", "start_log_monitor"):
            stack.enter_context(_replaced(Node, name, start_nothing))
        stack.enter_context(_replaced(services, "get_node", get_node_soon))
        yield


def _wait_for_node(gcs_address: str, node_id: str) -> None:
    from ray._private import services, state

    found = state.GlobalState()
    found._initialize_global_state(services._get_gcs_client_options(gcs_address))  # noqa: SLF001
    deadline = time.monotonic() + _NODE_S
    while time.monotonic() < deadline:
        if any(node["NodeID"] == node_id for node in found.node_table()):
            return
        time.sleep(_LOOK_S)


@contextlib.contextmanager
def lean_data() -> Iterator[None]:
    """Have Ray Data run without its three service actors, while the cluster is one node of a fixed size."""
    import ray.data  # noqa: F401 - whole, before a part of it: parts import each other in a circle
    from ray.data._internal import stats
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.execution.operators import actor_pool_map_operator as pool
    from ray.data.context import DataContext

    def nothing(*_: Any, **__: Any) -> None:
        """Stand in for what keeps statistics."""

    manager = stats._StatsManager  # noqa: SLF001
    with contextlib.ExitStack() as stack:
        for name in (
            "update_execution_metrics",
            "update_iteration_metrics",
            "register_dataset_to_stats_actor",
        ):
            stack.enter_context(_replaced(manager, name, staticmethod(nothing)))
        stack.enter_context(
            _replaced(manager, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid4().hex))
        )
        # With a log of its own for each dataset, a worker sets up all logging anew before every task.
        stack.enter_context(_replaced(DataContext, "set_dataset_logger_id", nothing))
        stack.enter_context(_replaced(streaming_executor, "create_cluster_autoscaler", _fixed_cluster))
        stack.enter_context(_replaced(pool, "get_or_create_actor_location_tracker", _NoTracker))
        stack.enter_context(_replaced(pool, "get_actor_locations", lambda _: {}))
        yield


@contextlib.contextmanager
def forgetful_data() -> Iterator[None]:
    """Have Ray Data keep no statistics of each block: 4 KB a chunk, 8 GB in a billion images."""
    import ray.data  # noqa: F401 - as above
    from ray.data._internal.execution.operators import map_operator

    def nothing(_: Any) -> list[Any]:
        return []

    with _replaced(map_operator, "to_stats", nothing):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner)[name]  # raises, where getattr would hide that Ray has changed
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _fixed_cluster(*_: Any, **__: Any) -> Any:
    """Return a cluster autoscaler that gives all there is and never asks for more."""
    import ray
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution.interfaces import ExecutionResources

    total = ExecutionResources.from_resource_dict(ray.cluster_resources())

    class Fixed(ClusterAutoscaler):
        def try_trigger_scaling(self) -> None:
            """Never."""

        def on_executor_shutdown(self) -> None:
            """Nothing to give back."""

        def get_total_resources(self) -> Any:
            return total

    return Fixed()


class _NoTracker:
    """Takes the place of the actor that remembers where actors are: here they are all on one node."""

    class update_actor_location:  # noqa: N801 - called like a method of an actor handle
        """Calls go nowhere."""

        @staticmethod
        def remote(*_: Any) -> None:
            """Do nothing."""
