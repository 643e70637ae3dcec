"""Job servers that are not there, not for us, or no job servers: one sentence, and what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import ray
from cluster_kit import free_port
from driving import Outcome, tagger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLEAN = dict.fromkeys(
    ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"), ""
)
SECRET = "token-that-must-not-be-shown"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET}


@contextlib.contextmanager
def answering(
    status: int, body: str, kind: str = "application/json", below: dict[str, tuple[int, str]] | None = None
) -> Iterator[str]:
    """Serve one answer to whatever is asked, and others below some paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            others = [answer for path, answer in (below or {}).items() if self.path.startswith(path)]
            code, text = others[0] if others else (status, body)
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def refused(*args: str | Path, code: int = 2, env: dict[str, str] | None = None) -> str:
    """Run a command that must be refused; returns its sentence."""
    said: Outcome = tagger(*args, env={**CLEAN, **(env or {})}, timeout=90).require(code)
    assert said.stdout == ""
    assert SECRET not in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1, said.stderr
    return said.sentence


@pytest.mark.parametrize(
    ("status", "body", "kind", "part"),
    [
        (200, json.dumps({"version": "4", "ray_version": "2.9.1"}), "application/json", "runs Ray 2.9.1"),
        (200, "<html><title>Welcome</title></html>", "text/html", "is not a Ray job server"),
        (200, "[]", "application/json", "is not a Ray job server"),
        (404, "not found", "text/plain", "is not a Ray job server"),
        (401, "Unauthorized: Missing authentication token", "text/plain", "it is missing"),
        (403, "Forbidden: Invalid authentication token", "text/plain", "it was refused"),
    ],
)
def test_somebody_else_answers(status: int, body: str, kind: str, part: str) -> None:
    with answering(status, body, kind) as address:
        said = refused("jobs", "list", "--address", address, env=TOKEN)
    assert part in said
    assert address in said
    if "runs Ray" in part:
        assert ray.__version__ in said


def test_nobody_answers() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert f"{address} cannot be reached" in refused("submit", "--address", address, "tag", "a", "b", code=1)
    with answering(500, "No available agent to submit job") as sick:
        said = refused("jobs", "list", code=1, env={"RAY_API_SERVER_ADDRESS": sick})
    assert "No available agent" in said


def test_a_cluster_beyond_loopback_needs_a_token() -> None:
    said = refused("submit", "--address", "http://192.0.2.1:8265", "tag", "a", "b")
    assert "RAY_AUTH_MODE=token" in said
    assert "RAY_AUTH_MODE=token" in refused("jobs", "list", "--address", "https://ray.example.com")


def test_the_address_of_the_cluster_itself_is_explained() -> None:
    said = refused("submit", "tag", "a", "b", env={"RAY_ADDRESS": "127.0.0.1:6379"})
    assert said == (
        "127.0.0.1:6379 is no address of a job server: "
        "jobs are submitted to the dashboard's, such as http://127.0.0.1:8265"
    )


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (["submit", "no-such-command"], "no command of tagger"),
        (["submit", "submit", "tag"], "runs here"),
        (["submit", "--id", "a/b", "tag"], "letters"),
        (["submit", "--env", "NOT_SET_HERE", "tag"], "NOT_SET_HERE"),
        (["submit", "--env", f"A={SECRET}$HOME", "tag"], "--env A"),
        (["submit", "--working-dir", "/nonexistent/folder", "tag"], "/nonexistent/folder"),
        (["jobs", "status", "../version"], "cannot be a job's id"),
    ],
)
def test_slips_are_told_before_anything_is_asked(line: list[str], part: str) -> None:
    with answering(200, json.dumps({"ray_version": ray.__version__})) as address:
        assert part in refused(*line, env={"RAY_API_SERVER_ADDRESS": address})


def test_a_folder_that_is_too_large_to_upload(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(101 << 20))
    version = json.dumps({"ray_version": ray.__version__})
    below = {"/api/packages": (404, ""), "/api/jobs": (200, "[]")}
    with answering(200, version, below=below) as address:
        said = refused("submit", "--no-wait", "--address", address, "--working-dir", tmp_path, "models")
    assert said.startswith(
        f"{tmp_path} is too large to upload: packed it has 101 MiB, the job server takes 100."
    )
    assert ".rayignore" in said


def test_a_name_that_is_not_utf_8() -> None:
    said = refused("submit", "tag", b"/photos/caf\xe9".decode(errors="surrogateescape"), "c")
    assert "not valid UTF-8" in said
