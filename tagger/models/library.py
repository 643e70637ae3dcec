"""timm and torchvision behind one door: what they publish about a model, and the network itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tagger.errors import ModelError
from tagger.models.labels import Labels, read_labels
from tagger.models.spec import ModelSpec
from tagger.vision.framing import Framing

if TYPE_CHECKING:
    from torch import nn

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Published:
    """What a library says about the weights it publishes.

    Attributes:
        framing: Geometry they were evaluated with.
        mean: Per channel.
        std: Per channel.
        labels: None where the library does not know them.
    """

    framing: Framing
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: Labels | None


def published(spec: ModelSpec) -> Published:
    """Return the library's own metadata.

    Raises:
        ModelError: The library does not know the model, or its input is one that tagger cannot make.
    """
    return _timm_published(spec) if spec.library == "timm" else _torchvision_published(spec)


def create(spec: ModelSpec, *, pretrained: bool, classes: int | None) -> "nn.Module":
    """Build the network.

    Args:
        spec: Names library and architecture.
        pretrained: Fetch the published weights; else they are random.
        classes: How many; None for as many as were published.

    Raises:
        ModelError: The weights could not be fetched, or the network cannot be built.
    """
    number = {} if classes is None else {"num_classes": classes}
    try:
        if spec.library == "timm":
            import timm

            module: nn.Module = timm.create_model(spec.architecture, pretrained=pretrained, **number)
        else:
            import torchvision

            name, weights = _torchvision_weights(spec)
            module = torchvision.models.get_model(name, weights=None, **number)
            if pretrained:
                state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
                module.load_state_dict(state)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        if pretrained:
            raise ModelError(
                f"the weights of {spec.name} could not be fetched from {spec.origin or 'the hub'} "
                f"({type(error).__name__}: {reason}); download them where there is a network and give "
                f"{spec.library}:{spec.architecture}@/path/to/weights.safetensors"
            ) from None
        raise ModelError(f"{spec.library}:{spec.architecture} cannot be built: {reason}") from None
    return module


def _timm_published(spec: ModelSpec) -> Published:
    import timm
    from timm.data import resolve_data_config

    bare, _, tag = spec.architecture.partition(".")
    if not timm.is_model(bare):
        near = timm.list_models(f"*{bare}*", pretrained=False)[:3]
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ModelError(f"timm does not know a model {bare!r}{hint}")
    try:
        config = timm.get_pretrained_cfg(spec.architecture)
    except RuntimeError:
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{bare}.*")]
        raise ModelError(f"timm's weights for {bare} are {', '.join(tags)}, not {tag!r}") from None
    about: dict[str, Any] = config.to_dict() if config is not None else {}
    if spec.weights == "hub" and not any(about.get(k) for k in ("hf_hub_id", "url", "file")):
        raise ModelError(
            f"timm publishes no weights for {spec.architecture}: give your own as "
            f"timm:{spec.architecture}@/path/to/weights.safetensors"
        )
    data = resolve_data_config(pretrained_cfg=about, verbose=False)
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise ModelError(
            f"{spec.name} looks at {width} by {height} px in {channels} channels; square RGB is needed"
        )
    mode = {"center": "crop", "squash": "squash", "border": "letterbox"}[data["crop_mode"]]
    interpolation = "bilinear" if data["interpolation"] == "bilinear" else "bicubic"
    framing = Framing(height, int(height / data["crop_pct"]), mode, interpolation)  # type: ignore[arg-type]
    return Published(framing, tuple(data["mean"]), tuple(data["std"]), _timm_labels(spec, about))


def _timm_labels(spec: ModelSpec, about: dict[str, Any]) -> Labels | None:
    if about.get("num_classes") == _IMAGENET_CLASSES:
        return read_labels("imagenet")
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({**about, "architecture": spec.architecture})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    count = info.num_classes()
    names = [info.index_to_description(i).partition(",")[0].strip() for i in range(count)]
    return tuple(names), tuple(info.index_to_label_name(i) for i in range(count))


def _torchvision_weights(spec: ModelSpec) -> tuple[str, Any]:
    import torchvision

    name, _, tag = spec.architecture.partition(".")
    if name not in torchvision.models.list_models(module=torchvision.models):
        near = [known for known in torchvision.models.list_models(module=torchvision.models) if name in known]
        hint = f"; near are {', '.join(near[:3])}" if near else ""
        raise ModelError(f"torchvision does not know a classifier {name!r}{hint}")
    choices = torchvision.models.get_model_weights(name)
    if tag and tag not in choices.__members__:
        raise ModelError(
            f"torchvision's weights for {name} are {', '.join(choices.__members__)}, not {tag!r}"
        )
    return name, choices[tag] if tag else choices.DEFAULT


def _torchvision_published(spec: ModelSpec) -> Published:
    _, weights = _torchvision_weights(spec)
    look = weights.transforms()
    size, resize = look.crop_size[0], look.resize_size[0]
    interpolation = "bilinear" if look.interpolation.value == "bilinear" else "bicubic"
    names = weights.meta.get("categories")
    if names is not None and len(names) == _IMAGENET_CLASSES:
        labels: Labels | None = read_labels("imagenet")
    else:
        labels = (tuple(names), None) if names else None
    return Published(
        Framing(size, max(size, resize), "crop", interpolation),  # type: ignore[arg-type]
        tuple(look.mean),
        tuple(look.std),
        labels,
    )
