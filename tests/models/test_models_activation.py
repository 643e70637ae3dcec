"""Class activation maps: what each place of the picture gives to a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_models_local import WORDS, saved

from tagger.errors import ModelError
from tagger.models import find_model, load, load_head, prepare
from tagger.models.activation import ActivationMaps
from tagger.models.library import create


def maps_of(name, folder, cache_dir, size):
    torch.manual_seed(3)
    state = create(find_model(name), pretrained=False, classes=len(WORDS)).state_dict()
    path = saved(folder, state, architecture=name, size_px=size, resize_px=size)
    prepared = prepare(find_model(path), "openvino", cache_dir=cache_dir, precision="f32")
    return ActivationMaps(prepared, prepared.payload())


def test_the_places_of_the_bundled_model_add_up_to_its_logits(prepared, photos):
    maps, head = ActivationMaps(prepared, prepared.payload()), load_head(prepared)
    pixels = photos["chelsea"]
    places = maps.features(pixels)
    assert places.shape == (7, 7, prepared.dim)
    logits = (places @ head.weight.T).mean(axis=(0, 1)) + head.bias
    model = load(prepared, prepared.payload(), threads=1)
    assert np.abs(logits - model(pixels[None]).logits[0]).max() < 0.35  # which may run in bf16
    assert "cat" in prepared.labels[int(logits.argmax())]


@pytest.mark.parametrize(
    ("name", "dim"),
    [("timm:resnet10t", 512), ("timm:mobilenetv3_small_050", 1024), ("timm:convnext_atto", 320)],
)
def test_networks_with_global_pooling_tell(name, dim, tmp_path, cache_dir):
    """Of MobileNetV3 and ConvNeXt also layers between pooling and the last one are applied to each place."""
    maps = maps_of(name, tmp_path, cache_dir, 64)
    places = maps.features(np.zeros((64, 64, 3), np.uint8))
    assert places.shape == (2, 2, dim)
    assert np.isfinite(places).all()
    with pytest.raises(ValueError, match="pixels must be"):
        maps.features(np.zeros((32, 32, 3), np.uint8))


def test_a_network_without_global_pooling_says_so(tmp_path, cache_dir):
    with pytest.raises(ModelError, match="mine has no global pooling over places"):
        maps_of("timm:vit_tiny_patch16_224", tmp_path, cache_dir, 224)
