"""Any classifier that ends in one linear layer can be used; any other is refused, never misread."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from tagger.errors import ModelError
from tagger.models import find_model, load, prepare
from tagger.models.library import create
from tagger.models.network import split_head

USABLE = {
    "timm:tf_efficientnet_lite0": (64, 1280),
    "timm:resnet10t": (64, 512),
    "timm:convnext_atto": (64, 320),
    "timm:vit_tiny_patch16_224": (224, 192),
    "timm:mobilenetv3_small_050": (64, 1024),
    "timm:densenet121": (64, 1024),
    "timm:regnetx_002": (64, 368),
    "torchvision:resnet18": (64, 512),
    "torchvision:mobilenet_v3_small": (64, 1024),
    "torchvision:vit_b_16": (224, 768),
    "torchvision:swin_t": (64, 768),
    "torchvision:efficientnet_b0": (64, 1280),
    "torchvision:densenet121": (64, 1024),
    "torchvision:vgg11": (64, 4096),
}


SLOW = {"timm:densenet121", "torchvision:densenet121", "torchvision:swin_t", "torchvision:efficientnet_b0"}
"""Their kinds are shown by smaller ones; they run with `make soak`."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name in SLOW else []) for name in USABLE]
)
def test_the_head_is_found_and_makes_the_networks_own_logits(name):
    size, dim = USABLE[name]
    spec = find_model(name)
    torch.manual_seed(1)
    with torch.no_grad():
        network = create(spec, pretrained=False, classes=11).eval()
        for parameter in network.parameters():  # some libraries begin with a head of zeros
            if not parameter.any():
                parameter.normal_(std=0.02)
        pixels = torch.rand(3, 3, size, size)
        whole = network(pixels)
        _, head = split_head(network, size, spec)
        embedding = network(pixels)
        assert embedding.shape == (3, dim)
        assert torch.allclose(head(embedding), whole, atol=1e-5)
    assert whole.std() > 0


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:deit_tiny_distilled_patch16_224"])
def test_other_networks_are_refused(name):
    spec = find_model(name)
    torch.manual_seed(1)
    with torch.no_grad():
        network = create(spec, pretrained=False, classes=11).eval()
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
        with pytest.raises(ModelError, match="do not come from one linear layer"):
            split_head(network, 224, spec)


def test_a_size_that_the_network_cannot_take_is_refused():
    spec = find_model("torchvision:vit_b_16")
    with torch.no_grad(), pytest.raises(ModelError, match="does not run on 64 by 64 px"):
        split_head(create(spec, pretrained=False, classes=11).eval(), 64, spec)


@pytest.mark.parametrize(
    "name", ["timm:convnext_atto", "timm:vit_tiny_patch16_224", "torchvision:mobilenet_v3_small"]
)
def test_both_backends_agree_on_a_checkpoint_of_it(name, tmp_path, cache_dir, crop):
    spec = find_model(name)
    torch.manual_seed(2)
    network = create(spec, pretrained=False, classes=1000)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "weights.json").write_text(json.dumps({"architecture": name, "labels": "imagenet"}))
    mine = find_model(str(tmp_path / "weights.safetensors"))
    outputs = []
    for backend in ("openvino", "torch"):
        ready = prepare(mine, backend, cache_dir=cache_dir, precision="f32")
        pixels = np.stack(list(crop(ready.framing, "imagenet_0").values()))
        outputs.append(load(ready, ready.payload(), threads=2, device="cpu")(pixels))
    ours, theirs = outputs
    assert ((ours.embedding * theirs.embedding).sum(axis=1)).min() >= 0.999
    assert np.allclose(ours.logits, theirs.logits, atol=1e-2 * np.abs(theirs.logits).max())
