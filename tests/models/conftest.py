"""Models and pixels that the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tagger.models import find_model, load, prepare
from tagger.testing import photo_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tagger.models import Model, PreparedModel
    from tagger.vision.framing import Framing


def reference_crop(path: Path, framing: Framing) -> np.ndarray:
    """Centre crop by plain Pillow, as timm's and torchvision's evaluation transforms do."""
    image = Image.open(path).convert("RGB")
    scale = framing.resize_px / min(image.size)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), filters[framing.interpolation]
    )
    left, top = (image.width - framing.size_px) // 2, (image.height - framing.size_px) // 2
    return np.asarray(image.crop((left, top, left + framing.size_px, top + framing.size_px)))


@pytest.fixture(scope="session")
def prepared(cache_dir: Path) -> PreparedModel:
    """The default model, converted for OpenVINO."""
    return prepare(find_model("efficientnet_lite0"), "openvino", cache_dir=cache_dir)


@pytest.fixture(scope="session")
def model(prepared: PreparedModel) -> Model:
    return load(prepared, prepared.payload(), threads=2)


@pytest.fixture(scope="session")
def crop() -> Callable[..., dict[str, np.ndarray]]:
    """Real photos, framed, by name; those whose name begins with a prefix."""

    def frame(framing: Framing, prefix: str = "") -> dict[str, np.ndarray]:
        files = photo_files().items()
        return {name: reference_crop(path, framing) for name, path in files if name.startswith(prefix)}

    return frame


@pytest.fixture(scope="session")
def photos(prepared: PreparedModel, crop: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Real photos as the default model's pixels, by name."""
    return crop(prepared.framing)


@pytest.fixture(scope="session")
def pixels(photos: dict[str, np.ndarray]) -> np.ndarray:
    """The same, stacked: (26, 224, 224, 3)."""
    return np.stack(list(photos.values()))
