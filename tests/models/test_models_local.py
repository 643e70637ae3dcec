"""Checkpoints of the user's own: a weights file with a JSON beside it."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from tagger.errors import ModelError
from tagger.models import find_model, load, prepare
from tagger.models.weights import read_state_dict, weights_file

WORDS = ["cup", "bowl", "spoon", "fork", "knife"]


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=len(WORDS)).eval()


def describe(path, **fields):
    (path.parent / "labels.txt").write_text("\n".join(WORDS) + "\n")
    about = {
        "architecture": "timm:resnet10t",
        "labels": "labels.txt",
        "size_px": 64,
        "resize_px": 72,
        **fields,
    }
    about = {key: value for key, value in about.items() if value is not None}
    path.with_suffix(".json").write_text(json.dumps(about))
    return str(path)


def saved(folder, state, **fields):
    path = folder / "mine.safetensors"
    safetensors.torch.save_file(state, path)
    return describe(path, **fields)


def test_every_format_is_the_same_model_and_computes_what_torch_does(tmp_path, cache_dir, resnet):
    state = resnet.state_dict()
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 7, "arch": "resnet10t"}
    averaged = {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state}
    names = [saved(tmp_path, state)]
    for name, content in [("plain.pth", state), ("wrapped.pt", wrapped), ("averaged.bin", averaged)]:
        torch.save(content, tmp_path / name)
        names.append(describe(tmp_path / name))
    ready = [prepare(find_model(name), "torch", cache_dir=cache_dir, precision="f32") for name in names]
    assert len({model.model_id for model in ready}) == 1
    assert [model.name for model in ready] == ["mine", "plain", "wrapped", "averaged"]
    assert ready[0].labels == tuple(WORDS)
    assert ready[0].wnids is None
    assert (ready[0].framing.size_px, ready[0].framing.resize_px, ready[0].dim) == (64, 72, 512)

    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (ready[0].mean, ready[0].std))
    with torch.inference_mode():
        planes = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        expected = resnet((planes - mean) / std).numpy()
    for backend in ("torch", "openvino"):
        model = prepare(find_model(names[0]), backend, cache_dir=cache_dir, precision="f32")
        assert model.model_id == ready[0].model_id
        logits = load(model, model.payload(), threads=1, device="cpu")(pixels).logits
        assert np.allclose(logits, expected, atol=2e-3 * np.abs(expected).max())


def test_the_bundled_model_from_another_file_is_the_same_model(tmp_path, cache_dir, prepared):
    spec = find_model("efficientnet_lite0")
    original = weights_file(spec)
    shutil.copy(original, tmp_path / "lite.pth")
    named = f"timm:tf_efficientnet_lite0@{tmp_path / 'lite.pth'}"
    copied = prepare(find_model(named), "openvino", cache_dir=cache_dir)
    assert copied.model_id == prepared.model_id
    assert copied.labels == prepared.labels


def test_the_fingerprint_sees_weights_and_preprocessing_only(tmp_path, cache_dir, resnet):
    state = resnet.state_dict()

    def model_id(state=state, **fields):
        path = saved(tmp_path, state, **fields)
        return prepare(find_model(path), "torch", cache_dir=cache_dir).model_id

    base = model_id()
    assert model_id(licence="MIT", name="other", activation="sigmoid") == base
    touched = {k: v.clone() for k, v in state.items()}
    touched["fc.weight"][3, 7] += 1e-3
    others = [
        model_id(touched),
        model_id(mode="squash"),
        model_id(resize_px=80),
        model_id(interpolation="bilinear"),
        model_id(mean=[0.5, 0.5, 0.5]),
        model_id(std=[0.5, 0.5, 0.5]),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_multi_label(tmp_path, cache_dir, resnet):
    ready = prepare(
        find_model(saved(tmp_path, resnet.state_dict(), activation="sigmoid")), "torch", cache_dir=cache_dir
    )
    assert ready.activation == "sigmoid"


def test_labels_with_wordnet_ids(tmp_path, cache_dir, resnet):
    name = saved(tmp_path, resnet.state_dict())
    text = "# from my own list\n" + "".join(f"n0000000{i}\t{word}\n" for i, word in enumerate(WORDS))
    (tmp_path / "labels.txt").write_text(text)
    ready = prepare(find_model(name), "torch", cache_dir=cache_dir)
    assert ready.labels == tuple(WORDS)
    assert ready.wnids is not None
    assert ready.wnids[4] == "n00000004"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", ["zip", "plain pickle"])
def test_a_checkpoint_never_runs_code(tmp_path, cache_dir, protocol):
    bomb = {"fc.weight": torch.zeros(1), "more": Bomb(tmp_path / "exploded")}
    path = tmp_path / "bomb.pth"
    if protocol == "zip":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ModelError, match=r"bomb\.pth cannot be read as weights"):
        prepare(find_model(describe(path)), "torch", cache_dir=cache_dir)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
def test_damaged_files_are_refused(tmp_path, cache_dir, resnet, name):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(resnet.state_dict(), path)
    else:
        safetensors.torch.save_file(resnet.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be read as weights"):
        prepare(find_model(describe(path)), "torch", cache_dir=cache_dir)


def test_weights_that_are_not_weights_are_refused(tmp_path, cache_dir):
    for content in ([1, 2], {}, {"a": 1}):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ModelError, match="holds no weights"):
            prepare(find_model(describe(tmp_path / "odd.pth")), "torch", cache_dir=cache_dir)


def test_a_pinned_sha256_is_checked(tmp_path, cache_dir, resnet):
    name = saved(tmp_path, resnet.state_dict(), sha256="0" * 64)
    with pytest.raises(ModelError, match=r"were altered: sha256 .* where 000000000000… is expected"):
        prepare(find_model(name), "torch", cache_dir=cache_dir)


def test_altered_bundled_weights_are_refused(tmp_path):
    spec = find_model("efficientnet_lite0")
    data = bytearray(weights_file(spec).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "altered.pth").write_bytes(data)
    with pytest.raises(ModelError, match="were altered"):
        read_state_dict(spec, tmp_path / "altered.pth")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("conv1.0.weight"), "conv1.0.weight is missing (1 missing, 0 unknown"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is not known (0 missing, 1 unknown"),
        (lambda s: s.update({"fc.bias": torch.zeros(9)}), "fc.bias is (9,) where (5,) is expected"),
        (lambda s: s["fc.bias"].fill_(torch.nan), "are damaged: fc.bias holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, cache_dir, resnet, change, says):
    state = {k: v.clone() for k, v in resnet.state_dict().items()}
    change(state)
    with pytest.raises(ModelError) as caught:
        prepare(find_model(saved(tmp_path, state)), "torch", cache_dir=cache_dir)
    assert says in str(caught.value)


def test_labels_that_are_not_named_are_asked_for(tmp_path, cache_dir, resnet):
    with pytest.raises(ModelError, match="name their labels in the JSON beside it"):
        prepare(find_model(saved(tmp_path, resnet.state_dict(), labels=None)), "torch", cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"architecture": None}, '"architecture" is missing'),
        ({"architecture": "keras:vgg"}, "must be timm:NAME or torchvision:NAME, got 'keras:vgg'"),
        ({"activation": "relu"}, "'activation' must be one of softmax, sigmoid, got 'relu'"),
        ({"mode": "stretch"}, "'mode' must be one of crop, squash, letterbox"),
        ({"size": 224}, "unknown key 'size'"),
        ({"size_px": "224"}, "'size_px' must be of type int"),
        ({"size_px": True}, "'size_px' must be of type int"),
        ({"size_px": 300}, "size_px <= resize_px"),
        ({"size_px": None}, 'needs "size_px" as well'),
        ({"mean": [0.5, 0.5]}, "'mean' must be three numbers"),
        ({"std": [0.5, 0.5, 0]}, "'std' must be three positive numbers"),
        ({"labels": "nowhere.txt"}, "there is no labels file at"),
    ],
)
def test_a_wrong_description_is_refused_with_a_sentence(tmp_path, resnet, fields, says):
    with pytest.raises(ModelError) as caught:
        find_model(saved(tmp_path, resnet.state_dict(), **fields))
    assert says in str(caught.value)


def test_a_description_must_be_there_and_be_json(tmp_path, resnet):
    name = saved(tmp_path, resnet.state_dict())
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        find_model(name)
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(ModelError, match="must hold one JSON object"):
        find_model(name)
    (tmp_path / "mine.json").unlink()
    with pytest.raises(ModelError, match=r"needs mine\.json beside it"):
        find_model(name)
    saved(tmp_path, resnet.state_dict())
    with pytest.raises(ModelError, match="says the weights are timm:resnet10t"):
        find_model(f"torchvision:resnet18@{name}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cup\n\nspoon\n", "line 2: a class needs a name"),
        ("n1\tcup\nbowl\n", "give all or none"),
        ("", "names no class"),
        ("cup\nbowl\n", "of another shape"),
        (b"\xff\xfe\xff", "cannot be read"),
    ],
)
def test_a_wrong_labels_file_is_refused_with_a_sentence(tmp_path, cache_dir, resnet, text, says):
    name = saved(tmp_path, resnet.state_dict())
    (tmp_path / "labels.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ModelError, match=says):
        prepare(find_model(name), "torch", cache_dir=cache_dir)
