"""az:// as source and as collection, on Azurite, Microsoft's own emulator, where npm can give it."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import shutil
import socket
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest
from driving import tagger, wait_for

from tagger.errors import ImageError
from tagger.storage import AlreadyExists, ObjectInfo, PreconditionFailed, open_store
from tagger.testing import make_photos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account and key that the emulator publishes; no secret."""


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running emulator with containers `photos` and `results`; gives the variables that lead to it."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed, so Azurite is not to be had")
    folder = tmp_path_factory.mktemp("azurite")
    install = [npm, "install", "--no-audit", "--no-fund", "--silent", "azurite@3.35.0"]
    subprocess.run(install, cwd=folder, check=True, timeout=300)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = folder / "node_modules/azurite/dist/src/blob/main.js"
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data")]
    quiet = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    endpoint = f"http://127.0.0.1:{port}"
    with subprocess.Popen([node, str(program), *options, *quiet], stdout=subprocess.DEVNULL) as server:
        try:
            wait_for("Azurite", lambda: _listens(port), timeout=60)
            for container in ("photos", "results"):
                _make_container(endpoint, container)
            yield {
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": KEY,
                "AZURITE_BLOB_STORAGE_URL": endpoint,
            }
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _make_container(endpoint: str, name: str) -> None:
    """Azure's «Create Container», signed with the shared key; obstore has no call for it."""
    headers = {
        "x-ms-date": dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "x-ms-version": "2021-08-06",
    }
    signed = "PUT" + "\n" * 12 + "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
    signed += f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
    request = urllib.request.Request(
        f"{endpoint}/{ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers={**headers, "Authorization": f"SharedKey {ACCOUNT}:{signature}"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


def test_the_one_door(azurite: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in azurite.items():
        monkeypatch.setenv(name, value)
    store = open_store("az://photos/door")
    etag = store.put("a/b.jpg", b"one", if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put("a/b.jpg", b"two", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.put("a/b.jpg", b"two", if_match="0x0")
    newer = store.put("a/b.jpg", b"four", if_match=etag)
    assert store.fetch("a/b.jpg") == (b"four", newer)
    assert store.head("a/b.jpg") == ObjectInfo("a/b.jpg", newer, 4)
    with pytest.raises(ImageError, match="changed"):
        store.fetch("a/b.jpg", if_match=etag)
    with pytest.raises(ImageError, match="not_found"):
        store.fetch("nothing.jpg")
    assert [found.name for page in store.list() for found in page] == ["a/b.jpg"]
    store.delete(["a/b.jpg"])
    assert list(store.list()) == []


def test_a_run_from_azure_into_azure(
    azurite: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in azurite.items():
        monkeypatch.setenv(name, value)
    source = open_store("az://photos/run")
    for name, data in make_photos(40):
        source.put(name, data)
    source.put("broken.jpg", b"no picture")
    line = ("tag", "az://photos/run", "az://results/collection", "--json")
    first = tagger(*line, env=azurite).require().json
    assert (first["listed"], first["tagged"], first["failed"]) == (41, 40, 1)
    source.put("new.jpg", source.read("broken.jpg"))
    second = tagger(*line, env=azurite).require(3).json
    assert (second["skipped"], second["planned"], second["failed"]) == (41, 1, 1)
    tagger("retag", "az://results/collection", "--threshold", "0.3", env=azurite).require()
    tagger("report", "az://results/collection", "--out", tmp_path / "report.html", env=azurite).require()
    tagger("check", "az://results/collection", env=azurite).require()
    assert (
        "bucket" in tagger("tag", "az://no-such-container/x", tmp_path / "c", env=azurite).require(2).sentence
    )
