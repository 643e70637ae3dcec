"""Tallies against NumPy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagger.report.tallies import Hues, Spread, Words


@given(st.lists(st.floats(0, 1e9, width=32), min_size=1, max_size=80), st.floats(0, 1))
def test_quantiles_are_within_half_a_percent(values: list[float], share: float):
    spread = Spread()
    for part in np.array_split(np.array(values, np.float32), 3):
        spread.add(part)
    exact = float(np.sort(np.array(values, np.float32))[min(len(values) - 1, int(share * len(values)))])
    assert spread.count == len(values)
    assert spread.quantile(share) == pytest.approx(exact, rel=0.005, abs=1e-37)
    assert (spread.least, spread.greatest) == (np.float32(min(values)), np.float32(max(values)))


def test_histogram_puts_round_numbers_where_their_edge_says():
    spread = Spread()
    spread.add(pa.array([0.0, 0.5, 0.5, 1.0, None, 7.0], pa.float32()))
    assert spread.histogram(np.array([0, 0.5, 1])).tolist() == [1, 4]
    assert spread.histogram(np.array([0, 0.5, 1, np.inf])).tolist() == [1, 2, 2]


def test_what_is_no_number_is_left_out():
    spread = Spread()
    spread.add(np.array([np.nan, np.inf, -np.inf, -1.0, -0.0, 2.0], np.float32))
    assert spread.count == 2
    assert (spread.least, spread.greatest, spread.total) == (0.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no value"):
        Spread().quantile(0.5)


def test_words_grow_beyond_their_first_arrays():
    words = Words()
    names = [f"w{i:03d}" for i in range(300)]
    words.add(pa.array(names * 2), np.ones(600))
    words.add(pa.array(["w007"]), np.zeros(1))
    assert words.most_common(1)[0].word == "w007"
    assert words.most_common(1)[0].score == pytest.approx(2 / 3)
    assert [one.word for one in words.most_common()[1:]] == [name for name in names if name != "w007"]


def test_a_swatch_is_the_mean_shade_weighted_by_area():
    hues = Hues()
    colors = [
        [
            {"hex": "#ff0000", "name": "red", "fraction": 0.75},
            {"hex": "#FFFFFF", "name": "white", "fraction": 0.25},
        ],
        [{"hex": "#7f0000", "name": "red", "fraction": 0.25}],
        None,
        [],
    ]
    kind = pa.list_(pa.struct([("hex", pa.string()), ("name", pa.string()), ("fraction", pa.float32())]))
    hues.add(pa.array(colors, kind))
    red, white = hues.largest()
    assert (red.name, red.hex, red.dominant) == ("red", f"#{round(255 * 0.75 + 127 * 0.25):02x}0000", 2)
    assert red.area == pytest.approx(0.8)
    assert (white.hex, white.dominant) == ("#ffffff", 0)


@pytest.mark.parametrize("shade", ["", "red", "#12345", "zzzzzz", None, "日本", '"><x>'])
def test_a_shade_that_is_none_is_still_six_hex_digits(shade: str | None):
    hues = Hues()
    kind = pa.list_(pa.struct([("hex", pa.string()), ("name", pa.string()), ("fraction", pa.float32())]))
    hues.add(pa.array([[{"hex": shade, "name": "red", "fraction": 1.0}]], kind))
    (red,) = hues.largest()
    assert len(red.hex) == 7
    int(red.hex[1:], 16)
