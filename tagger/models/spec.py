"""What is known about a model before any of its weights are read."""

from dataclasses import dataclass
from typing import Final, Literal

from tagger.vision.framing import Framing

Library = Literal["timm", "torchvision"]
Activation = Literal["softmax", "sigmoid"]

CHECKPOINT_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin")
"""Endings by which a word on the command line is taken for a checkpoint file."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One row of the zoo: a model as data.

    A field that is None is asked from the library (or the weights) by `prepare`, so that looking a model
    up by name stays free of torch.

    Attributes:
        name: How people call it, and the `source` of its tags.
        library: Where the architecture comes from.
        architecture: The library's own name for it; `NAME.TAG` picks one of several published weights.
        weights: `package:MODULE/PATH` of an installed package, `hub` (the library's own download), or
            `file:/absolute/path`.
        sha256: Of the weights file; anything else is refused. None where the file is the user's own.
        framing: Geometry of the input.
        mean: Per channel, in units of 0 to 1.
        std: Per channel, in units of 0 to 1.
        labels: `imagenet`, or `file:/absolute/path` (one class a line, `name` or `wnid<TAB>name`).
        activation: `sigmoid` for a multi-label model.
        dim: Length of the embedding.
        licence: SPDX name of the weights' licence.
        origin: Where the weights come from, for people.
    """

    name: str
    library: Library
    architecture: str
    weights: str
    sha256: str | None = None
    framing: Framing | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    labels: str | None = None
    activation: Activation = "softmax"
    dim: int | None = None
    licence: str = "unknown"
    origin: str = ""

    @property
    def input_px(self) -> int | None:
        """Side of the square input, when known."""
        return self.framing.size_px if self.framing else None
