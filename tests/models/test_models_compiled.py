"""A machine without a compiler: the model runs as it is."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import safetensors.torch
import torch

from tagger.models import find_model, load, prepare
from tagger.models.library import create


@pytest.fixture
def small(tmp_path, cache_dir):
    torch.manual_seed(0)
    state = create(find_model("timm:resnet10t"), pretrained=False, classes=3).state_dict()
    safetensors.torch.save_file(state, tmp_path / "small.safetensors")
    (tmp_path / "labels.txt").write_text("cup\nbowl\nfork\n")
    about = {"architecture": "timm:resnet10t", "labels": "labels.txt", "size_px": 32}
    (tmp_path / "small.json").write_text(json.dumps(about))
    return prepare(
        find_model(str(tmp_path / "small.safetensors")), "torch", cache_dir=cache_dir, precision="f32"
    )


def look(ready, compiled):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)
    model = load(ready, ready.payload(), threads=1, device="cpu", compiled=compiled)
    return model.compiled, model(pixels)  # type: ignore[attr-defined]


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so(small, caplog):
    # That what can be compiled is the same is shown on a GPU (tests/gpu): here it takes a minute.
    from torch._inductor import config

    torch._dynamo.reset()
    no_compiler = {"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True}
    with config.patch(no_compiler), caplog.at_level(logging.WARNING, logger="tagger"):
        was, outputs = look(small, compiled=True)
    assert not was
    assert "small runs uncompiled: " in caplog.text
    _, expected = look(small, compiled=False)
    assert np.array_equal(outputs.embedding, expected.embedding)
