"""A checkpoint of your own: a weights file with a small JSON beside it.

`mine.safetensors` (or `.pth`, `.pt`, `.bin`) is described by `mine.json` in the same folder:

    {
      "architecture": "timm:resnet50",     "timm:NAME" or "torchvision:NAME"; may be left out
                                           when the model is named timm:NAME@/path/mine.safetensors
      "labels": "labels.txt",              a file beside it, one class a line in class order, `name` or
                                           `wnid<TAB>name`; or "imagenet"
      "activation": "softmax",             "sigmoid" for a multi-label model
      "size_px": 224, "resize_px": 256,    } left out: as the library publishes them
      "mode": "crop",                      } for the architecture
      "interpolation": "bicubic",          }
      "mean": [0.5, 0.5, 0.5],             }
      "std": [0.5, 0.5, 0.5],              }
      "name": "mine",                      the `source` of the tags; left out: the file's name
      "sha256": "5793…",                   of the weights; anything else is then refused
      "licence": "Apache-2.0"
    }

A .pth is read with `weights_only=True`: tensors and containers, never code. What a training script wrapped
around the weights (`state_dict`, `model`, a `module.` prefix) is taken off.
"""

import json
from pathlib import Path
from typing import Any, Final, cast

from tagger.errors import ModelError
from tagger.models.spec import CHECKPOINT_SUFFIXES, Activation, Library, ModelSpec
from tagger.vision.framing import Framing

_TYPES: Final[dict[str, type]] = {
    "architecture": str,
    "labels": str,
    "activation": str,
    "size_px": int,
    "resize_px": int,
    "mode": str,
    "interpolation": str,
    "mean": list,
    "std": list,
    "name": str,
    "sha256": str,
    "licence": str,
}
_CHOICES: Final = {
    "activation": ("softmax", "sigmoid"),
    "mode": ("crop", "squash", "letterbox"),
    "interpolation": ("bicubic", "bilinear"),
}


def local_model(path: Path, *, library: Library | None = None, architecture: str | None = None) -> ModelSpec:
    """Describe the checkpoint at `path` from the JSON beside it.

    Args:
        path: A .safetensors, .pth, .pt or .bin file.
        library: Given on the command line; the JSON may then be missing.
        architecture: Likewise.

    Raises:
        ModelError: The file is not there, or its JSON is missing, unreadable or wrong.
    """
    path = path.expanduser().absolute()
    if not path.name.endswith(CHECKPOINT_SUFFIXES):
        raise ModelError(f"{path} is not a checkpoint: its name must end in {', '.join(CHECKPOINT_SUFFIXES)}")
    if not path.is_file():
        raise ModelError(f"there is no weights file at {path}")
    beside = path.with_suffix(".json")
    if beside.is_file():
        fields = _read(beside)
    elif architecture is not None:
        fields = {}
    else:
        raise ModelError(
            f"{path.name} needs {beside.name} beside it, with at least "
            '{"architecture": "timm:NAME", "labels": "labels.txt"}'
        )
    described = fields.get("architecture")
    if described is not None:
        library, architecture = _architecture(beside, described, library, architecture)
    if library is None or architecture is None:
        raise ModelError(f'{beside}: "architecture" is missing, for example "timm:resnet50"')
    return ModelSpec(
        name=fields.get("name") or path.stem,
        library=library,
        architecture=architecture,
        weights=f"file:{path}",
        sha256=fields.get("sha256"),
        framing=_framing(beside, fields),
        mean=_three(beside, fields, "mean"),
        std=_three(beside, fields, "std"),
        labels=_labels(beside, fields),
        activation=cast("Activation", fields.get("activation", "softmax")),
        licence=fields.get("licence", "unknown"),
        origin=str(path),
    )


def _read(beside: Path) -> dict[str, Any]:
    try:
        fields = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{beside} cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{beside} must hold one JSON object")
    for key, value in fields.items():
        expected = _TYPES.get(key)
        if expected is None:
            raise ModelError(f"{beside}: unknown key {key!r}; known are {', '.join(_TYPES)}")
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ModelError(f"{beside}: {key!r} must be of type {expected.__name__}, got {value!r}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ModelError(f"{beside}: {key!r} must be one of {', '.join(_CHOICES[key])}, got {value!r}")
    return fields


def _architecture(
    beside: Path, described: str, library: Library | None, architecture: str | None
) -> tuple[Library, str]:
    family, _, name = described.partition(":")
    if family not in ("timm", "torchvision") or not name:
        raise ModelError(f'{beside}: "architecture" must be timm:NAME or torchvision:NAME, got {described!r}')
    if architecture is not None and (library, architecture) != (family, name):
        raise ModelError(f"{beside} says the weights are {described}, not {library}:{architecture}")
    return cast("Library", family), name


def _framing(beside: Path, fields: dict[str, Any]) -> Framing | None:
    given = [key for key in ("size_px", "resize_px", "mode", "interpolation") if key in fields]
    if not given:
        return None
    if "size_px" not in fields:
        raise ModelError(f'{beside}: "{given[0]}" needs "size_px" as well')
    size = fields["size_px"]
    resize = fields.get("resize_px", size)
    if not 16 <= size <= resize <= 4096:
        raise ModelError(f"{beside}: 16 <= size_px <= resize_px <= 4096 must hold, got {size} and {resize}")
    return Framing(size, resize, fields.get("mode", "crop"), fields.get("interpolation", "bicubic"))


def _three(beside: Path, fields: dict[str, Any], key: str) -> tuple[float, float, float] | None:
    if key not in fields:
        return None
    values = fields[key]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(values) != 3 or not numbers or (key == "std" and min(values) <= 0):
        raise ModelError(
            f"{beside}: {key!r} must be three {'positive ' * (key == 'std')}numbers, got {values!r}"
        )
    return (float(values[0]), float(values[1]), float(values[2]))


def _labels(beside: Path, fields: dict[str, Any]) -> str | None:
    labels = fields.get("labels")
    if labels is None or labels == "imagenet":
        return labels
    file = beside.parent / labels
    if not file.is_file():
        raise ModelError(f"{beside}: there is no labels file at {file}")
    return f"file:{file}"
