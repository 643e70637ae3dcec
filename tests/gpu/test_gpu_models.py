"""The torch backend on a CUDA device, beside itself on the CPU.

With random weights where the bundled ones are not installed.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tagger.errors import ModelError
from tagger.models import find_model, load, load_head, prepare

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def cosine(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    chosen = find_model("efficientnet_lite0")
    try:
        prepare(chosen, "torch", cache_dir=tmp_path_factory.mktemp("probe"), precision="f32")
    except ModelError:
        import safetensors.torch
        import timm

        torch.manual_seed(0)
        file = tmp_path_factory.mktemp("random") / "random.safetensors"
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        safetensors.torch.save_file(network.state_dict(), file)
        about = {"architecture": "timm:tf_efficientnet_lite0", "labels": "imagenet"}
        file.with_suffix(".json").write_text(json.dumps(about))
        chosen = find_model(str(file))
    return chosen


@pytest.fixture(scope="module")
def pixels():
    """Smooth pictures with some grain: (600, 224, 224, 3), more than two batches and a part of one."""
    from PIL import Image

    r = np.random.default_rng(0)
    made = []
    for _ in range(600):
        coarse = Image.fromarray(r.integers(0, 256, (6, 6, 3), np.uint8)).resize((224, 224), 3)
        made.append(
            np.clip(np.asarray(coarse) + r.normal(scale=5, size=(224, 224, 1)), 0, 255).astype(np.uint8)
        )
    return np.stack(made)


@pytest.fixture(scope="module")
def ready(spec, tmp_path_factory):
    """The model prepared for torch, by precision."""
    folder = tmp_path_factory.mktemp("cache")
    return lambda precision: prepare(spec, "torch", cache_dir=folder, precision=precision)


@pytest.fixture(scope="module")
def reference(ready, pixels):
    """The first 32 on the CPU in float32."""
    prepared = ready("f32")
    return load(prepared, prepared.payload(), threads=4, device="cpu")(pixels[:32])


@pytest.mark.parametrize("precision", ["f32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_gpu_agrees_with_cpu(ready, pixels, reference, precision, compiled):
    prepared = ready(precision)
    model = load(prepared, prepared.payload(), threads=4, device="cuda", compiled=compiled)
    outputs = model(pixels[:32])
    assert cosine(outputs.embedding, reference.embedding).min() >= (0.9999 if precision == "f32" else 0.99)
    if precision == "f32":
        assert np.array_equal(outputs.logits.argmax(axis=1), reference.logits.argmax(axis=1))


def test_rows_keep_their_order_through_the_overlapped_copies(ready, pixels):
    prepared = ready("bf16")
    model = load(prepared, prepared.payload(), threads=4, device="cuda", compiled=False)
    whole = model(pixels)
    assert len(whole.norm) == len(pixels)
    for _ in range(3):  # buffers are used again and again
        order = np.random.default_rng(1).permutation(len(pixels))
        again = model(pixels[order])
        assert cosine(again.embedding, whole.embedding[order]).min() >= 0.9999
    assert model(pixels[:0]).logits.shape == (0, 1000)


def test_logits_come_again_from_what_is_stored(ready, pixels):
    prepared = ready("bf16")
    outputs = load(prepared, prepared.payload(), threads=4, device="cuda")(pixels[:100])
    head = load_head(prepared)
    again = head.logits(outputs.embedding, outputs.norm)
    assert np.array_equal(again, outputs.logits)
