"""Who is let in, and what an abuser gets: an error at once, while memory stays flat and others are served."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx
import pytest
from driving import wait_for
from serve_kit import Server
from test_serve_api import problem

from tagger.errors import UsageError
from tagger.serve import ServeOptions, read_keys
from tagger.serve.access_log import AccessLog
from tagger.serve.gates import Gate, Rate
from tagger.serve.problems import Refused

KEY = "a-key-of-the-tests-0123456789"
MB = 1 << 20


@pytest.fixture(scope="module")
def locked(served, tmp_path_factory):
    """A server that wants a key, on all addresses' behalf still bound to this machine."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# for tests\n{KEY}\n")
    options = ["--api-key-file", file, "--rate", "50"]
    with Server(served.collection, *map(str, options)) as server:
        yield server


def test_a_key_is_asked_for_and_told_to_nobody(locked):
    with locked.client() as client:
        for path in ("/v1/collection", "/v1/tags", "/metrics", "/v1/image?id=x"):
            answer = client.get(path)
            assert "Authorization" in problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("Bearer wrong", f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY}x"):
            problem(client.get("/v1/tags", headers={"authorization": wrong}), 401)
        assert client.get("/v1/tags", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200
    assert KEY not in locked.log
    lines = [json.loads(line) for line in locked.log.splitlines() if line.startswith("{")]
    assert {len(line["key"] or "") for line in lines} == {0, 8}


def test_the_rate_of_a_key_is_bounded(locked):
    """50 a second, and those of two seconds at once."""
    refused = None
    with locked.client(headers={"authorization": f"Bearer {KEY}"}) as client:
        for _ in range(4000):
            answer = client.get("/v1/tags", params={"limit": 1})
            if answer.status_code != 200:
                refused = answer
                break
        assert refused is not None
        assert "too many requests" in problem(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200


def test_foreign_hosts_and_origins_are_kept_out(served, client):
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "10.0.0.1",
        "localhost:@evil.example",
        "::1",
        "",
    ):
        problem(client.get("/v1/tags", headers={"host": host}), 403)
    for host in ("localhost", "LOCALHOST:9999", "[::1]:8000", "127.0.0.1"):
        assert client.get("/v1/tags", headers={"host": host}).status_code == 200
    body = {"tag": "cat"}
    for origin in ("http://evil.example", "null", "http://localhost", "https://127.0.0.1:1", "file://"):
        problem(client.post("/v1/search", json=body, headers={"origin": origin}), 403)
    assert client.post("/v1/search", json=body, headers={"origin": served.url}).status_code == 200
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(b"GET /v1/tags HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_head_is_get_without_the_body(client, served):
    for path, params in (
        ("/v1/collection", {}),
        ("/", {}),
        ("/v1/image/thumbnail", {"id": served.addresses["koala.jpg"]}),
    ):
        head, whole = client.head(path, params=params), client.get(path, params=params)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/v1/nothing").status_code == 404
    assert client.head("/v1/search").status_code == 405


def test_every_answer_is_guarded(client):
    for path in ("/", "/v1/tags", "/nothing", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
    preflight = client.options("/v1/search", headers={"origin": "http://evil.example"})
    assert preflight.status_code in (403, 405)


def bomb(side=30_000):
    """A PNG of 900 megapixels in less than a megabyte."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    rows = b"".join(squeeze.compress(row * 100) for _ in range(side // 100)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_enormous_bodies_are_refused_at_once(served, client):
    client.post("/v1/search", files={"file": ("x.png", bomb())})
    before = served.memory_bytes()
    assert "megapixels" in problem(client.post("/v1/search", files={"file": ("x.png", bomb())}), 422)
    big = client.post("/v1/search", files={"file": ("x.jpg", bytes(21 * MB))})
    assert "too large" in problem(big, 413)
    big = client.post("/v1/search", content=bytes(9 * MB), headers={"content-type": "application/json"})
    assert "too large" in problem(big, 413)

    def endless():
        while True:
            yield bytes(MB)

    with pytest.raises(httpx.HTTPError):  # cut off: the answer may be lost where the sender never stops
        raise_unless_413(
            client.post("/v1/search", content=endless(), headers={"content-type": "application/json"})
        )
    # A gigabyte that is announced is refused before any of it is read.
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        raw.settimeout(10)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    assert served.memory_bytes() - before < 48 * MB
    assert client.post("/v1/search", json={"tag": "cat"}).status_code == 200


def raise_unless_413(answer):
    """The server may get its answer through before it closes the connection."""
    assert answer.status_code == 413
    raise httpx.WriteError("refused")


def drip(port, text, every_s, most_s):
    """Send text byte by byte; return what came back, and after how long it ended."""
    began = time.monotonic()
    got = b""
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(every_s)
        for byte in text:
            if time.monotonic() - began > most_s:
                raise AssertionError("still open")
            try:
                raw.sendall(bytes([byte]))
            except OSError:
                break
            with contextlib.suppress(TimeoutError):
                try:
                    part = raw.recv(1000)
                except ConnectionError:
                    break
                got += part
                if not part:
                    break
    return got, time.monotonic() - began


@pytest.fixture(scope="module")
def impatient(served):
    """A server with short limits, in a thread of this process's child."""
    script = (
        "import sys\nfrom tagger.serve import ServeOptions, serve\nfrom tagger.cli import print_json\n"
        "serve(sys.argv[1], ServeOptions(port=0, idle_s=1.5, upload_s=1.5, max_connections=50),"
        " on_ready=lambda url, s: print_json({'url': url}))\n"
    )

    class Impatient(Server):
        def __init__(self, place):
            super().__init__(place)
            import sys

            self._command = [sys.executable, "-c", script, str(place)]

    with Impatient(served.collection) as server:
        yield server


def test_slow_senders_are_ended(impatient):
    header = b"GET /v1/tags HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000
    got, seconds = drip(impatient.port, header, 0.05, 20)
    assert got == b""
    assert seconds < 10
    body = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100000\r\n\r\n" + b"[" * 10_000
    )
    got, seconds = drip(impatient.port, body, 0.01, 30)
    assert got.startswith(b"HTTP/1.1 408")
    assert seconds < 20
    with impatient.client() as client:
        assert client.get("/readyz").status_code == 200


def test_idle_connections_shut_nobody_out(served, client):
    """Ten thousand, as far as this process may open so many: the longest idle give way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 + 500
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    before = served.memory_bytes()
    idle = []
    try:
        for _ in range(min(10_000, max(soft, limit) - 500)):
            raw = socket.socket()
            idle.append(raw)
            raw.connect(("127.0.0.1", served.port))
        with served.client() as caller:
            for _ in range(20):
                assert caller.post("/v1/search", json={"tag": "cat"}).status_code == 200
        open_now = [
            line
            for line in client.get("/metrics").text.splitlines()
            if line.startswith("tagger_connections ")
        ]
        assert float(open_now[0].split()[1]) <= 1001
        assert served.memory_bytes() - before < 64 * MB
    finally:
        for raw in idle:
            raw.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_malformed_requests_are_ended(served, client):
    for text in (
        b"\0" * 1000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", served.port)) as raw:
            raw.sendall(text)
            raw.settimeout(10)
            with contextlib.suppress(ConnectionError):
                assert raw.recv(100)[:12] in (b"", b"HTTP/1.1 400")
    assert client.get("/healthz").status_code == 200
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(b"GET / HTTP/9.9\r\n\r\n")
        raw.settimeout(10)
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert b"\r\ncontent-type: application/problem+json\r\n" in answer
    assert b"\r\ncontent-security-policy: default-src 'none';" in answer
    assert 'endpoint="malformed",status="400"' in client.get("/metrics").text


def flood(port, head, part, most=64 * MB):
    """Send the same bytes without end; return the beginning of what came back."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(20)
        with contextlib.suppress(OSError):
            raw.sendall(head)
            while sent < most:
                raw.sendall(part)
                sent += len(part)
        assert sent < most, "all of it was taken"
        with contextlib.suppress(OSError):
            return raw.recv(100)
    return b""


def test_headers_without_end_are_refused(served, client):
    before = served.memory_bytes()
    begin = b"GET /v1/tags HTTP/1.1\r\nHost: localhost\r\n"
    chunked = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    for head, part in (
        (begin, b"X: a\r\n" * 10_000),
        (begin + b"X: ", b"a" * 65_536),
        (b"GET /", b"a" * 65_536),
        (chunked, b"X: a\r\n" * 10_000),
        (chunked + b"X: ", b"a" * 65_536),
    ):
        assert flood(served.port, head, part)[:12] in (b"HTTP/1.1 400", b"")
    assert served.memory_bytes() - before < 32 * MB
    assert client.get("/v1/tags", headers={"x-long": "a" * 20_000}).status_code == 200


def test_bodies_that_nobody_wants_are_not_waited_for(impatient):
    stalled = []
    try:
        for _ in range(60):  # of 50 connections
            raw = socket.create_connection(("127.0.0.1", impatient.port))
            raw.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
            stalled.append(raw)
        with impatient.client() as client:
            assert client.get("/healthz").status_code == 200
            assert client.post("/v1/search", json={"tag": "cat"}).status_code == 200
            refused = client.post("/healthz", content=b"words")
            assert "another method" in problem(refused, 405)
            assert refused.headers["allow"] == "GET, HEAD"
    finally:
        for raw in stalled:
            raw.close()


def test_odd_forms_are_wrong_and_no_fault(client):
    bad = client.post("/v1/search", files={"file": ("x.jpg", b"x")}, data={"filter": "{bad"})
    assert "filter is no JSON" in problem(bad, 400)
    for words in ({"k": "--5"}, {"offset": "--1"}, {"k": "9" * 30}, {"filter": "{bad"}):
        answer = client.post("/v1/search", files={"file": ("x.jpg", b"x")}, data=words)
        assert answer.status_code in (400, 422), words
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="filter"\r\n\r\n{"tags_any":["\\ud800"]}\r\n--XX--\r\n'
    )
    kind = "ultipart/form-data; boundary=XX"
    for media_type in (f"m{kind}; charset=unicode_escape", f"M{kind}"):
        answer = client.post("/v1/search", content=body, headers={"content-type": media_type})
        assert answer.status_code in (400, 422)


def test_wrong_bodies_by_the_thousand_hold_nobody_up(served, client):
    before = served.memory_bytes()
    one = b'{"embedding":[' + b",".join([b"[]"] * 16_000) + b"]}"
    many = b'{"queries":[' + b",".join([one] * 80) + b"]}"
    answer = client.post("/v1/search/batch", content=many, headers={"content-type": "application/json"})
    problem(answer, 422)
    assert served.memory_bytes() - before < 128 * MB


def test_an_access_log_that_nobody_reads_holds_nobody_up():
    class Stuck(io.BytesIO):
        def write(self, _data):
            raise BrokenPipeError

    log = AccessLog(Stuck())
    for n in range(30_000):
        log.write({"n": n})
    log.close()


# ---- what needs no server ---------------------------------------------------------------------------------


def test_other_addresses_need_a_key():
    with pytest.raises(UsageError, match="API key"):
        ServeOptions(host="0.0.0.0")
    ServeOptions(host="0.0.0.0", api_keys=(KEY,))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert ServeOptions(host=host).is_loopback
    with pytest.raises(UsageError, match="at least 16"):
        ServeOptions(api_keys=("short",))
    assert KEY not in repr(ServeOptions(api_keys=(KEY,)))


def test_key_files(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# one\n\n {KEY} \nanother-key-0123456789\n")
    assert read_keys(file) == (KEY, "another-key-0123456789")
    file.write_text("# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        read_keys(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "nothing")
    file.write_bytes(b"\xff\xfe" + KEY.encode())
    with pytest.raises(UsageError, match="not a text"):
        read_keys(file)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def admitted(gate, n):
    """Let as many of `n` in as may, and tell how many that are."""
    before = gate.inside
    for _ in range(n):
        with contextlib.suppress(Refused):
            gate.enter()
    return gate.inside - before


def empty(gate):
    for _ in range(gate.inside):
        gate.leave()


def test_a_gate_lets_bursts_grow_until_they_fill_it(clock):
    gate = Gate(2, waiting=1, burst=10)
    assert admitted(gate, 9) == 9
    empty(gate)
    assert admitted(gate, 15) == 10
    with pytest.raises(Refused, match="busy") as refused:
        gate.enter()
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    empty(gate)
    assert admitted(gate, 10) == 3  # strict from then on, though it was empty for a moment
    for _ in range(5):  # most of those who come are refused: it stays strict
        clock[0] += 1.1
        empty(gate)
        assert admitted(gate, 12) == 3
    clock[0] += 1.1
    empty(gate)
    for _ in range(20):
        assert admitted(gate, 3) == 3
        empty(gate)
    clock[0] += 1.1  # nobody had to be refused for a second
    assert admitted(gate, 12) == 10


def test_a_queue_that_stands_makes_a_gate_strict(clock):
    gate = Gate(1, waiting=1, burst=10)
    assert admitted(gate, 6) == 6
    for _ in range(11):
        clock[0] += 0.1
        gate.leave()
        gate.inside += 1
    assert admitted(gate, 4) == 0
    empty(gate)
    assert admitted(gate, 4) == 2


def test_being_busy_is_no_queue(clock):
    gate = Gate(1, waiting=1, burst=16)
    for _ in range(50):
        assert admitted(gate, 7) == 7
        clock[0] += 0.1
        empty(gate)
    assert admitted(gate, 16) == 16


def test_a_rate_is_refilled(clock):
    rate = Rate(10, burst=3)
    for _ in range(3):
        rate.take(b"a")
    with pytest.raises(Refused, match="too many") as refused:
        rate.take(b"a")
    assert refused.value.status == 429
    rate.take(b"b")
    clock[0] += 0.11
    rate.take(b"a")
    with pytest.raises(Refused):
        rate.take(b"a")
    for n in range(20_000):
        rate.take(str(n).encode())
    assert len(rate._buckets) <= 10_000


def test_a_signal_before_the_server_listens_is_no_failure(served):
    command = [str(Path(sys.executable).with_name("tagger")), "serve", str(served.collection), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for("the libraries", lambda: "numpy" in maps.read_text())  # while it loads its libraries
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_a_server_says_what_it_lacks(tmp_path, served):
    from driving import tagger

    said = tagger("serve", tmp_path / "nothing", "--port", "0").require(2)
    assert "is not a collection" in said.sentence
    said = tagger("serve", served.collection, "--port", str(served.port)).require(2)
    assert "cannot listen" in said.sentence
    said = tagger("serve", served.collection, "--host", "0.0.0.0").require(2)
    assert "API key" in said.sentence
    said = tagger("serve", served.collection, "--host", "192.0.2.1", env={"TAGGER_API_KEY": KEY}).require(2)
    assert "cannot listen" in said.sentence
