"""Rows, collections, a faulty proxy and other processes for the tests of tagger.collection."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa

from tagger.collection import SCHEMA, Collection, Config, Part, Tagging, part_name, write_part
from tagger.tags import Entry, Taxonomy

DIM = 8
MODEL_ID = "0123456789abcdef" * 4
LABELS = ("tabby", "lynx", "daisy", "bridge")
TAXONOMY = Taxonomy(
    tags=(Entry("tabby", ("cat",)), Entry("lynx", ("cat",)), Entry("daisy", ("flower",)), Entry("bridge")),
    nodes=(Entry("cat"), Entry("flower")),
)
DEADLINE_S = 60.0


def make_config(**changes):
    values = {
        "model_id": MODEL_ID,
        "model": "tiny",
        "dim": DIM,
        "labels": LABELS,
        "activation": "softmax",
        "tagging": Tagging.of(TAXONOMY, threshold=0.1, top_k=3),
    }
    return Config(**{**values, **changes})


def make_collection(uri, **changes):
    return Collection.create_or_open(str(uri), make_config(**changes), taxonomy=TAXONOMY)


def make_rows(image_ids, *, run_id="run-a", failed=(), dim=DIM, mark="x"):
    """Rows that keep every promise; `mark` ends up in etag, so that versions of a row can be told apart."""
    image_ids = list(image_ids)
    failed = set(failed)
    rows = []
    for image_id in image_ids:
        bad = image_id in failed
        # From the id alone, so that a row made again is the same row.
        rng = np.random.default_rng(list(image_id.encode("utf-8", "surrogatepass")))
        vector = rng.normal(size=dim)
        norm = float(np.linalg.norm(vector))
        unit = (vector / norm).astype(np.float16).astype(np.float32)
        rows.append(
            {
                "image_id": image_id,
                "uri": image_id,
                "etag": mark,
                "size_bytes": 100 + len(image_id),
                "sha256": None if bad else rng.bytes(32).hex(),
                "status": "failed" if bad else "tagged",
                "error": "corrupt" if bad else None,
                "error_detail": "the file ends in the middle" if bad else None,
                "width_px": None if bad else 800,
                "height_px": None if bad else 600,
                "format": None if bad else "jpeg",
                "tags": None if bad else [{"tag": "tabby", "score": 0.75, "source": "tiny"}],
                "categories": None if bad else [{"tag": "cat", "score": 0.75}],
                "colors": None if bad else [{"hex": "#102030", "name": "blue", "fraction": 0.5}],
                "sharpness": None if bad else 1.5,
                "brightness": None if bad else 0.5,
                "phash": None if bad else rng.bytes(8).hex(),
                "embedding": None if bad else unit.tolist(),
                "embedding_norm": None if bad else norm,
                "model_id": MODEL_ID,
                "run_id": run_id,
                "tagged_at": 1_700_000_000_000_000,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def ids(start, stop):
    return [f"s3://photos/{i:06d}.jpg" for i in range(start, stop)]


def put_rows(collection, table, run_id="run-a"):
    return write_part(collection.store, table, part_name(run_id))


def add_rows(collection, table, run_id="run-a"):
    """Commit rows as one part; returns the part."""
    part = put_rows(collection, table, run_id)
    with collection.writer(run_id, "tagger tag", ttl_s=3) as writer:
        writer.commit([part])
    return part


def contents(collection):
    """The whole table as {image_id: mark}, read with a fresh handle; fails on a doubled id."""
    pairs = Collection.open(collection.uri).table.scan(["image_id", "etag"]).read_all().to_pylist()
    found = {pair["image_id"]: pair["etag"] for pair in pairs}
    assert len(found) == len(pairs), "an image_id has more than one row"
    return found


def wait_for(condition, what="the condition"):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {DEADLINE_S} s for {what}")


def raises(kind, function):
    try:
        function()
    except kind:
        return True
    return False


class Child:
    """A Python process that runs `code` with this module imported; speaks in lines."""

    def __init__(self, code, *args):
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
        prologue = "import sys\nfrom collection_kit import *\ndef say(x): print(x, flush=True)\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", prologue + code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    @property
    def pid(self):
        return self.process.pid

    def line(self):
        """The next line it says."""
        return self.process.stdout.readline().strip()

    def go(self):
        """Answer its `input()`."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class FaultyProxy:
    """Stands before an S3 server; `fault(method, path, headers)` names what to do with a request.

    "" passes it on; "lost" passes it on and answers 500 all the same; a number answers with that status and
    does not pass it on.
    """

    def __init__(self, server, fault):
        host, port = server.endpoint.removeprefix("http://").split(":")
        self.seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def _serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                action = fault(self.command, self.path, self.headers)
                outer.seen.append((self.command, self.path, action))
                if isinstance(action, int):
                    self._answer(
                        action, [], b"<Error><Code>InsufficientStorage</Code></Error>" * (action == 507)
                    )
                    return
                connection = http.client.HTTPConnection(host, int(port), timeout=30)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "connection":
                        connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                data = response.read()
                if action == "lost":
                    self._answer(500, [], b"")
                else:
                    skip = ("transfer-encoding", "connection", "content-length")
                    headers = [(k, v) for k, v in response.getheaders() if k.lower() not in skip]
                    length = response.getheader("Content-Length") if self.command == "HEAD" else None
                    self._answer(response.status, headers, data, length)
                connection.close()

            def _answer(self, status, headers, data, length=None):
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_):
                pass

        outer = self
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


__all__ = [name for name in dir() if not name.startswith("_")] + ["Part", "json", "np", "pa"]
