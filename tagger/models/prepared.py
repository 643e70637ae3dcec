"""On the driver: turn a spec into what workers need. On a worker: turn that into a model that runs.

Converting takes seconds and needs torch; its result is cached, and with a warm cache neither torch nor timm
is imported. Importing this file loads no library either.
"""

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

from tagger.errors import ModelError
from tagger.models.cache import key_of, read_entry, read_record, sha256, write_entry, write_record
from tagger.models.head import Head, Outputs, head_from_bytes
from tagger.models.labels import read_labels
from tagger.models.spec import Activation, Library, ModelSpec
from tagger.models.weights import file_sha256, weights_file
from tagger.vision.framing import Framing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tagger.models.network import Network

Backend = Literal["openvino", "torch"]
Precision = Literal["f32", "bf16", "fp16"]

HEAD_FILE: Final = "head.safetensors"
"""Name of the last layer in a payload."""

_FORMAT: Final = 1
"""Raised whenever this code would convert the same model to something else: old cache entries are left."""

_PRECISIONS: Final[dict[Backend, tuple[Precision, ...]]] = {
    "openvino": ("f32", "bf16"),
    "torch": ("f32", "bf16", "fp16"),
}


class Model(Protocol):
    """A model that runs. Use it from one thread at a time.

    Attributes:
        precision: What it computes in; `f32` where the machine cannot do what was asked.
        batch_size: Images it looks at together; any number may be given.
    """

    precision: Precision
    batch_size: int

    def __call__(self, pixels: "npt.NDArray[np.uint8]") -> Outputs:
        """Look at images.

        An image's result does not depend on which others come with it.

        Args:
            pixels: RGB, shape (N, S, S, 3).

        Raises:
            ValueError: `pixels` has another shape or type.
            RunError: The network gave NaN or infinity.
        """
        ...

    def embeddings(self, pixels: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
        """Return only the embeddings of images, shape (N, D); arguments and errors as for a call."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A converted model: small, picklable; its weights travel separately, as `payload()`.

    Attributes:
        model_id: Fingerprint of weights and preprocessing.
        name: The `source` of its tags.
        dim: Length D of the embedding.
        framing: How pictures become its input.
        mean: Per channel.
        std: Per channel.
        labels: Names of the L classes as the model's makers wrote them; they may repeat.
        wnids: WordNet ids of the classes, where known.
        activation: `sigmoid` for a multi-label model.
        backend: What runs it.
        precision: What it is asked to compute in.
        library: Whose architecture it is.
        architecture: The library's name for it.
        head_name: Where in the network the head was.
        files: Name and sha256 of each file of the payload.
        folder: Where they are, on the driver.
    """

    model_id: str
    name: str
    dim: int
    framing: Framing
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: tuple[str, ...]
    wnids: tuple[str, ...] | None
    activation: Activation
    backend: Backend
    precision: Precision
    library: Library
    architecture: str
    head_name: str
    files: tuple[tuple[str, str], ...]
    folder: Path

    def payload(self) -> dict[str, bytes]:
        """Read what `load` needs, to be shipped to workers once.

        Raises:
            ModelError: The cache was cleared meanwhile.
        """
        return {name: self._read(name) for name, _ in self.files}

    @property
    def head_sha256(self) -> str:
        """Sha256 of the last layer's file."""
        return dict(self.files)[HEAD_FILE]

    def head(self) -> bytes:
        """Read the last layer's file, which `load_head` understands.

        Raises:
            ModelError: The cache was cleared meanwhile, or the file was altered.
        """
        data = self._read(HEAD_FILE)
        if sha256(data) != self.head_sha256:
            raise ModelError(f"the head of {self.name} in {self.folder} was altered")
        return data

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ModelError(
                f"the converted model is gone from the cache: {error}; start the run again"
            ) from None


def default_backend(*, gpu: bool | None = None) -> Backend:
    """Return `torch` with a GPU or without OpenVINO, else `openvino`.

    Args:
        gpu: Whether the model will run on a GPU; None asks this machine for an NVIDIA driver.
    """
    if (_has_nvidia_driver() if gpu is None else gpu) or importlib.util.find_spec("openvino") is None:
        return "torch"
    return "openvino"


def default_precision(backend: Backend, *, cache_dir: Path, gpu: bool | None = None) -> Precision:
    """Return bf16 where the machine is faster in it, else f32.

    Args:
        backend: What runs the model.
        cache_dir: Where it is kept what this machine's CPU was found to be faster in.
        gpu: Whether `torch` will find a GPU; None asks this machine for an NVIDIA driver.

    Raises:
        ModelError: The cache cannot be written.
    """
    if backend == "torch":
        return "bf16" if (_has_nvidia_driver() if gpu is None else gpu) else "f32"
    if importlib.util.find_spec("openvino") is None:  # it will be missed by name when something is converted
        return "f32"
    from tagger.models.precision import cpu_precision

    return cpu_precision(cache_dir)


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def prepare(
    spec: ModelSpec,
    backend: Backend | None = None,
    *,
    cache_dir: Path,
    precision: Precision | None = None,
) -> PreparedModel:
    """Convert a model, or find it converted.

    Args:
        spec: From `find_model`.
        backend: What will run it; None for what this machine is best at. A driver without a GPU that
            serves workers with GPUs names `torch`.
        cache_dir: Kept between runs; converted models go to `models/` inside it.
        precision: What to compute in; None for what this machine is best at.

    Raises:
        ModelError: The model is unknown, its weights are missing, altered or do not fit, it cannot be
            converted, or the cache cannot be written.
    """
    backend = backend or default_backend()
    if backend not in _PRECISIONS:
        raise ModelError(f"unknown backend {backend!r}: choose {' or '.join(_PRECISIONS)}")
    precision = precision or default_precision(backend, cache_dir=cache_dir)
    if precision not in _PRECISIONS[backend]:
        able = [name for name, precisions in _PRECISIONS.items() if precision in precisions]
        advice = f"; the backend {able[0]} does" if able else ""
        raise ModelError(
            f"{backend} computes in {', '.join(_PRECISIONS[backend])}, not {precision!r}{advice}"
        )
    models = Path(cache_dir) / "models"
    versions = _versions(backend)
    known_path = models / "known" / f"{_spec_key(spec)}.json"
    record = read_record(known_path)
    meta = None
    if record is not None:
        folder = models / _entry_name(record["model_id"], backend, precision, versions)
        meta = read_entry(folder)
    if record is None or meta is None:
        from tagger.models.network import build_network, one_thread

        with one_thread():
            network = build_network(spec)
            record = _record(spec, network)
            folder = models / _entry_name(record["model_id"], backend, precision, versions)
            about = {"backend": backend, "precision": precision, **versions}
            meta = read_entry(folder) or write_entry(folder, _convert(network, backend), about)
            write_record(known_path, record)
    return PreparedModel(
        model_id=record["model_id"],
        name=spec.name,
        dim=record["dim"],
        framing=Framing(**record["framing"]),
        mean=_three(record["mean"]),
        std=_three(record["std"]),
        labels=tuple(record["labels"]),
        wnids=tuple(record["wnids"]) if record["wnids"] is not None else None,
        activation=spec.activation,
        backend=backend,
        precision=precision,
        library=spec.library,
        architecture=spec.architecture,
        head_name=record["head_name"],
        files=tuple(sorted(meta["files"].items())),
        folder=folder,
    )


def load(
    prepared: PreparedModel,
    payload: Mapping[str, bytes],
    *,
    threads: int,
    device: str | None = None,
    compiled: bool | None = None,
    batch_size: int | None = None,
) -> Model:
    """Make the model run, on a worker.

    Args:
        prepared: From `prepare`.
        payload: From `prepared.payload()`.
        threads: CPU threads it may keep busy.
        device: torch only: `cuda`, `cuda:1` or `cpu`; None for a GPU if there is one.
        compiled: torch only: whether to compile; None for yes on a GPU. What cannot be
            compiled runs as it is.
        batch_size: Images it looks at together; None for what is fastest through many. 1 answers a single one
            soonest.

    Raises:
        ModelError: The payload is not the one that was prepared, or the backend is not installed here.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    for name, digest in prepared.files:
        if sha256(payload[name]) != digest:
            raise ModelError(f"{name} of {prepared.name} was altered on its way: it does not have its sha256")
    try:
        if prepared.backend == "openvino":
            from tagger.models.openvino_backend import OpenvinoModel

            return OpenvinoModel(prepared, payload, threads=threads, batch_size=batch_size)
        from tagger.models.torch_backend import TorchModel

        return TorchModel(
            prepared, payload, threads=threads, device=device, compiled=compiled, batch_size=batch_size
        )
    except ImportError as error:
        raise ModelError(f"the backend {prepared.backend} is not installed here: {error}") from None


def load_head(source: PreparedModel | Mapping[str, bytes]) -> Head:
    """Read the last layer alone, of a model or out of a payload (`HEAD_FILE` is enough); needs no backend.

    Raises:
        ModelError: The file was altered.
    """
    if isinstance(source, PreparedModel):
        return head_from_bytes({HEAD_FILE: source.head()})
    return head_from_bytes(source)


def _three(values: list[float]) -> tuple[float, float, float]:
    return (values[0], values[1], values[2])


def _versions(backend: Backend) -> dict[str, str]:
    def version(distribution: str) -> str:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    # Tensors alone do not depend on the versions that wrote them; a converted graph does.
    names = ("openvino", "torch", "timm", "torchvision") if backend == "openvino" else ()
    return {name: version(name) for name in names}


def _entry_name(model_id: str, backend: Backend, precision: Precision, versions: Mapping[str, str]) -> str:
    return f"{model_id}-{backend}-{precision}-{key_of({'format': _FORMAT, **versions})[:8]}"


def _spec_key(spec: ModelSpec) -> str:
    """Return the key under which it is remembered what `spec` with the weights on disk turned out to be."""
    path = weights_file(spec)
    labels = read_labels(spec.labels) if spec.labels else None
    return key_of(
        {
            "format": _FORMAT,
            "architecture": f"{spec.library}:{spec.architecture}",
            "weights": file_sha256(spec, path) if path else spec.weights,
            "framing": asdict(spec.framing) if spec.framing else None,
            "mean": spec.mean,
            "std": spec.std,
            "labels": labels,
            "library": importlib.metadata.version(spec.library),
        }
    )


def _record(spec: ModelSpec, network: "Network") -> dict[str, Any]:
    from tagger.models.fingerprint import model_id

    names, wnids = network.labels
    identity = model_id(
        network.state,
        library=spec.library,
        architecture=spec.architecture,
        framing=network.framing,
        mean=network.mean,
        std=network.std,
    )
    record = {
        "model_id": identity,
        "dim": network.weight.shape[1],
        "framing": asdict(network.framing),
        "mean": network.mean,
        "std": network.std,
        "labels": names,
        "wnids": wnids,
        "head_name": network.head_name,
    }
    return cast("dict[str, Any]", json.loads(json.dumps(record)))  # what a later read gives


def _convert(network: "Network", backend: Backend) -> dict[str, bytes]:
    from tagger.models.head import head_to_bytes

    head = Head(network.weight.contiguous().numpy(), network.bias.contiguous().numpy())
    if backend == "openvino":
        from tagger.models.openvino_convert import convert

        files = convert(network.body, network.framing.size_px, network.mean, network.std)
    else:
        import safetensors.torch

        tensors = {name: tensor.contiguous() for name, tensor in network.body.state_dict().items()}
        files = {"body.safetensors": bytes(safetensors.torch.save(tensors))}
    return {**files, HEAD_FILE: head_to_bytes(head)}
