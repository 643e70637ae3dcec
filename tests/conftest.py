"""Fixtures shared by all tests: an S3 server, fresh buckets, real photos, a clean environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tagger.testing import Bucket, SeaweedFS, make_photos, photo_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Before anything reads them: no test may see the credentials, profiles or instance role of its machine.
for _name in [name for name in os.environ if name.startswith(("AWS_", "TAGGER_"))]:
    del os.environ[_name]
os.environ["AWS_CONFIG_FILE"] = "/nonexistent/aws/config"
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/nonexistent/aws/credentials"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured (`record_property("measured", …)`); their own prints xdist would swallow."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "measured" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {text}")


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder (converted models) of this session, shared by all xdist workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "tagger-cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGGER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server, one a session and xdist worker. Tests that kill a server start their own."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3_env(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The AWS_* variables of the server, set for this test."""
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    return s3.env()


@pytest.fixture
def bucket(s3: SeaweedFS, s3_env: dict[str, str]) -> Iterator[Bucket]:
    """A fresh bucket, with the environment leading to it; dropped afterwards."""
    fresh = s3.bucket()
    yield fresh
    fresh.drop()


@pytest.fixture(scope="session")
def photo_bytes() -> dict[str, bytes]:
    """Real photos as files in their own format: chelsea, coffee, rocket, …, `imagenet_NN_CLASS`."""
    return {name: path.read_bytes() for name, path in photo_files().items()}


@pytest.fixture(scope="session")
def jpegs() -> dict[str, bytes]:
    """Twenty-four different JPEG photos of 800 x 600 by name."""
    return dict(make_photos(24))
