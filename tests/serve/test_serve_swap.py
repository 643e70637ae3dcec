"""Versions of the index change under load, the server is stopped under load, and no request notices."""

from __future__ import annotations

import random
import re
import signal
import threading
import time

import httpx
import numpy as np
import pytest
from driving import wait_for
from serve_kit import SAMPLES, Server, put_photos, sample_photos, tag_photos

from tagger.collection import Collection
from tagger.index import index
from tagger.index.manifest import CURRENT_NAME

CALLERS = 4
SWAP_S = 10.0
VERSION = re.compile(r'"index_version":"([^"]+)"')
MB = 1 << 20


class Callers:
    """Threads that ask everything in turn, until told to stop, and keep what went wrong.

    Attributes:
        answered: Requests that were.
        wrong: What was not answered with 200, in words.
        versions: Index versions that answers came from.
    """

    def __init__(self, server):
        self._url = server.url
        self._ids = list(server.addresses.values())
        self._pictures = [
            (SAMPLES / name).read_bytes() for name in ("chelsea.jpg", "coffee.jpg", "koala.jpg")
        ]
        self.answered = 0
        self.wrong = []
        self.versions = set()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def may_end(self):
        """From now on the server may refuse connections, and whoever is refused stops."""
        self._ending.set()

    def join(self):
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _work(self, seed):
        rng = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while True:
                try:
                    answer = self._ask(client, rng)
                except httpx.ConnectError as error:
                    if not self._ending.is_set():
                        self.wrong.append(repr(error))
                    return
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    return
                self.answered += 1
                if answer.status_code != 200:
                    self.wrong.append(f"{answer.request.url.path}: {answer.status_code} {answer.text[:200]}")
                else:
                    self.versions.update(VERSION.findall(answer.text))

    def _ask(self, client, rng):
        one = rng.choice(self._ids)
        kind = rng.randrange(9)
        if kind == 0:
            return client.post("/v1/search", json={"image_id": one, "k": rng.randint(1, 50)})
        if kind == 1:
            return client.post("/v1/search", json={"tag": rng.choice(["cat", "dog", "bird", "animal"])})
        if kind == 2:
            return client.post("/v1/search", files={"file": ("x.jpg", rng.choice(self._pictures))})
        if kind == 3:
            return client.post("/v1/recommend", json={"positive": [one], "k": 5})
        if kind == 4:
            return client.post("/v1/search/batch", json={"queries": [{"image_id": one}, {"tag": "cat"}]})
        if kind == 5:
            return client.get("/v1/image/thumbnail", params={"id": one, "size": rng.choice([96, 160, 256])})
        if kind == 6:
            return client.get("/v1/image", params={"id": one})
        if kind == 7:
            return client.get("/v1/image/explain", params={"id": one, "tag": "animal", "size": 128})
        return client.get("/v1/tags", params={"prefix": rng.choice("abcdest")})


def serve_under_load(tmp_path, seconds):
    """Return what callers met while versions changed, and the memory of the server by time."""
    photos = sample_photos(24)
    addresses = put_photos(tmp_path / "photos", photos)
    place = tmp_path / "collection"
    tag_photos(place, addresses, photos)
    memory = []
    with Server(place, "--rate", "10000") as server:
        server.addresses = addresses
        callers = Callers(server)
        began = time.monotonic()
        swaps = 0
        while (now := time.monotonic() - began) < seconds and not callers.wrong:
            memory.append((now, server.memory_bytes()))
            if now >= (swaps + 1) * SWAP_S:
                version = index(Collection.open(str(place)), rebuild=True).version
                wait_for(
                    "the new version, or a failure",
                    lambda v=version: v in callers.versions or callers.wrong,
                    timeout=30,
                )
                swaps += 1
            time.sleep(0.5)
        callers.may_end()
        server.process.send_signal(signal.SIGTERM)
        callers.join()
        code = server.process.wait(60)
    return callers, memory, swaps, code


def slope_mb_per_minute(memory, after_s):
    times, sizes = np.array([point for point in memory if point[0] >= after_s]).T
    return float(np.polyfit(times, sizes, 1)[0]) * 60 / MB


@pytest.mark.parametrize(
    ("seconds", "most_mb_per_minute"),
    [(60, 8.0), pytest.param(1800, 0.5, marks=pytest.mark.soak)],
)
@pytest.mark.timeout(2400)
def test_nobody_notices_a_swap_or_the_end(tmp_path, record_property, seconds, most_mb_per_minute):
    callers, memory, swaps, code = serve_under_load(tmp_path, seconds)
    assert callers.wrong == []
    slope = slope_mb_per_minute(memory, seconds / 3)
    record_property(
        "measured",
        f"{callers.answered} requests, {swaps} new versions, none failed; memory "
        f"{memory[-1][1] / MB:.0f} MB, {slope:+.2f} MB a minute",
    )
    assert code == 0
    assert swaps >= seconds / SWAP_S - 3
    assert len(callers.versions) == swaps + 1
    assert callers.answered > 5 * seconds
    assert slope < most_mb_per_minute


def test_a_version_that_cannot_be_served_is_not(tmp_path):
    photos = sample_photos(4)
    place = tmp_path / "collection"
    tag_photos(place, put_photos(tmp_path / "photos", photos), photos)
    with Server(place) as server, server.client() as client:
        before = client.get("/v1/collection").json()["index_version"]
        pointer = (place / CURRENT_NAME).read_bytes()
        (place / CURRENT_NAME).write_bytes(pointer.replace(before.encode(), b"20990101T000000Z-00000000"))
        wait_for("the refusal", lambda: 'outcome="failed"' in client.get("/metrics").text, timeout=20)
        (place / CURRENT_NAME).write_bytes(b"garbage")
        wait_for("both", lambda: server.log.count("cannot be served") >= 2, timeout=20)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/search", json={"tag": "animal"}).json()["index_version"] == before
        (place / CURRENT_NAME).write_bytes(pointer)
        after = index(Collection.open(str(place)), rebuild=True).version
        wait_for(
            "the next version",
            lambda: client.get("/v1/collection").json()["index_version"] == after,
            timeout=20,
        )
        assert "cannot be served" in server.log


def test_ctrl_c_ends_it_at_once(served):
    with Server(served.collection) as server:
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 20
