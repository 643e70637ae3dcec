"""The API on Ray Serve: one index a node, the plain server's answers, and no request lost with a replica."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from driving import wait_for
from ray_kit import KEY, Cluster
from serve_kit import SAMPLES, Server, put_photos, sample_photos, tag_photos

from tagger.collection import Collection
from tagger.index import index
from tagger.index.manifest import CURRENT_NAME
from tagger.testing import RawS3

pytestmark = pytest.mark.ray

REQUESTS = 1000
CALLERS = 4
VERSION = re.compile(r'"index_version":"([^"]+)"')
PICTURES = [(SAMPLES / name).read_bytes() for name in ("chelsea.jpg", "coffee.jpg", "koala.jpg")]


class Remote:
    """A collection in S3: a local one, and what is copied of it."""

    def __init__(self, folder, s3):
        photos = sample_photos(24)
        self.ids = list(put_photos(folder / "photos", photos).values())
        self.place = folder / "collection"
        self.s3 = s3
        self.uri = f"{s3.uri}/collection"
        tag_photos(self.place, dict(zip(photos, self.ids, strict=True)), photos)
        self.publish()

    def publish(self):
        """Copy what is new; what names the version comes last, as `tagger index` has it."""
        files = [path for path in self.place.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "CURRENT"):
            self.s3.objects[f"collection/{path.relative_to(self.place)}"] = path.read_bytes()

    def rebuild(self):
        """Make another version, and return its name."""
        version = index(Collection.open(str(self.place)), rebuild=True).version
        self.publish()
        return version

    def version(self):
        return (self.place / CURRENT_NAME).read_text().split()[0]


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    with RawS3() as s3:
        yield Remote(tmp_path_factory.mktemp("remote"), s3)


@pytest.fixture(scope="module")
def cluster(remote):
    with Cluster(remote.s3.env()) as cluster:
        scale = ["--replicas", "2", "--max-replicas", "3", "--ongoing", "0.3", "--health-s", "1"]
        cluster.deploy(remote.uri, *scale, "--rate", "100000", "--api-key-file", cluster.key_file)
        yield cluster


def file_mappings(pid, folder):
    """Kilobytes by kind of each file below a folder that a process has mapped."""
    found, name = {}, None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = words[5] if len(words) > 5 and words[5].startswith(str(folder)) else None
        elif name is not None and words[-1] == "kB":
            kinds = found.setdefault(name, {})
            kinds[words[0][:-1]] = kinds.get(words[0][:-1], 0) + int(words[1])
    return found


def test_the_second_replica_of_a_node_fetches_nothing_and_shares_the_pages(cluster, remote, cache_dir):
    assert len(cluster.replicas()) == 2
    version = remote.version()
    fetched = [key for method, key in remote.s3.requests if method == "GET" and f"/{version}/" in key]
    files = {path.name for path in (remote.place / "index" / version).iterdir()}
    by_file = {name: sum(key.endswith(f"/{name}") for key in fetched) for name in files}
    manifest = by_file.pop("index.json")  # small, and read by each: it names the others with their digests
    assert manifest >= 2
    assert set(by_file.values()) == {1}, by_file
    maps = [file_mappings(pid, cache_dir / "index") for pid in cluster.replicas()]
    assert set(maps[0]) == set(maps[1])
    assert len(maps[0]) >= 2  # vectors and words
    for kinds in (kinds for one in maps for kinds in one.values()):
        assert kinds["Private_Dirty"] == kinds["Anonymous"] == 0
        assert kinds["Pss"] < kinds["Rss"]


def test_answers_are_those_of_the_plain_server(cluster, remote):
    ids = remote.ids
    with Server(remote.place) as server, server.client() as plain, cluster.client() as served:
        for path, body in [
            ("/v1/search", {"image_id": ids[0], "k": 10}),
            ("/v1/search", {"tag": "cat", "k": 5, "offset": 1}),
            ("/v1/search/batch", {"queries": [{"image_id": ids[1]}, {"tag": "dog"}]}),
            ("/v1/recommend", {"positive": ids[:2], "negative": ids[2:3], "k": 7}),
        ]:
            answers = [client.post(path, json=body) for client in (plain, served)]
            assert answers[0].status_code == 200
            assert answers[0].json() == answers[1].json()
        for picture in PICTURES:
            answers = [
                client.post("/v1/search", files={"file": ("x.jpg", picture)}) for client in (plain, served)
            ]
            assert answers[0].json() == answers[1].json()
        for path in ("/", "/v1/tags?prefix=c", "/web/grid.js", "/v1/products"):
            answers = [client.get(path) for client in (plain, served)]
            assert answers[0].status_code == answers[1].status_code
            if answers[0].status_code == 200:
                assert answers[0].content == answers[1].content
        thumbnails = [client.get("/v1/image/thumbnail", params={"id": ids[3]}) for client in (plain, served)]
        assert thumbnails[0].content == thumbnails[1].content


def test_the_door_stands_before_every_replica(cluster):
    question = {"tag": "cat"}
    ports = [cluster.port, *replica_ports(cluster)]
    assert len(ports) >= 3
    for port in ports:
        url = f"http://127.0.0.1:{port}"
        assert httpx.post(f"{url}/v1/search", json=question).status_code == 401
        held = {"authorization": f"Bearer {KEY}"}
        for strange in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            assert httpx.post(f"{url}/v1/search", json=question, headers=held | strange).status_code == 403
        large = httpx.post(f"{url}/v1/search", content=b" " * (2 << 20), headers=held)
        assert large.status_code == 413
        assert httpx.post(f"{url}/v1/search", json=question, headers=held).status_code == 200


def replica_ports(cluster):
    """Ports on which replicas take HTTP, from HAProxy's configuration."""
    (config,) = Path(cluster.folder, "h").glob("*/haproxy.cfg")
    return [
        int(port) for port in re.findall(r"server SERVE_REPLICA\S* 127\.0\.0\.1:(\d+)", config.read_text())
    ]


