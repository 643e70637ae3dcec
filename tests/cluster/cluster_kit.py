"""A Ray cluster of several machines on this one: a head that does no work, raylets of chosen resources."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any, Self

from driving import processes_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

OBJECT_STORE_BYTES = 400 << 20
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

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
        job_server: Address of the job server, if the head has one.
    """

    def __init__(self, env: Mapping[str, str], **head: Any) -> None:
        # Short: the sockets of a session have long names, and those may have 107 bytes.
        self.folder = tempfile.mkdtemp(prefix="rc-")
        (Path(self.folder) / "ray").mkdir()
        self._token = secrets.token_hex(16)
        # The command of a job is `python`: this one.
        self._env = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self._env |= {**env, **self.token_env()}
        # A machine that is gone is noticed after five looks, one a second.
        self._env |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
        self._env |= {"RAY_health_check_initial_delay_ms": "2000", "RAY_health_check_failure_threshold": "3"}
        self._head = {
            "num_cpus": 0,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": free_port(),
            "dashboard_agent_listen_port": free_port(),
            **head,
        }

    def token_env(self) -> dict[str, str]:
        """Return what a client must have in its environment."""
        return _token_env(self._token)

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
        self.address, self.job_server = started["address"], f"http://{started['dashboard']}"
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self.folder, self._server)
        self._log.close()

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


class Growing:
    """A cluster that starts machines when they are needed and ends them when not; a context manager.

    Ray's own autoscaler, with its provider for tests, which starts raylets on this machine.

    Args:
        groups: CPUs, GPUs and the most machines of each group, by name.
        idle_s: How long a machine may have nothing to do.

    Attributes:
        address: For `--address`.
    """

    def __init__(self, groups: Mapping[str, tuple[int, int, int]], *, idle_s: float) -> None:
        self.folder = tempfile.mkdtemp(prefix="rg-")
        (Path(self.folder) / "ray").mkdir()
        self._token = secrets.token_hex(16)
        self.address = f"127.0.0.1:{free_port()}"
        types: dict[str, Any] = {_HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
        for name, (cpus, gpus, most) in groups.items():
            resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
            resources["object_store_memory"] = OBJECT_STORE_BYTES
            limits = {"min_workers": 0, "max_workers": most}
            types[name] = {"resources": resources, "node_config": {}, **limits}
        config = {
            "cluster_name": "growing",
            "max_workers": sum(most for _, _, most in groups.values()),
            "idle_timeout_minutes": idle_s / 60,
            "upscaling_speed": 100.0,
            "head_node_type": _HEAD_TYPE,
            "available_node_types": types,
            "provider": {
                # Not by its short name: for that Ray reads a file that its wheel lacks.
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "head_node_id": _FAKE_HEAD,
                "gcs_address": self.address,
                "launch_multiple": True,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            **{name: [] for name in _LISTS},
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            "file_mounts_sync_continuously": False,
        }
        self._config = Path(self.folder) / "config.json"
        self._config.write_text(json.dumps(config))

    def token_env(self) -> dict[str, str]:
        """Return what a client must have in its environment."""
        return _token_env(self._token)

    def __enter__(self) -> Self:
        self._log = (Path(self.folder) / "head.log").open("w+b")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [
            "--port",
            self.address.rpartition(":")[2],
            "--node-ip-address",
            "127.0.0.1",
            "--num-cpus",
            "0",
        ]
        command += ["--include-dashboard", "false", "--object-store-memory", str(OBJECT_STORE_BYTES)]
        command += ["--autoscaling-config", str(self._config)]
        self._head = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **self.token_env(),
                "TMPDIR": self.folder,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": _FAKE_HEAD,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _FAKE_HEAD,
            },
        )
        wait_for("the head's raylet", lambda: self.machines() == 1, timeout=120)
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self.folder, self._head)
        self._log.close()

    def machines(self) -> int:
        """Return how many raylets are alive, the head's included."""
        assert self._head.poll() is None, Path(self._log.name).read_text(errors="replace")
        return sum("/raylet/raylet" in command for command in processes_of(self.folder).values())


class JobServer:
    """A cluster of this machine that asks for a token; a context manager that leaves nothing behind.

    Attributes:
        address: Of the job server, `http://127.0.0.1:PORT`.
        token: What it asks for.
        env: Variables with which a client reaches it.
        cluster_env: Variables of every process on the cluster, `tagger` of this checkout on its path.
    """

    def __init__(self, cpus: int = 2) -> None:
        self._cpus = cpus
        self.token = secrets.token_hex(16)
        self.env = {**_token_env(self.token), "RAY_ADDRESS": "", "RAY_API_SERVER_ADDRESS": ""}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it takes jobs."""
        self.folder = tempfile.mkdtemp(prefix="tj-", dir="/tmp")  # short: sockets have short names
        self.mark = f"{self.folder}/tmp"
        Path(self.mark).mkdir()
        gcs, dashboard, *others = (free_port() for _ in range(8))
        self.gcs_address = f"127.0.0.1:{gcs}"
        self.address = f"http://127.0.0.1:{dashboard}"
        names = (
            "ray-client-server-port",
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "runtime-env-agent-port",
            "metrics-export-port",
        )
        self.cluster_env = {
            **{name: value for name, value in os.environ.items() if name not in self.env},
            **{name: value for name, value in self.env.items() if value},
            "TMPDIR": self.mark,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self._log = (Path(self.folder) / "start.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
                *(f"--num-cpus={self._cpus}", "--object-store-memory=150000000"),
                *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={self.folder}/ray"),
                *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-port={dashboard}", "--include-log-monitor=false"),
                *(f"--{name}={port}" for name, port in zip(names, others, strict=False)),
            ],
            env=self.cluster_env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for("the job server", self._ready, timeout=120, poll_s=0.5)

    def stop(self) -> None:
        """End every process of it."""
        end_all(self.mark, self.process)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self, needle: str) -> list[int]:
        """Return the ids of the living processes of the cluster with this text in their command line."""
        return [pid for pid, line in processes_of(self.mark).items() if needle in line]

    def _ready(self) -> bool:
        assert self.process.poll() is None, (Path(self.folder) / "start.log").read_text()
        headers = {"Authorization": f"Bearer {self.token}"}
        with contextlib.suppress(OSError):
            request = urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        return False


_FAKE_HEAD = "f" * 51 + "00000"  # as the provider names it
_HEAD_TYPE = "ray.head.default"  # likewise
_LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
    *("rsync_exclude", "rsync_filter"),
)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_all(folder: str, first: subprocess.Popen[Any]) -> None:
    """End a process and all that carry the mark of its folder, then remove the folder."""
    first.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        first.wait(2)  # some take a quarter of a minute

    def gone() -> bool:
        for pid in [*processes_of(folder), *([] if first.poll() is not None else [first.pid])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        return not processes_of(folder)

    wait_for("the end of a cluster", gone, timeout=30)
    first.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _token_env(token: str) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps it on loopback
    }
