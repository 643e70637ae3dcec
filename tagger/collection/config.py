"""collection.json: which model made the collection, and the taxonomy settings its tags were made with.

Taxonomy settings can change (`retag`), together with every row, and a crash must not leave the two apart.
So they carry a serial number, and the table's log says which serial its rows were made with. A change is
announced in `next`, then committed to the table with its serial, then moved to its place:

    collection.json  {tagging: serial 3, next: serial 4}      the table says 3: serial 3 holds
    commit of all new parts, with serial 4                    the table says 4: serial 4 holds
    collection.json  {tagging: serial 4}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from tagger.collection.schema import FORMAT_VERSION
from tagger.errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tagger.tags import Taxonomy

CONFIG_NAME: Final = "collection.json"
TAXONOMY_FOLDER: Final = "taxonomy"
MODEL_FOLDER: Final = "model"


@dataclass(frozen=True, slots=True)
class Tagging:
    """The taxonomy settings of all rows of a collection.

    Attributes:
        threshold: Least score of a tag, in [0, 1].
        top_k: Most tags an image.
        taxonomy_file: Where the collection keeps the taxonomy, in its canonical form, relative to the root.
        taxonomy_sha256: Of that file.
        serial: Counts the changes; compared with the table's `tagger.tagging`.
    """

    threshold: float
    top_k: int
    taxonomy_file: str | None = None
    taxonomy_sha256: str | None = None
    serial: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}")

    @classmethod
    def of(cls, taxonomy: Taxonomy, *, threshold: float, top_k: int, serial: int = 0) -> Tagging:
        """Return the settings that tag with `taxonomy`."""
        return cls(threshold, top_k, taxonomy_name(taxonomy), taxonomy.sha256, serial)


@dataclass(frozen=True, slots=True)
class Config:
    """The content of collection.json.

    Attributes:
        model_id: Fingerprint of weights and preprocessing.
        model: Name of the model, for people and to find it again.
        dim: Length of an embedding.
        labels: The model's words, in the order of its outputs.
        wnids: WordNet ids of the labels, for models of ImageNet.
        activation: What turns logits into scores.
        head_sha256: Of the model's last layer, which the collection keeps so that `retag` needs nothing else;
            None in collections without one.
        tagging: Taxonomy settings of the rows.
        next: Settings of a change in progress.
    """

    model_id: str
    model: str
    dim: int
    labels: tuple[str, ...]
    activation: Literal["softmax", "sigmoid"]
    tagging: Tagging
    wnids: tuple[str, ...] | None = None
    head_sha256: str | None = None
    next: Tagging | None = None

    @property
    def head_file(self) -> str | None:
        """Where the collection keeps the model's last layer, relative to the root."""
        return None if self.head_sha256 is None else f"{MODEL_FOLDER}/{self.head_sha256}.safetensors"

    def in_force(self, serial: int) -> Config:
        """Return the config as it holds for a table of this serial, with no change in progress."""
        if self.next is not None and self.next.serial == serial:
            return replace(self, tagging=self.next, next=None)
        return replace(self, next=None)

    def to_json(self) -> bytes:
        """Return the file's bytes; equal configs give equal bytes."""
        document: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "model_id": self.model_id,
            "model": self.model,
            "dim": self.dim,
            "activation": self.activation,
            "head": {"file": self.head_file, "sha256": self.head_sha256},
            **_tagging_json(self.tagging),
        }
        if self.next is not None:
            document["next"] = _tagging_json(self.next)
        document["labels"] = list(self.labels)
        document["wnids"] = None if self.wnids is None else list(self.wnids)
        return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> Config:
        """Read the file's bytes.

        Args:
            data: Content of collection.json.
            uri: The collection, for the messages.

        Raises:
            CollectionError: Not JSON, not ours, or of a format this release does not know.
        """
        try:
            document = json.loads(data)
            version = document["format_version"]
        except (ValueError, KeyError, TypeError):
            raise CollectionError(
                f"{uri}/{CONFIG_NAME} is not the file of a tagger collection; name another folder"
            ) from None
        if version != FORMAT_VERSION:
            raise CollectionError(
                f"{uri} has format {version!r}, and this release reads format {FORMAT_VERSION}; "
                "use the release of tagger that made it"
            )
        try:
            return cls(
                model_id=str(document["model_id"]),
                model=str(document["model"]),
                dim=int(document["dim"]),
                labels=tuple(document["labels"]),
                activation=cast("Literal['softmax', 'sigmoid']", document["activation"]),
                tagging=_tagging(document),
                wnids=None if document["wnids"] is None else tuple(document["wnids"]),
                head_sha256=document.get("head", {}).get("sha256"),
                next=_tagging(document["next"]) if "next" in document else None,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CollectionError(f"{uri}/{CONFIG_NAME} is damaged: {error!r}") from None

    def require_model(self, other: Config, uri: str) -> None:
        """Check that `other` may add rows to the collection that has this config.

        Raises:
            CollectionError: It has another model.
        """
        if self.model_id != other.model_id:
            same = " with other weights or preprocessing" if self.model == other.model else ""
            raise CollectionError(
                f"{uri} was made by model {self.model} ({self.model_id[:12]}){same}, not by {other.model} "
                f"({other.model_id[:12]}); make a new collection"
            )
        if self.activation != other.activation:
            raise CollectionError(
                f"{uri} was made with the activation {self.activation}, not {other.activation}, and their "
                "scores do not compare: set it back in the checkpoint's JSON, or make a new collection"
            )

    def require_tagging(
        self,
        uri: str,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        taxonomy_sha256: str | None = None,
    ) -> None:
        """Check settings a caller asks for against those of the rows; None asks for nothing.

        Raises:
            CollectionError: They differ; the text names `tagger retag`.
        """
        asked = {"threshold": threshold, "top_k": top_k, "taxonomy_sha256": taxonomy_sha256}
        for name, value in asked.items():
            held = getattr(self.tagging, name)
            if value is not None and value != held:
                shown = "another taxonomy" if name == "taxonomy_sha256" else f"{name} {held}, not {value}"
                raise CollectionError(
                    f"{uri} was tagged with {shown}; leave the option out, "
                    "or change all rows with `tagger retag`"
                )


def taxonomy_name(taxonomy: Taxonomy) -> str:
    """Return where a collection keeps a taxonomy: by content, so no change overwrites an older one."""
    return f"{TAXONOMY_FOLDER}/{taxonomy.sha256}.json"


def _tagging_json(tagging: Tagging) -> dict[str, Any]:
    return {
        "taxonomy": {"file": tagging.taxonomy_file, "sha256": tagging.taxonomy_sha256},
        "thresholds": {"default": tagging.threshold},
        "top_k": tagging.top_k,
        "serial": tagging.serial,
    }


def _tagging(document: Mapping[str, Any]) -> Tagging:
    return Tagging(
        threshold=float(document["thresholds"]["default"]),
        top_k=int(document["top_k"]),
        taxonomy_file=document["taxonomy"]["file"],
        taxonomy_sha256=document["taxonomy"]["sha256"],
        serial=int(document["serial"]),
    )
