"""Helpers of the cluster, end-to-end and fault tests made importable, and a job server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from cluster_kit import JobServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def job_server() -> Iterator[JobServer]:
    """A cluster with its job server, for all tests of a module."""
    with JobServer() as server:
        yield server
