"""Build a torch network from its spec, load its weights, and part it into body and head."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tagger.errors import ModelError
from tagger.models.labels import Labels, read_labels
from tagger.models.library import create, published
from tagger.models.lite import is_lite_checkpoint, rename_lite
from tagger.models.spec import ModelSpec
from tagger.models.weights import read_state_dict, weights_file
from tagger.vision.framing import Framing

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Network:
    """A model in memory, on the driver.

    Attributes:
        body: Normalised pixels (N, 3, S, S) to embedding (N, D); the network with its head taken out.
        head_name: Where in the network the head was.
        weight: Of the head, shape (L, D).
        bias: Of the head, shape (L,); zeros where the layer has none.
        state: Every tensor of the whole network by its library's names.
        framing: Geometry of the input.
        mean: Per channel.
        std: Per channel.
        labels: Names and WordNet ids of the L classes.
    """

    body: "nn.Module"
    head_name: str
    weight: "torch.Tensor"
    bias: "torch.Tensor"
    state: "dict[str, torch.Tensor]"
    framing: Framing
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: Labels


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine its threads mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_network(spec: ModelSpec) -> Network:
    """Load the model that `spec` describes.

    Raises:
        ModelError: The architecture is unknown, the weights are missing, altered or do not fit, the labels do
            not match the classes, or the network does not end in one linear layer.
    """
    import torch

    about = published(spec)
    framing, mean, std = spec.framing or about.framing, spec.mean or about.mean, spec.std or about.std
    path = weights_file(spec)
    labels = read_labels(spec.labels) if spec.labels else about.labels
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # libraries talk to their own developers here
        if path is None:
            module = create(spec, pretrained=True, classes=None)
        else:
            state = read_state_dict(spec, path)
            if is_lite_checkpoint(state, spec.architecture):
                state = rename_lite(state, spec.architecture)
            if labels is None:
                raise ModelError(f"{spec.name} needs labels: name them in {path.with_suffix('.json')}")
            module = create(spec, pretrained=False, classes=len(labels[0]))
            _load(module, state, spec)
        module = module.float().eval()
        state = dict(module.state_dict())
        head_name, head = split_head(module, framing.size_px, spec)
    if labels is None:
        raise ModelError(
            f"the class names of {spec.name} are not known: save its weights to a file and name the labels "
            "in a JSON beside it"
        )
    if len(labels[0]) != head.out_features:
        raise ModelError(f"{spec.name} has {head.out_features} classes but {len(labels[0])} labels")
    bias = head.bias if head.bias is not None else torch.zeros(head.out_features)
    return Network(module, head_name, head.weight.detach(), bias.detach(), state, framing, mean, std, labels)


def _load(module: "nn.Module", state: "dict[str, torch.Tensor]", spec: ModelSpec) -> None:
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    # Counters that only training uses are left out by some writers.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    extra = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} where {tuple(wanted[name].shape)} is expected"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    if missing or extra or shapes:
        first = shapes[0] if shapes else f"{(missing or extra)[0]} is {'missing' if missing else 'not known'}"
        hint = (
            "" if spec.labels else "; if it has classes of its own, name their labels in the JSON beside it"
        )
        raise ModelError(
            f"the weights of {spec.name} do not fit {spec.library}:{spec.architecture}: {first} "
            f"({len(missing)} missing, {len(extra)} unknown, {len(shapes)} of another shape){hint}"
        )
    broken = [name for name in sorted(wanted) if name in state and not _finite(state[name])]
    if broken:
        raise ModelError(f"the weights of {spec.name} are damaged: {broken[0]} holds NaN or infinity")
    module.load_state_dict(state, strict=False)


def _finite(tensor: "torch.Tensor") -> bool:
    return bool(tensor.isfinite().all())


def split_head(module: "nn.Module", size_px: int, spec: ModelSpec) -> "tuple[str, nn.Linear]":
    """Take the layer that makes the logits out of `module`, which then returns what went into it.

    The layer is found by running a random picture: it is the linear layer whose output is the network's. That
    body and head make the same logits as the whole network is checked, not assumed.

    Returns:
        The head's name in the network, and the head.

    Raises:
        ModelError: The network does not end in one linear layer over a vector per image.
    """
    import torch
    from torch import nn

    calls: list[tuple[str, nn.Linear, torch.Tensor]] = []

    def watch(name: str, layer: nn.Linear) -> Any:
        return layer.register_forward_hook(
            lambda _module, _inputs, output: calls.append((name, layer, output))
        )

    pixels = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hooks = [watch(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    try:
        whole = module(pixels)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"{spec.name} does not run on {size_px} by {size_px} px: {reason}") from None
    finally:
        for hook in hooks:
            hook.remove()
    refusal = ModelError(
        f"{spec.library}:{spec.architecture} cannot be used: its class scores do not come from one linear "
        "layer over one vector per image, so there is no embedding to store"
    )
    if not isinstance(whole, torch.Tensor) or whole.ndim != 2:
        raise refusal
    last = [(n, layer) for n, layer, out in calls if out.shape == whole.shape and torch.equal(out, whole)]
    if not last:
        raise refusal
    name, head = last[-1]
    replace(module, name)
    embedding = module(pixels)
    if not isinstance(embedding, torch.Tensor) or embedding.shape != (2, head.in_features):
        raise refusal
    if not torch.allclose(head(embedding), whole, rtol=1e-4, atol=1e-4):
        raise refusal
    return name, head


def replace(module: "nn.Module", head_name: str) -> None:
    """Put an identity where the head is."""
    from torch import nn

    parent, _, last = head_name.rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())


def bare_body(spec: ModelSpec, head_name: str, classes: int) -> "nn.Module":
    """Build the body alone, its weights still random; workers load them from the payload."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = create(spec, pretrained=False, classes=classes)
    replace(module, head_name)
    return module.float().eval()
