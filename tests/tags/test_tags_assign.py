"""assign and probabilities against a slow, plain implementation."""

import math
import pickle

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.collection import schema
from tagger.tags import CATEGORY_THRESHOLD, CATEGORY_TOP_K, Entry, Taxonomy, load_taxonomy, probabilities
from tagger.tags.assign import CATEGORY, TAG
from tagger.tags.derive_wordnet import imagenet_classes

WNIDS, LABELS = imagenet_classes()
PLAIN = load_taxonomy(None, LABELS, WNIDS)


def ticks(value: float) -> float:
    return float(np.float32(round(value, 4)))


def oracle(taxonomy: Taxonomy, row: npt.NDArray[np.float32], threshold: float, top_k: int, activation: str):
    """Tags and categories of one image, by loops over Python numbers."""
    tags = []
    for position, entry in enumerate(taxonomy.tags):
        least = threshold if entry.threshold is None else entry.threshold
        score = ticks(float(row[position]))
        if not entry.hidden and score > 0 and score >= float(np.float32(least)):
            tags.append((-score, position, entry.name))
    categories = []
    for position, node in enumerate(taxonomy.nodes):
        below = [
            float(row[i]) for i, e in enumerate(taxonomy.tags) if node.name in taxonomy.ancestors(e.name)
        ]
        total = min(1.0, math.fsum(below)) if activation == "softmax" else max(below)
        least = CATEGORY_THRESHOLD if node.threshold is None else node.threshold
        score = ticks(total)
        if not node.hidden and score > 0 and score >= float(np.float32(least)):
            categories.append((-score, -len(taxonomy.ancestors(node.name)), position, node.name))
    return (
        [(name, -score) for score, _, name in sorted(tags)[:top_k]],
        [(name, -score) for score, _, _, name in sorted(categories)[:CATEGORY_TOP_K]],
    )


def as_pairs(column: pa.ListArray) -> list[list[tuple[str, float]]]:
    return [[(item["tag"], item["score"]) for item in row] for row in column.to_pylist()]


@st.composite
def taxonomies(draw: st.DrawFn) -> Taxonomy:
    """A random DAG over a few labels; every category has a label."""
    count = draw(st.integers(1, 8))
    limit = st.none() | st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
    levels = draw(st.integers(0, 5))
    nodes = []
    for level in range(levels):
        above = draw(st.sets(st.integers(level + 1, levels - 1))) if level + 1 < levels else set()
        parents = tuple(f"c{one}" for one in sorted(above))
        nodes.append(Entry(f"c{level}", parents, draw(st.booleans()), draw(limit)))
    tags = [
        Entry(
            f"t{i}",
            tuple(
                f"c{one}" for one in sorted(draw(st.sets(st.integers(0, levels - 1))) if levels else set())
            ),
            draw(st.booleans()),
            draw(limit),
        )
        for i in range(count)
    ]
    tags[0] = Entry("t0", tuple(f"c{one}" for one in range(levels)), tags[0].hidden, tags[0].threshold)
    taxonomy = Taxonomy(tuple(tags), tuple(nodes))
    taxonomy.validate()
    return taxonomy


@settings(deadline=None)  # the first example of a shape is slow on a busy machine
@given(
    taxonomy=taxonomies(),
    weights=st.lists(st.lists(st.integers(0, 40), min_size=8, max_size=8), max_size=5),
    threshold=st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0]),
    top_k=st.integers(0, 9),
    activation=st.sampled_from(["softmax", "sigmoid"]),
)
def test_assign_equals_the_plain_one(taxonomy, weights, threshold, top_k, activation):
    width = len(taxonomy.tags)
    # Multiples of 1/1024: exact in any arithmetic, so that the oracle and we round the same number.
    table = np.array(weights, dtype=np.float32).reshape(len(weights), 8)[:, :width]
    values = np.floor(table / 41 * 1024 / (width if activation == "softmax" else 1)) / np.float32(1024)
    tags, categories = taxonomy.assign(
        values.astype(np.float32), source="m", threshold=threshold, top_k=top_k, activation=activation
    )
    expected = [oracle(taxonomy, row, threshold, top_k, activation) for row in values]
    assert as_pairs(tags) == [one for one, _ in expected]
    assert as_pairs(categories) == [two for _, two in expected]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.15])
