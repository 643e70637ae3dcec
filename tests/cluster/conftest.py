"""A Ray cluster of one machine with its job server, as an operator starts it: `ray start --head`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from driving import processes_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class JobServer:
    """A cluster of this machine that asks for a token; a context manager that leaves nothing behind.

    Its dashboard listens on loopback. To jobs Ray names the cluster by the machine's own address, whatever it
    is told, so that the check of the token beyond loopback is part of every job here.

    Attributes:
        address: Of the job server, `http://127.0.0.1:PORT`.
        token: What it asks for.
        env: Variables with which a client reaches it.
        cluster_env: Variables of every process on the cluster, `tagger` of this checkout on its path.
    """

    def __init__(self, cpus: int = 2) -> None:
        self._cpus = cpus
        self.token = secrets.token_hex(16)
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": "",
            "RAY_API_SERVER_ADDRESS": "",
        }

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
        gcs, dashboard, *others = free_ports(8)
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
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)  # it would take a quarter of a minute
        for _ in range(40):
            left = processes_of(self.mark)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left and self.process.poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.25)
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


@pytest.fixture(scope="module")
def job_server() -> Iterator[JobServer]:
    """A cluster with its job server, for all tests of a module."""
    with JobServer() as server:
        yield server
