"""An engine's process, seen from the bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from bench.index_peers.worker import Job

ROOT = Path(__file__).parents[2]

QUIET = {
    "DO_NOT_TRACK": "1",
    "SCARF_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
}
"""No engine may tell anybody that it ran."""


class EngineProcess:
    """Runs a module of this folder and passes requests on to it; a context manager.

    Args:
        module: Its name, without the folder.
        job: What it is to search.
        python: Interpreter with the packages it needs.
        environ: Variables beside this process's own.
    """

    def __init__(
        self,
        module: str,
        job: Job,
        *,
        python: Path | str = sys.executable,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [python, "-m", f"bench.index_peers.{module}", job.to_json()],
            cwd=ROOT,
            env={**os.environ, **QUIET, **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Return the answer to a request of `worker`.

        Raises:
            RuntimeError: The engine could not do it, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}, default=str) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.module} ended with {self._process.wait()} while asked to {do}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.module}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