def test_assign_on_imagenet_equals_the_plain_one(activation: str, threshold: float):
    logits = np.random.default_rng(7).normal(0, 3, (6, 1000)).astype(np.float32)
    values = np.floor(probabilities(logits, activation) * 2**20) / np.float32(2**20)
    tags, categories = PLAIN.assign(values, source="m", threshold=threshold, top_k=7, activation=activation)
    for row, got_tags, got_categories in zip(values, as_pairs(tags), as_pairs(categories), strict=True):
        want_tags, want_categories = oracle(PLAIN, row, threshold, 7, activation)
        assert got_tags == want_tags
        assert got_categories == want_categories


def one_image(**scores: float) -> npt.NDArray[np.float32]:
    values = np.zeros((1, 1000), dtype=np.float32)
    for name, score in scores.items():
        values[0, PLAIN.names.index(name.replace("_", " "))] = score
    return values


def test_three_breeds_make_a_cat():
    tags, categories = PLAIN.assign(one_image(tabby=0.3, tiger_cat=0.3, Egyptian_cat=0.3), source="lite0")
    assert tags.to_pylist()[0] == [
        {"tag": name, "score": pytest.approx(0.3), "source": "lite0"}
        for name in ("tabby", "tiger cat", "Egyptian cat")  # ties keep the order of the labels
    ]
    assert dict(as_pairs(categories)[0])["cat"] == pytest.approx(0.9)
    assert as_pairs(categories)[0][0][0] == "cat"  # of equal scores the more specific first


def test_a_sigmoid_model_takes_the_greatest():
    _, categories = PLAIN.assign(one_image(tabby=0.6, tiger_cat=0.7), source="m", activation="sigmoid")
    assert dict(as_pairs(categories)[0])["cat"] == pytest.approx(0.7)


def test_sums_are_capped_at_one():
    _, categories = PLAIN.assign(one_image(tabby=0.9, tiger_cat=0.9), source="m")
    assert dict(as_pairs(categories)[0])["cat"] == 1.0


def test_hidden_labels_count_for_their_categories():
    hidden = tuple(Entry(e.name, e.parents, e.name == "tabby") for e in PLAIN.tags)
    tags, categories = Taxonomy(hidden, PLAIN.nodes).assign(one_image(tabby=0.9), source="m")
    assert as_pairs(tags) == [[]]
    assert dict(as_pairs(categories)[0])["cat"] == pytest.approx(0.9)


def test_the_columns_have_the_types_of_the_table():
    assert pa.types.is_struct(TAG)
    tags, categories = PLAIN.assign(one_image(tabby=0.9), source="m")
    for got, field in ((tags, "tags"), (categories, "categories")):
        got.validate(full=True)
        assert got.type == schema.SCHEMA.field(field).type
    assert (TAG, CATEGORY) == (schema.TAG, schema.CATEGORY)


def test_no_images_give_no_rows():
    tags, categories = PLAIN.assign(np.empty((0, 1000), dtype=np.float32), source="m")
    assert (len(tags), len(categories)) == (0, 0)
    assert tags.type == schema.SCHEMA.field("tags").type


def test_a_taxonomy_without_categories():
    taxonomy = load_taxonomy(None, ["a", "b"])
    tags, categories = taxonomy.assign(np.array([[0.9, 0.1]], dtype=np.float32), source="m")
    assert as_pairs(tags) == [[("a", pytest.approx(0.9))]]
    assert categories.to_pylist() == [[]]
    assert taxonomy.assign(np.array([[0.9, 0.1]]), source="m", activation="sigmoid")[1].to_pylist() == [[]]


