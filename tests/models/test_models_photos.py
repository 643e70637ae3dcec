"""The bundled models on real photos, and both backends beside each other."""

from __future__ import annotations

import numpy as np
import pytest

from tagger.models import find_model, load, prepare

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}


def cosine(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="session")
def torch_model(cache_dir):
    ready = prepare(find_model("efficientnet_lite0"), "torch", cache_dir=cache_dir, precision="f32")
    return load(ready, ready.payload(), threads=2, device="cpu")


@pytest.fixture(scope="session")
def theirs(torch_model, pixels):
    return torch_model(pixels)


def test_photos_get_the_right_words(model, prepared, photos):
    names = ["chelsea", "coffee", "rocket", "china", "flower"]
    outputs = model(np.stack([photos[name] for name in names]))
    best = [prepared.labels[i] for i in outputs.logits.argmax(axis=1)]
    assert best[0] in CATS
    assert best[1:] == ["espresso", "missile", "palace", "daisy"]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_top_1_on_labelled_photos(name, cache_dir, crop):
    ready = prepare(find_model(name), "openvino", cache_dir=cache_dir)
    shown = crop(ready.framing, "imagenet_")
    expected = [int(key.rpartition("_")[2]) for key in shown]
    best = load(ready, ready.payload(), threads=2)(np.stack(list(shown.values()))).logits.argmax(axis=1)
    assert len(expected) == 20
    assert np.mean(best == expected) >= 0.90


@pytest.mark.parametrize("precision", ["bf16", "f32"])
def test_backends_agree(cache_dir, precision, theirs, pixels):
    ready = prepare(find_model("efficientnet_lite0"), "openvino", cache_dir=cache_dir, precision=precision)
    ours = load(ready, ready.payload(), threads=2)(pixels)
    assert cosine(ours.embedding, theirs.embedding).min() >= 0.99
    # bf16 may swap two classes that are as good as equal: it must be rare, and then close.
    differ = ours.logits.argmax(axis=1) != theirs.logits.argmax(axis=1)
    assert differ.mean() <= 0.05
    for i in np.flatnonzero(differ):
        first, second = np.sort(theirs.logits[i])[:-3:-1]
        assert first - second < 0.3


def test_backends_agree_to_rounding_in_f32(cache_dir, prepared, theirs, pixels):
    ready = prepare(find_model("efficientnet_lite0"), "openvino", cache_dir=cache_dir, precision="f32")
    assert ready.model_id == prepared.model_id
    ours = load(ready, ready.payload(), threads=2)(pixels)
    assert np.array_equal(ours.logits.argmax(axis=1), theirs.logits.argmax(axis=1))
    assert cosine(ours.embedding, theirs.embedding).min() >= 0.99999
    assert np.allclose(ours.norm, theirs.norm, rtol=1e-3)


def test_torch_does_not_depend_on_the_batch(torch_model, theirs, pixels):
    order = np.random.default_rng(0).permutation(11)
    assert np.array_equal(torch_model(pixels[order]).embedding, theirs.embedding[order])
    for i in (5, 25):
        assert np.array_equal(torch_model(pixels[i : i + 1]).logits[0], theirs.logits[i])
    assert torch_model(pixels[:0]).embedding.shape == (0, 1280)


def test_torch_computes_in_half_precision_too(cache_dir, theirs, pixels):
    ready = prepare(find_model("efficientnet_lite0"), "torch", cache_dir=cache_dir, precision="bf16")
    half = load(ready, ready.payload(), threads=2, device="cpu")
    assert cosine(half(pixels[:4]).embedding, theirs.embedding[:4]).min() >= 0.99
