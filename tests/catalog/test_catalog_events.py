"""Products that the same customers like, against a count by hand."""

import csv
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from catalog_kit import SHOP, rows, shop

from tagger.catalog import EnrichOptions, Rules, enrich
from tagger.errors import UsageError
from tagger.search.together import SHRINKAGE

PRODUCTS = 12


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return shop(tmp_path_factory.mktemp("shop") / "c", rows([f"{n}.jpg" for n in range(PRODUCTS)]))


def written(folder, events, *, sold_out=()):
    """A catalog of one product for each image, and events of (user, product or image, event)."""
    with (folder / "in.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["sku", "image", "stock"])
        out.writerows([f"P{n}", f"{n}.jpg", 0 if n in sold_out else 5] for n in range(PRODUCTS))
    with (folder / "events.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user_id", "product_id", "image_id", "event", "timestamp"])
        for user, thing, event in events:
            is_image = thing.startswith("s3:")
            out.writerow([user, "" if is_image else thing, thing if is_image else "", event, "2026-11-01"])
    return folder / "in.csv", folder / "events.csv"


def test_they_are_those_of_a_count_by_hand(opened, tmp_path):
    rng = np.random.default_rng(3)
    liked = [set(rng.choice(PRODUCTS, rng.integers(1, 6), replace=False).tolist()) for _ in range(60)]
    events = [(f"u{user}", f"P{n}", "purchase") for user, some in enumerate(liked) for n in sorted(some)]
    events += [("u0", "P99", "view")]
    catalog, log = written(tmp_path, events, sold_out=(4, 7))
    out = tmp_path / "out.parquet"
    options = EnrichOptions(k=4, events=log, similar=Rules(in_stock=True))
    done = enrich(opened, catalog, out, options=options)
    assert done.remarks == {"events of products that are not in the catalog": 1}
    count = [[sum(a in one and b in one for one in liked) for b in range(PRODUCTS)] for a in range(PRODUCTS)]
    for a, row in enumerate(pq.read_table(out).to_pylist()):
        strength = {
            b: both / math.sqrt(count[a][a] * count[b][b]) * both / (both + SHRINKAGE)
            for b, both in enumerate(count[a])
            if b not in (a, 4, 7) and both
        }
        expected = sorted(strength, key=lambda b: (-strength[b], b))[:4]
        assert [one["product_id"] for one in row["recommended_with"]] == [f"P{b}" for b in expected]
        scores = [one["score"] for one in row["recommended_with"]]
        assert scores == pytest.approx([strength[b] for b in expected], abs=1e-4)


def test_an_image_stands_for_the_first_product_that_shows_it(opened, tmp_path):
    catalog, log = written(
        tmp_path, [("u", f"{SHOP}1.jpg", "like"), ("u", "P2", "like"), ("u", "P3", "dislike")]
    )
    enrich(opened, catalog, tmp_path / "out.parquet", options=EnrichOptions(events=log))
    found = pq.read_table(tmp_path / "out.parquet").column("recommended_with").to_pylist()
    assert [[one["product_id"] for one in row] for row in found[:4]] == [[], ["P2"], ["P1"], []]


def test_events_that_cannot_be_used_are_told_of(opened, tmp_path):
    catalog, log = written(tmp_path, [("u", "P1", "waves at it")])
    with pytest.raises(UsageError, match=r"line 2 of the events file .* has the event 'waves at it'"):
        enrich(opened, catalog, tmp_path / "out.csv", options=EnrichOptions(events=log))
    assert not (tmp_path / "out.csv").exists()
