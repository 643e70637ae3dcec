"""A served collection that the tests of a session share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "e2e")]
from serve_kit import (  # noqa: E402
    HOSTILE,
    TWO_THINGS,
    Server,
    above,
    enrich_shop,
    product_rows,
    put_photos,
    sample_photos,
    tag_photos,
)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A running server of photos and a catalog; one has a hostile name, and one is gone from its folder."""
    folder = tmp_path_factory.mktemp("served")
    photos = sample_photos()
    photos[HOSTILE] = photos["kitten.jpg"]
    photos[TWO_THINGS] = above(photos["chelsea.jpg"], photos["coffee.jpg"])
    photos["gone.jpg"] = photos["crab.jpg"]
    addresses = put_photos(folder / "photos", photos)
    tag_photos(folder / "collection", addresses, photos)
    (folder / "photos" / "gone.jpg").unlink()
    catalog = enrich_shop(folder / "collection", folder / "shop", product_rows(photos))
    with Server(folder / "collection", "--catalog", str(catalog)) as server:
        server.catalog = catalog
        server.addresses = addresses
        server.collection = folder / "collection"
        yield server


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client
