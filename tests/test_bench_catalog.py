"""The planted faults and copies of bench.catalog and bench.duplicates, and how what is found is judged."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # bench/ is a folder of the repository

from bench import catalog, duplicates


def test_each_fault_is_planted_in_one_product_of_twenty() -> None:
    faults = Counter(catalog.fault_of(i) for i in range(420))
    assert set(faults) == {None, *catalog.FAULTS}
    assert all(faults[name] == 20 for name in catalog.FAULTS)
    swapped = [i for i in range(420) if catalog.fault_of(i) == "looks_unlike_its_category"]
    assert all(catalog.category_of(i) != f"Category {i % 8}" for i in swapped)
    copies = [i for i in range(420) if catalog.fault_of(i) == "duplicate_of"]
    for i in copies[:2]:
        original = next(n for n in range(i, -1, -1) if catalog.fault_of(n) is None)
        assert catalog.picture(i).tobytes() == catalog.picture(original).tobytes()
        assert catalog.category_of(i) == catalog.category_of(original)


def test_flags_are_judged() -> None:
    judged = catalog._judged("blurred", {1, 2, 3, 4}, {2, 3, 9})
    assert (judged["recall"], judged["precision"]) == (0.5, pytest.approx(2 / 3))
    assert (judged["wrong"], judged["lost"]) == ([9], [1, 4])


def test_copies_are_judged() -> None:
    """Of two planted copies of a kind one is found; one pair of three is of different pictures."""
    names = ["000000_0_original.jpg", "000000_1_copy.jpg", "000040_0_original.jpg"]
    rows = [{"group": 1, "image_id": f"file:///x/{name}"} for name in names]
    judged = duplicates.judge(rows, planted=2)
    assert judged["recall"]["the same bytes"] == 0.5
    assert judged["recall"]["mirrored"] == 0
    assert (judged["pairs"], judged["precision"]) == (3, pytest.approx(1 / 3))
