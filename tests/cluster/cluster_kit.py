"""A Ray cluster of several machines on this one: a head that does no work, raylets of chosen resources."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any, Self

from driving import processes_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

OBJECT_STORE_BYTES = 400 << 20

# In a process of its own, with the cluster's token: others may have imported Ray into this one already.
_SERVER = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args=json.loads(sys.argv[1]))
nodes = {}
print(json.dumps({"address": cluster.address, "dashboard": cluster.webui_url}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    node = cluster.add_node(**order["add"])
    raylet = node.all_processes["raylet"][0].process.pid
    nodes[node.node_id] = node
    print(json.dumps({"id": node.node_id, "raylet": raylet}), flush=True)
"""


class Machine:
    """One raylet.

    Attributes:
        node: Its id, as Ray names it.
        pid: The process to kill.
    """

    def __init__(self, node: str, pid: int) -> None:
        self.node, self.pid = node, pid

    def kill(self) -> None:
        """End the raylet as a power cut would; its workers follow when they notice."""
        os.kill(self.pid, SIGKILL)


class Machines:
    """A cluster whose machines come and go; a context manager.

    Args:
        env: Variables of its processes, such as those that lead to a store.
        head: Further arguments of the head node.

    Attributes:
        address: For `--address`.
        dashboard: Host and port of the job server, if the head has one.
    """

    def __init__(self, env: Mapping[str, str], **head: Any) -> None:
        # Short: the sockets of a session have long names, and those may have 107 bytes.
        self.folder = tempfile.mkdtemp(prefix="rc-")
        (Path(self.folder) / "ray").mkdir()
        self._token = secrets.token_hex(16)
        self._env = {**env, **self.token_env(), "RAY_raylet_heartbeat_period_milliseconds": "1000"}
        # A machine that is gone is noticed after five looks, one a second.
        self._env |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
        self._env |= {"RAY_health_check_initial_delay_ms": "2000", "RAY_health_check_failure_threshold": "3"}
        self._head = {
            "num_cpus": 0,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            **head,
        }

    def token_env(self) -> dict[str, str]:
        """Return what a client must have in its environment."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }

    def __enter__(self) -> Self:
        self._log = (Path(self.folder) / "server.log").open("w+b")
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVER, json.dumps(self._head)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **self._env, "TMPDIR": self.folder},
            text=True,
        )
        self._lock = threading.Lock()
        started = self._answer()
        self.address, self.dashboard = started["address"], started["dashboard"]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(10)
        for _round in range(50):
            for pid in [*processes_of(self.folder), self._server.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, SIGKILL)
            if not processes_of(self.folder):
                break
        self._server.wait()
        self._log.close()
        subprocess.run(["rm", "-rf", self.folder], check=False)

    def add(self, cpus: int, gpus: int = 0, **node: Any) -> Machine:
        """Start a machine and wait until the cluster has it."""
        order = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": OBJECT_STORE_BYTES, **node}
        order.setdefault("node_ip_address", "127.0.0.1")
        with self._lock:
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps({"add": order}) + "\n")
            self._server.stdin.flush()
            answer = self._answer()
        return Machine(answer["id"], answer["raylet"])

    def processes(self, pattern: str) -> dict[int, str]:
        """Return the command lines of its living processes that match, by pid."""
        import re

        found = processes_of(self.folder)
        return {pid: command for pid, command in found.items() if re.search(pattern, command)}

    def strike(self, pattern: str, *, timeout: float = 60.0) -> int:
        """Kill one process that matches; returns its pid."""
        pid = int(wait_for(pattern, lambda: next(iter(self.processes(pattern)), 0), timeout=timeout))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, SIGKILL)
        return pid

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, self._said()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")
