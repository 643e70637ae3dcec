"""What the default model makes of our pixels, beside those of a full decode resized by Pillow."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagger.models import find_model, load, prepare
from tagger.vision import DecodeLimits, Framing
from tagger.vision.decode import decode


def by_pillow(data: bytes, framing: Framing) -> np.ndarray:
    """Decode in full, resize the whole picture, cut out the centre: what the model was trained on."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short, size, (width, height) = framing.resize_px, framing.size_px, image.size
    to = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((to[0] - size) / 2), round((to[1] - size) / 2)
    resized = image.resize(to, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@pytest.fixture(scope="module")
def files(photo_bytes: dict[str, bytes], jpegs: dict[str, bytes]) -> list[bytes]:
    """Real JPEG photos; those of 800 x 600 and 1024 x 683 are reduced while they are decoded."""
    return [data for data in photo_bytes.values() if data[:2] == b"\xff\xd8"] + list(jpegs.values())


def test_the_model_sees_what_it_was_trained_on(
    files: list[bytes], cache_dir: Path, record_property: Callable[[str, str], None]
):
    ready = prepare(find_model("efficientnet_lite0"), "openvino", cache_dir=cache_dir, precision="f32")
    assert ready.framing is not None
    model = load(ready, ready.payload(), threads=2)
    ours = model(np.stack([decode(data, [ready.framing], DecodeLimits()).pixels[0] for data in files]))
    theirs = model(np.stack([by_pillow(data, ready.framing) for data in files]))
    cosines = (ours.embedding * theirs.embedding).sum(axis=1)
    same = np.mean(ours.logits.argmax(axis=1) == theirs.logits.argmax(axis=1))
    record_property(
        "measured",
        f"{len(files)} JPEGs: cosine to Pillow's pixels mean {cosines.mean():.4f}, "
        f"least {cosines.min():.4f}; top-1 agreement {same:.3f}",
    )
    assert len(files) >= 40
    assert cosines.mean() >= 0.99
    assert cosines.min() >= 0.97
    assert same >= 0.9
