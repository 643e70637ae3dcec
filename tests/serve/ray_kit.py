"""A Ray cluster of one node in processes of its own, on free ports and with a token, and the API on it."""

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
from pathlib import Path

import httpx
from driving import processes_of, wait_for

ROOT = Path(__file__).parents[2]
KEY = secrets.token_hex(16)
START_S = 120.0


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    """`ray start` in a session of its own; a context manager that leaves nothing behind.

    Attributes:
        folder: Its logs and sockets, and how its processes are told from others.
        url: Of the API, once deployed.
    """

    def __init__(self, env, *, cpus=4):
        self.folder = tempfile.mkdtemp(prefix="tsr-", dir="/tmp")  # sockets have short names
        self.key_file = Path(self.folder) / "keys"
        self.key_file.write_text(f"{KEY}\n")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._cpus = cpus
        self._gcs = free_port()
        haproxy = f"{self.folder}/h"
        places = {
            "CONFIG_FILE_LOC": "haproxy.cfg",
            "SOCKET_PATH": "admin.sock",
            "SERVER_STATE_FILE": "server-state",
            "METRICS_SOCKET_PATH": "metrics.sock",
        }
        self.env = {
            **os.environ,
            **env,
            "TMPDIR": self.folder,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"127.0.0.1:{self._gcs}",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": haproxy,
            **{f"RAY_SERVE_HAPROXY_{name}": f"{haproxy}/{file}" for name, file in places.items()},
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        }

    def __enter__(self):
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--head", "--block", f"--port={self._gcs}", "--include-dashboard=false"]
        sizes = [
            f"--num-cpus={self._cpus}",
            "--object-store-memory=100000000",
            f"--temp-dir={self.folder}/ray",
        ]
        self._log = Path(self.folder, "ray.log").open("w+b")
        env = {name: value for name, value in self.env.items() if name != "RAY_ADDRESS"}
        self._ray = subprocess.Popen(
            [*command, *sizes], env=env, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )
        try:
            wait_for("Ray", lambda: "Ray runtime started" in self.log or self._ray.poll(), timeout=START_S)
            assert self._ray.poll() is None, self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def log(self):
        return Path(f"{self.folder}/ray.log").read_text(errors="replace")

    def deploy(self, collection, *options):
        """Run the job, and wait until the API is ready."""
        job = self.job(collection, "--port", str(self.port), *options)
        assert job.returncode == 0, job.stdout + job.stderr + self.serve_logs()
        wait_for("ready", self.is_ready, timeout=START_S)

    def serve_logs(self):
        """The end of what Serve's own processes wrote."""
        logs = Path(self.folder, "ray").glob("session_2*/logs/serve/*.log")
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in logs)

    def job(self, *args):
        command = [sys.executable, "jobs/serve_search.py", *map(str, args)]
        return subprocess.run(
            command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False
        )

    def is_ready(self):
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def client(self, **options):
        return httpx.Client(
            base_url=self.url, timeout=60, headers={"authorization": f"Bearer {KEY}"}, **options
        )

    def replicas(self):
        """Processes of the replicas."""
        return self._processes("ray::ServeReplica:search")

    def _processes(self, beginning):
        return {pid for pid, line in processes_of(self.folder).items() if line.startswith(beginning)}

    def haproxies(self):
        return {pid for pid, line in processes_of(self.folder).items() if "haproxy -db" in line}

    def __exit__(self, *_):
        def ended():
            left = processes_of(self.folder)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_for("the end of every process", ended, timeout=30)
        self._ray.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
