"""The identity of a model: which weights, looking at which pixels."""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tagger.models.spec import Library
from tagger.vision.framing import Framing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def model_id(
    state: "Mapping[str, torch.Tensor]",
    *,
    library: Library,
    architecture: str,
    framing: Framing,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> str:
    """Return the fingerprint of weights and preprocessing, 16 hex digits.

    Embeddings with the same model_id may be compared. Backend, precision and the format of the file that the
    weights came in do not count; the architecture does, since the same tensors mean something else in it.

    Args:
        state: All tensors of the network by its library's names; only those of numbers count.
        library: Whose architecture it is.
        architecture: With or without the tag that names published weights; the tag does not count.
        framing: Geometry of the input.
        mean: Per channel.
        std: Per channel.
    """
    digest = hashlib.sha256()
    about = {
        "architecture": f"{library}:{architecture.partition('.')[0]}",
        "framing": asdict(framing),
        "mean": mean,
        "std": std,
    }
    digest.update(json.dumps(about, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name]
        if tensor.is_floating_point():  # counters and index tables belong to the architecture
            array = tensor.detach().cpu().contiguous().float().numpy().astype("<f4", copy=False)
            digest.update(f"\n{name} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
