"""Which CNN: the zoo as rows of data, and the backends that run it.

    spec = find_model("efficientnet_lite0")                       a row of data
    prepared = prepare(spec, cache_dir=cache)                     driver: convert once, small and picklable
    model = load(prepared, prepared.payload(), threads=2)         worker
    outputs = model(pixels)                                       logits, embedding, norm

Importing this package loads neither torch nor openvino: what needs them imports them when called.
"""

from tagger.models.head import Head, Outputs
from tagger.models.prepared import (
    HEAD_FILE,
    Backend,
    Model,
    Precision,
    PreparedModel,
    default_backend,
    default_precision,
    load,
    load_head,
    prepare,
)
from tagger.models.spec import Activation, ModelSpec
from tagger.models.zoo import DEFAULT_MODEL, find_model, zoo

__all__ = [
    "DEFAULT_MODEL",
    "HEAD_FILE",
    "Activation",
    "Backend",
    "Head",
    "Model",
    "ModelSpec",
    "Outputs",
    "Precision",
    "PreparedModel",
    "default_backend",
    "default_precision",
    "find_model",
    "load",
    "load_head",
    "prepare",
    "zoo",
]
