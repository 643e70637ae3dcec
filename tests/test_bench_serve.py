"""The load generator and the tables of `python -m bench.serve`; nothing is measured here."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # bench/ is a folder of the repository, not a part of the package

from bench import http_load, serve  # noqa: E402


def run_load(*args, **options):
    """Run it in a thread: the browser of other tests leaves an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(http_load.run, *args, **options).result()


@pytest.fixture
def answering():
    """A server that answers each third request with 503, closes each fifth connection, and keeps bodies."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(503 if len(bodies) % 3 == 0 else 200)
            self.send_header("content-length", "2")
            if len(bodies) % 5 == 0:
                self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"{}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port, bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_request_is_sent_and_counted_once(answering):
    port, bodies = answering
    requests = [http_load.request("/v1/search", b'{"tag": "%d"}' % n) for n in range(60)]
    load = run_load(port, requests, per_s=300, seconds=0.2)
    assert load.sent == load.count(200) + load.count(503) == 60
    assert load.count(503) == 20
    assert sorted(bodies) == sorted(b'{"tag": "%d"}' % n for n in range(60))
    told = load.to_json()
    assert told["refused"] == 20
    assert told["failed"] == 0
    assert 0 < told["p50_ms"] <= told["p99_ms"]


def test_a_server_that_is_gone_is_counted_as_failed(answering):
    port, _ = answering
    load = run_load(1, [http_load.request("/", b"")], per_s=100, seconds=0.1)
    assert load.to_json()["failed"] == load.sent == 10
    assert port


def test_an_upload_is_a_form(answering):
    port, bodies = answering
    run_load(port, [http_load.upload("/v1/search", b"JPEG", k="3")], per_s=100, seconds=0.01)
    assert b'name="k"\r\n\r\n3\r\n' in bodies[0]
    assert b'name="file"; filename="q.jpg"\r\nContent-Type: image/jpeg\r\n\r\nJPEG\r\n--' in bodies[0]


def test_promises_are_compared_and_shown():
    level = {
        "wanted_per_s": 300.0, "sent": 100, "answered_per_s": 299.0, "p50_ms": 2.0, "p99_ms": 10.0,
        "refused": 0, "refused_p50_ms": None, "refused_p99_ms": None, "failed": 0, "client_cpu": 0.1,
        "server_cpu": 0.4,
    }  # fmt: skip
    levels = {"unloaded": level, "promised": level, "overload": {**level, "p99_ms": 25.0, "refused": 75}}
    results = {
        "date": "2026-01-01",
        "quick": False,
        "images": 1000,
        "machine": {"cores": 2, "cpu": "a CPU", "memory_bytes": 2**34, "system": "Linux", "python": "3.11"},
        "load": {"by image_id": levels},
        "start": {
            "images": 10, "bytes": 10**9, "cold": 3.0, "warm": 2.0, "memory": {"RssAnon": 1.0, "VmRSS": 2.0},
        },
    }  # fmt: skip
    met = {target.name: target.met for target in serve.targets(results)}
    assert met["by image_id: p99 at 4 x the rate ÷ unloaded"] is False
    assert met["by image_id: p99 at that rate, ms"] is True
    text = serve.render(results)
    assert "| by image_id | overload |" in text
    assert "75%" in text
    assert "3.0 s with the files not in memory" in text
