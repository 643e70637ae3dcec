"""What a model gives back: the same for an image whatever comes with it, and again from what is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagger.errors import RunError
from tagger.models import Head, load, load_head
from tagger.models.head import concatenate, finish


def random_head(dim=96, classes=37, seed=0):
    r = np.random.default_rng(seed)
    return Head(r.normal(size=(classes, dim)).astype(np.float32), r.normal(size=classes).astype(np.float32))


def finished(features, head=None):
    return finish(head or random_head(), features, model="m", precision="f32")


def test_logits_come_again_from_what_is_stored(model, prepared, pixels):
    outputs = model(pixels)
    head = load_head(prepared)
    stored = outputs.embedding.astype(np.float16).astype(np.float32)
    assert np.array_equal(stored, outputs.embedding)
    for rows in (slice(None), slice(3, 4), slice(5, 20)):
        again = head.logits(stored[rows], outputs.norm[rows])
        assert np.array_equal(again, outputs.logits[rows])


def test_shapes_and_types(model, prepared, pixels):
    outputs = model(pixels)
    assert outputs.logits.shape == (len(pixels), 1000)
    assert outputs.embedding.shape == (len(pixels), prepared.dim) == (len(pixels), 1280)
    assert outputs.norm.shape == (len(pixels),)
    assert {a.dtype for a in (outputs.logits, outputs.embedding, outputs.norm)} == {np.dtype(np.float32)}
    assert np.allclose(np.linalg.norm(outputs.embedding, axis=1), 1, atol=1e-3)
    assert model(pixels[:0]).logits.shape == (0, 1000)


def test_an_image_does_not_depend_on_its_batch(model, pixels):
    whole = model(pixels)
    for i in (0, 1, 2, 3, 9, len(pixels) - 1):
        alone = model(pixels[i : i + 1])
        assert np.array_equal(alone.embedding[0], whole.embedding[i])
        assert np.array_equal(alone.logits[0], whole.logits[i])
        assert alone.norm[0] == whole.norm[i]
    order = np.random.default_rng(0).permutation(len(pixels))
    assert np.array_equal(model(pixels[order]).embedding, whole.embedding[order])
    assert np.array_equal(model(pixels[order]).logits, whole.logits[order])


def test_an_image_does_not_depend_on_the_number_of_threads(model, prepared, pixels):
    single = load(prepared, prepared.payload(), threads=1)
    assert np.array_equal(single(pixels).embedding, model(pixels).embedding)


def test_read_only_and_strided_pixels_are_taken(model, pixels):
    frozen = pixels[:5].copy()
    frozen.flags.writeable = False
    assert np.array_equal(model(frozen).embedding, model(pixels[:5]).embedding)
    assert np.array_equal(model(pixels[:10:2]).embedding, model(pixels[:10:2].copy()).embedding)


@pytest.mark.parametrize("shape", [(2, 224, 224), (2, 3, 224, 224), (2, 225, 224, 3)])
def test_other_shapes_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(N, 224, 224, 3\)"):
        model(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="got float32"):
        model(np.zeros((1, 224, 224, 3), np.float32))


def test_features_that_are_not_numbers_are_an_error():
    for bad in (np.nan, np.inf, -np.inf):
        features = np.ones((4, 96), np.float32)
        features[2, 5] = bad
        with pytest.raises(RunError, match="for 1 of 4 images; start the run again with precision f32"):
            finished(features)


def test_a_picture_without_features_has_zeros_and_the_bias():
    head = random_head()
    outputs = finished(np.zeros((3, 96), np.float32), head)
    assert not outputs.embedding.any()
    assert not outputs.norm.any()
    assert np.array_equal(outputs.logits, np.tile(head.bias, (3, 1)))


@given(st.integers(0, 200), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_any_split_of_the_rows_gives_the_same(rows, seed, scale):
    r = np.random.default_rng(seed)
    features = (r.normal(size=(rows, 96)) * scale).astype(np.float32)
    head = random_head()
    whole = finished(features, head)
    cut = int(r.integers(0, rows + 1))
    parts = concatenate([finished(features[:cut], head), finished(features[cut:], head)], head)
    for name in ("logits", "embedding", "norm"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    exact = features.astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias
    # float16 keeps 11 bits of each value of the embedding.
    allowed = 96 * 2.0**-11 * np.abs(features).max(initial=0) * np.abs(head.weight).max() + 1e-3
    assert np.abs(whole.logits - exact).max(initial=0) <= allowed


def test_logits_depend_neither_on_the_place_of_a_row_nor_on_the_order_of_the_sums():
    r = np.random.default_rng(7)
    head = random_head(1280, 1000)
    outputs = finished(np.abs(r.normal(size=(96, 1280))).astype(np.float32), head)
    for rows in (slice(0, 1), slice(92, 96), slice(5, 36), slice(64, 95)):
        again = head.logits(outputs.embedding[rows], outputs.norm[rows])
        assert np.array_equal(again, outputs.logits[rows])
    # Features in another order are added in another order, as another CPU would.
    order = r.permutation(1280)
    turned = Head(head.weight[:, order], head.bias)
    assert np.array_equal(turned.logits(outputs.embedding[:, order], outputs.norm), outputs.logits)
    exact = outputs.norm[:, None] * (outputs.embedding.astype(np.float64) @ head.weight.T) + head.bias
    assert np.allclose(outputs.logits, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
