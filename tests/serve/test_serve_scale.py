"""What replicas stand on, without a cluster: options, known answers, one write, one download a machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ray_kit import ROOT
from serve_kit import put_photos, sample_photos, tag_photos

from tagger.collection import Collection
from tagger.errors import IndexUnusable, UsageError
from tagger.index import Index
from tagger.serve.known_answers import KnownAnswers
from tagger.serve.one_write import OneWrite
from tagger.serve.scale import HAPROXY, ClusterOptions, environment, options_of
from tagger.settings import load_settings
from tagger.testing import RawS3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    photos = sample_photos(6)
    tag_photos(folder / "collection", put_photos(folder / "photos", photos), photos)
    return folder / "collection"


def test_an_index_whose_file_changes_under_it_is_noticed(place):
    index = Index.open(Collection.open(str(place)))
    known = KnownAnswers(index)
    known.require_same()
    (path,) = place.glob("index/*/vectors-*")
    whole = path.read_bytes()
    with path.open("r+b") as file:  # in place, as a failing disk does: a mapping sees it
        file.write(bytes(len(whole)))
    with pytest.raises(IndexUnusable, match="other vectors"):
        known.require_same()
    with path.open("r+b") as file:
        file.write(whole)
    known.require_same()


def test_processes_of_one_machine_fetch_each_file_once(place, tmp_path, monkeypatch):
    with RawS3() as s3:
        for path in place.rglob("*"):
            if path.is_file():
                s3.objects[f"c/{path.relative_to(place)}"] = path.read_bytes()
        for name, value in (s3.env() | {"TAGGER_CACHE": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        collection, settings = Collection.open(f"{s3.uri}/c"), load_settings()
        counts = []
        threads = [
            threading.Thread(target=lambda: counts.append(Index.open(collection, settings).count))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert counts == [6] * 4
        fetched = [key for method, key in s3.requests if method == "GET" and "/vectors-" in key]
        assert len(fetched) == 1


class Written:
    def __init__(self):
        self.parts = []
        self.closed = False

    def write(self, data):
        self.parts.append(data)

    def close(self):
        self.closed = True


def test_head_and_body_go_in_one_write():
    async def answer(written):
        transport = OneWrite(written, asyncio.get_running_loop())
        transport.write(b"head")
        transport.write(b"body")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        transport.write(b"last")
        transport.close()

    written = Written()
    with ThreadPoolExecutor(1) as pool:  # the browser of other tests may have a loop in this thread
        pool.submit(asyncio.run, answer(written)).result()
    assert written.parts == [b"headbody", b"last"]
    assert written.closed


def test_options_hold_no_key_and_refuse_others_without_one(tmp_path):
    options = ClusterOptions(collection="c", host="0.0.0.0")
    with pytest.raises(UsageError, match="set an API key"):
        options.serve_options(None)
    with pytest.raises(UsageError, match="set an API key"):  # Serve listens elsewhere than it was told
        ClusterOptions(collection="c").serve_options(None, "0.0.0.0")
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    options = ClusterOptions(collection="c", host="0.0.0.0", api_key_file=str(tmp_path / "keys"))
    assert options.serve_options("fedcba9876543210").api_keys == ("0123456789abcdef", "fedcba9876543210")
    assert "0123456789abcdef" not in repr(options) + str(environment(options))


@pytest.mark.parametrize(
    "wrong", [{}, {"collection": "c", "replica": "2"}, {"collection": "c", "replicas": "two"}]
)
def test_serve_run_is_told_what_is_wrong(wrong):
    with pytest.raises(UsageError):
        options_of(wrong)


@pytest.mark.parametrize("wrong", [{"replicas": 0}, {"max_replicas": 1}, {"ongoing": 0}, {"health_s": -1}])
def test_numbers_must_make_sense(wrong):
    with pytest.raises(UsageError):
        ClusterOptions(collection="c", **wrong)


def test_haproxy_opens_its_own_pages_on_this_machine_only(tmp_path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "    stats socket /x/admin.sock mode 666 level admin\ndefaults\n    option redispatch 1\n"
        "frontend prometheus\n    bind :9101\nfrontend http_frontend\n    bind *:8000\n"
        "    server a 192.0.2.2:30000 check\nlisten stats\n  bind *:8404\n"
    )
    env = {"PATH": "/usr/bin:/bin", "TAGGER_SERVE_HAPROXY": "true", "TAGGER_SERVE_LOOPBACK": "1"}
    subprocess.run([HAPROXY, "-db", "-f", config], env=env, check=True)
    assert config.read_text() == (
        "    stats socket /x/admin.sock mode 600 level admin\ndefaults\n    option redispatch 1\n"
        "    option http-buffer-request\n    timeout http-request 20s\n"
        "frontend prometheus\n    bind 127.0.0.1:9101\nfrontend http_frontend\n    bind *:8000\n"
        "    server a 127.0.0.1:30000 check\nlisten stats\n  bind 127.0.0.1:8404\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "set an API key"),
        ([], "RAY_AUTH_MODE=token"),
        (["--replicas", "0"], "--replicas"),
    ],
)
def test_the_job_refuses_before_it_starts_anything(arguments, said):
    command = [sys.executable, "jobs/serve_search.py", "s3://bucket/collection", *arguments]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    job = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert job.returncode == 2
    assert said in job.stderr