@settings(deadline=None, max_examples=20)
@given(split=st.integers(0, 40))
def test_rows_do_not_depend_on_their_batch(split: int):
    logits = np.random.default_rng(3).normal(0, 4, (40, 1000)).astype(np.float32)

    def run(part: npt.NDArray[np.float32]) -> list[object]:
        tags, categories = PLAIN.assign(probabilities(part, "softmax"), source="m", threshold=0.01)
        return list(zip(tags.to_pylist(), categories.to_pylist(), strict=True))

    assert run(logits[:split]) + run(logits[split:]) == run(logits)


def test_retagging_writes_identical_columns():
    logits = np.random.default_rng(5).normal(0, 4, (100, 1000)).astype(np.float32)
    first = PLAIN.assign(probabilities(logits, "softmax"), source="m")
    again = Taxonomy.from_json(PLAIN.to_json()).assign(probabilities(logits[::-1], "softmax"), source="m")
    for one, two in zip(first, again, strict=True):
        assert one.to_pylist() == two.to_pylist()[::-1]


def test_thresholds_meet_the_stored_score():
    # 0.7 as float32 is below 0.7: what was written as 0.7 must pass a threshold of 0.7.
    values = one_image(tabby=0.7, tiger_cat=0.69996, Egyptian_cat=0.69994)
    tags, _ = PLAIN.assign(values, source="m", threshold=0.7)
    assert [name for name, _ in as_pairs(tags)[0]] == ["tabby", "tiger cat"]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((1, 1000), np.nan, dtype=np.float32), "nan"),
        (np.full((1, 999), 0.1, dtype=np.float32), r"shape \(N, 1000\)"),
        (np.full(1000, 0.1, dtype=np.float32), "shape"),
        (np.full((1, 1000), -3.0, dtype=np.float32), r"\[0, 1\]"),
        (np.full((1, 1000), 1.5, dtype=np.float32), r"\[0, 1\]"),
        (np.full((1, 1000), np.inf, dtype=np.float32), r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_probabilities_is_refused(values: npt.NDArray[np.float32], match: str):
    with pytest.raises(ValueError, match=match):
        PLAIN.assign(values, source="m")


def test_one_nan_among_many_is_refused():
    values = np.full((64, 1000), 0.001, dtype=np.float32)
    values[63, 999] = np.nan
    with pytest.raises(ValueError, match="nan"):
        PLAIN.assign(values, source="m")


def test_bad_limits_are_refused():
    for wrong in ({"top_k": -1}, {"threshold": 1.1}, {"threshold": math.nan}):
        with pytest.raises(ValueError, match="top_k"):
            PLAIN.assign(one_image(tabby=1), source="m", **wrong)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_probabilities_equal_the_textbook(rows: list[list[float]]):
    logits = np.array(rows, dtype=np.float32)
    exact = logits.astype(np.float64)
    power = np.exp(exact - exact.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        probabilities(logits, "softmax"), power / power.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-30
    )
    np.testing.assert_allclose(probabilities(logits, "sigmoid"), 1 / (1 + np.exp(-exact)), rtol=1e-5)


def test_probabilities_leave_their_input_alone_and_survive_extremes():
    logits = np.array([[1e4, -1e4, 0]], dtype=np.float32)
    before = logits.copy()
    assert probabilities(logits, "softmax").tolist() == [[1, 0, 0]]
    assert probabilities(logits, "sigmoid").tolist() == [[1, 0, 0.5]]
    np.testing.assert_array_equal(logits, before)
    for activation in ("softmax", "sigmoid"):
        assert np.isnan(probabilities(np.array([[np.nan, 1]]), activation)).any()
        assert probabilities(np.empty((0, 3)), activation).shape == (0, 3)


def test_probabilities_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="shape"):
        probabilities(np.zeros(3), "softmax")
    with pytest.raises(ValueError, match="activation"):
        probabilities(np.zeros((1, 3)), "relu")  # type: ignore[arg-type]


def test_a_taxonomy_travels_small_and_whole():
    PLAIN.assign(one_image(tabby=1), source="m")  # builds the index, which stays behind
    data = pickle.dumps(PLAIN)
    assert len(data) < 100_000
    assert pickle.loads(data) == PLAIN
