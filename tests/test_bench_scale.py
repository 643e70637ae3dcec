"""`python -m bench.scale`: the simulated run is exact, and its fits say what the numbers say."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # bench/ is a folder of the repository, not a part of the package

from bench import scale, scale_report  # noqa: E402
from bench.scale_driver import PAGE_KEYS, Keys, keys  # noqa: E402
from bench.scale_fit import Fit, Wall, fit, in_order  # noqa: E402
from tagger.engine.ledger import GROUP_ROWS  # noqa: E402

SIZES = (1e5, 1e6, 1e7)


def test_a_line_is_found_again():
    found = fit("cost", [(n, 3.0 + 2e-6 * n) for n in SIZES])
    assert found.fixed == pytest.approx(3.0)
    assert found.each == pytest.approx(2e-6)
    assert found.at(1e9) == pytest.approx(2003.0)
    assert found.reaches(2003.0) == pytest.approx(1e9)
    assert found.exponent == pytest.approx(1.0)
    assert not found.superlinear


def test_what_grows_faster_than_its_number_is_flagged():
    assert fit("cost", [(n, 5.0 + 1e-9 * n**2) for n in SIZES]).superlinear
    assert not fit("cost", [(n, 5.0 + 1e-3 * math.sqrt(n)) for n in SIZES]).superlinear
    assert not fit("cost", [(n, 7.0) for n in SIZES]).superlinear


def test_no_cost_is_less_than_nothing():
    falling = fit("cost", [(1e6, 5.0), (1e7, 4.0)])
    assert falling.each == 0.0
    assert falling.fixed == pytest.approx(4.5)
    assert falling.reaches(10.0) == math.inf
    below = fit("cost", [(1e6, 1.0), (1e7, 20.0)])
    assert below.fixed == 0.0
    assert below.at(1e7) == pytest.approx(15.0)


def test_one_point_grows_from_nothing_and_none_is_refused():
    assert fit("cost", [(1e6, 4.0)]).at(2e6) == pytest.approx(8.0)
    with pytest.raises(ValueError, match="nothing was measured of cost"):
        fit("cost", [])


def test_the_first_wall_comes_first():
    def wall(name, each):
        return Wall(name, 2.0, "GB", Fit(name, 1.0, each, None, ()), "")

    assert [one.name for one in in_order([wall("late", 1e-9), wall("never", 0.0), wall("soon", 1e-6)])] == [
        "soon",
        "late",
        "never",
    ]


def test_keys_come_in_pages_and_order_each_once():
    pages = list(Keys(2 * PAGE_KEYS + 5).batches())
    assert [page.num_rows for page in pages] == [PAGE_KEYS, PAGE_KEYS, 5]
    ids = [image_id for page in pages for image_id in page["image_id"].to_pylist()]
    assert ids == sorted(set(ids))
    assert pages[1].equals(keys(PAGE_KEYS, 2 * PAGE_KEYS))


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_simulated_run_goes_through_everything(tmp_path):
    images = 20_000
    found = scale.measure((images,), (300_000, 600_000), tmp_path, cpus=2, chunk_rows=512)
    (run,), (again,), (table,) = (
        found["runs"],
        found["again"],
        found["tables"],
    )  # `check` was content, or it raised
    counts = ("listed", "skipped", "planned", "deferred", "tagged", "failed")
    assert [run["result"][name] for name in counts] == [images, 0, images, 0, images, 0]
    assert [again["result"][name] for name in counts] == [images, images, 0, 0, 0, 0]
    assert sum(commit["parts"] for commit in run["commits"]) == table["parts"] >= images / GROUP_ROWS
    assert table["versions"] == len(run["commits"])
    assert again["commits"] == []
    assert [row["parts"] for row in found["log"]] == [19, 37]
    results = {
        "date": "today",
        "quick": True,
        "machine": scale.machine.describe(),
        "cpus": 2,
        "chunk_rows": 512,
        "load_before": 0.0,
        "load_after": 0.0,
        **found,
    }
    text = scale_report.render(results)
    assert "extrapolated" in text
    assert f"at {images:,} (GB)" in text