def ready_replicas(cluster):
    """How many replicas answer."""
    found = 0
    for port in replica_ports(cluster):
        with contextlib.suppress(httpx.HTTPError):
            found += httpx.get(f"http://127.0.0.1:{port}/-/healthz", timeout=10).status_code == 200
    return found


def test_nothing_listens_beyond_this_machine_that_asks_for_nothing(cluster):
    pids = cluster.haproxies()
    assert pids
    listening = listeners(pids)
    assert len(listening) >= 3
    assert {address for address, _ in listening} == {"0100007F"}


def listeners(pids):
    """Addresses, as the kernel writes them, and ports on which processes listen."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            target = str(fd.readlink()) if fd.is_symlink() else ""
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(tuple(words[1].split(":")))
    return found


class Callers:
    """Threads that ask in turn until so many requests were answered and they may end."""

    def __init__(self, cluster, ids):
        self._cluster = cluster
        self._ids = ids
        self.answered = 0
        self.wrong = []
        self.versions = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _work(self, seed):
        rng = random.Random(seed)
        with self._cluster.client() as client:
            while not self._ending.is_set():
                try:
                    answer = self._ask(client, rng)
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    continue
                self.answered += 1
                if answer.status_code != 200:
                    self.wrong.append(f"{answer.request.url.path}: {answer.status_code} {answer.text[:200]}")
                self.versions.extend(VERSION.findall(answer.text))

    def _ask(self, client, rng):
        one, kind = rng.choice(self._ids), rng.randrange(8)
        if kind == 0:
            return client.post("/v1/search", json={"tag": rng.choice(["cat", "dog", "bird", "animal"])})
        if kind == 1:
            return client.post("/v1/search", files={"file": ("x.jpg", rng.choice(PICTURES))})
        if kind == 2:
            return client.post("/v1/recommend", json={"positive": [one], "k": 5})
        if kind == 3:
            return client.post("/v1/search/batch", json={"queries": [{"image_id": one}, {"tag": "cat"}]})
        if kind == 4:
            return client.get("/v1/image/thumbnail", params={"id": one, "size": rng.choice([96, 160])})
        return client.post("/v1/search", json={"image_id": one, "k": rng.randint(1, 50)})

    def end(self):
        self._ending.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()


def test_no_request_fails_while_versions_change_and_a_replica_dies(cluster, remote, record_property):
    valid = {remote.version()}
    began = time.monotonic()
    callers = Callers(cluster, remote.ids)
    try:
        wait_for("the third replica, for the load", lambda: len(cluster.replicas()) == 3, timeout=60)
        grown = time.monotonic() - began
        for _ in range(2):
            version = remote.rebuild()
            valid.add(version)
            wait_for("the new version", lambda v=version: v in callers.versions or callers.wrong)
            killed = min(cluster.replicas())
            os.kill(killed, signal.SIGKILL)
            before = callers.answered
            wait_for("answers after that", lambda n=before: callers.answered > n + 50 or callers.wrong)
        wait_for("a replica in its place", lambda: len(cluster.replicas() - {killed}) == 3, timeout=90)
        wait_for("enough requests", lambda: callers.answered >= REQUESTS, timeout=120)
    finally:
        callers.end()
    assert callers.wrong == []
    assert set(callers.versions) == valid
    seconds = time.monotonic() - began
    record_property(
        "measured",
        f"{callers.answered} requests in {seconds:.0f} s, 2 new versions, 2 replicas killed, none failed; "
        f"the third replica came after {grown:.0f} s",
    )


def test_a_replica_whose_index_is_broken_is_replaced(cluster, remote, cache_dir):
    # One that only starts would open the file that is fetched anew, and stay.
    wait_for("all of them", lambda: ready_replicas(cluster) == len(cluster.replicas()), timeout=60)
    before = cluster.replicas()
    with cluster.client() as client:
        asked = {"image_id": remote.ids[0], "k": 5}
        answer = client.post("/v1/search", json=asked).json()
        path = vectors_of(remote, cache_dir)
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        wait_for("others in their place", lambda: not cluster.replicas() & before, timeout=100)
        wait_for("the API", cluster.is_ready, timeout=100)
        assert client.post("/v1/search", json=asked).json() == answer


def vectors_of(remote, cache_dir):
    """The served vectors as they lie in the cache of this machine."""
    version = remote.version()
    (source,) = (remote.place / "index" / version).glob("vectors-*")
    found = [path for path in (cache_dir / "index").rglob("*") if path.is_file() and same(path, source)]
    assert len(found) == 1
    return found[0]


def same(one, other):
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def test_haproxy_comes_back(cluster):
    before = cluster.haproxies()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for("another one", lambda: cluster.haproxies() - before and cluster.is_ready(), timeout=90)


def test_no_key_is_written_anywhere(cluster):
    assert [
        path for path in Path(cluster.folder, "ray").rglob("*") if path.is_file() and holds(path, KEY)
    ] == []


def holds(path, text):
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False


def test_beyond_this_machine_it_wants_a_key(cluster, remote):
    job = cluster.job(remote.uri, "--host", "0.0.0.0")
    assert job.returncode == 2
    assert "set an API key" in job.stderr


@pytest.fixture(scope="module", autouse=True)
def _fresh_cache(cache_dir):
    """What other tests fetched under the same address is not what is looked for here."""
    shutil.rmtree(cache_dir / "index", ignore_errors=True)
