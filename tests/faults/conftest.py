"""Helpers of the end-to-end tests made importable, and a store with the rows that it should give."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tagger.testing import RawS3, make_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from blows import PHOTOS
from driving import tagger


@pytest.fixture(scope="session")
def counting_server() -> Iterator[RawS3]:
    """A store with `PHOTOS` photos under photos/ that remembers what it was asked for."""
    with RawS3({f"photos/{name}": data for name, data in make_photos(PHOTOS)}) as server:
        yield server


@pytest.fixture(scope="session")
def undisturbed(counting_server: RawS3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection of those photos, made in one go."""
    collection = str(tmp_path_factory.mktemp("undisturbed") / "collection")
    tagger("tag", f"{counting_server.uri}/photos", collection, env=counting_server.env()).require()
    return collection


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test leaves running."""
    with ExitStack() as stack:
        yield stack
