from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from tagger.errors import ModelError
from tagger.models import DEFAULT_MODEL, find_model, zoo
from tagger.models.labels import read_labels
from tagger.models.library import create, published
from tagger.models.lite import rename_lite
from tagger.models.weights import file_sha256, read_state_dict, weights_file


def test_the_default_is_the_first_row_and_names_are_unique():
    names = [spec.name for spec in zoo()]
    assert names[0] == DEFAULT_MODEL
    assert len(set(names)) == len(names)
    with pytest.raises(FrozenInstanceError):
        zoo()[0].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("spec", zoo(), ids=lambda spec: spec.name)
def test_every_row_says_what_its_library_says(spec):
    about = published(spec)
    assert (spec.framing, spec.mean, spec.std) == (about.framing, about.mean, about.std)
    assert read_labels(spec.labels) == about.labels
    assert spec.licence != "unknown"
    assert spec.origin


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_bundled_weights_are_there_and_pinned(name):
    spec = find_model(name)
    path = weights_file(spec)
    assert path is not None
    assert file_sha256(spec, path) == spec.sha256


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_renamed_checkpoint_fits_timm_name_by_name(name):
    spec = find_model(name)
    path = weights_file(spec)
    assert path is not None
    wanted = create(spec, pretrained=False, classes=1000).state_dict()
    renamed = rename_lite(read_state_dict(spec, path), spec.architecture)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in wanted.items()}


def test_labels_are_those_of_timm_and_torchvision():
    from timm.data import ImageNetInfo
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    names, wnids = read_labels("imagenet")
    assert list(names) == _IMAGENET_CATEGORIES
    assert list(wnids or ()) == ImageNetInfo("imagenet-1k").label_names()


def test_any_library_model_has_a_name():
    assert find_model("timm:resnet18.a1_in1k").weights == "hub"
    assert find_model("torchvision:swin_t").library == "torchvision"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("efficientnet_lite", "did you mean 'efficientnet_lite"),
        ("nonsense", "Known are efficientnet_lite0"),
        ("", "unknown model ''"),
        ("timm:", "unknown model"),
        ("timm:hf-hub:someone/code", "unknown model"),
        ("/no/such.safetensors", "there is no weights file at /no/such.safetensors"),
        ("timm:resnet18@/no/such.pth", "there is no weights file at /no/such.pth"),
        ("timm:resnet18@/etc/passwd", "must end in"),
    ],
)
def test_unknown_names_are_refused_with_a_sentence(name, says):
    with pytest.raises(ModelError, match=says):
        find_model(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm:resnet5000", "timm does not know a model 'resnet5000'"),
        ("timm:resnet50.no_such_tag", "a1_in1k, .* not 'no_such_tag'"),
        ("torchvision:resnet5000", "torchvision does not know a classifier"),
        ("torchvision:resnet50.NONE", "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:raft_large", "torchvision does not know a classifier"),
    ],
)
def test_unknown_architectures_are_refused_with_a_sentence(name, says):
    with pytest.raises(ModelError, match=says):
        published(find_model(name))


def test_published_weights_without_a_network_say_what_to_do():
    code = (
        "from tagger.models import find_model, prepare\n"
        "from tagger.errors import ModelError\n"
        "import tempfile, pathlib\n"
        "for name in ('timm:resnet18.a1_in1k', 'torchvision:resnet18'):\n"
        "    try: prepare(find_model(name), 'torch', cache_dir=pathlib.Path(tempfile.mkdtemp()))\n"
        "    except ModelError as error: print(error)\n"
    )
    # Every address leads to a closed port, whatever network the machine has.
    proxy = "http://127.0.0.1:9"
    env = {"PATH": "/usr/bin:/bin", "http_proxy": proxy, "https_proxy": proxy, "HTTPS_PROXY": proxy}
    env |= {"HOME": "/nonexistent", "HF_HUB_OFFLINE": "1", "TORCH_HOME": "/tmp/no-such-torch-home"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.count("could not be fetched") == 2, done.stdout + done.stderr
    assert "give timm:resnet18.a1_in1k@/path/to/weights.safetensors" in done.stdout
    assert "give torchvision:resnet18@/path/to/weights.safetensors" in done.stdout


def test_importing_models_loads_no_framework():
    names = ("torch", "timm", "openvino", "ray")
    code = f"import sys, tagger.models; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
