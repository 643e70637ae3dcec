"""index.json and CURRENT: what a version of the index consists of, and which version is served.

A version is a folder `index/<version>/`. It may use files of older versions: an update that adds a few images
leaves the large vector files where they are, a retag all but the words. index.json lists every file with the
version whose folder it is in, its size and its sha256. CURRENT holds the version's name and the sha256 of its
index.json, so that trust leads from one small object to every byte that is served.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tagger.errors import ImageError, IndexUnusable

if TYPE_CHECKING:
    from tagger.storage import Store

INDEX_FOLDER: Final = "index"
REMEDY: Final = "make the index again with `tagger index COLLECTION --rebuild`"
CURRENT_NAME: Final = f"{INDEX_FOLDER}/CURRENT"
MANIFEST_NAME: Final = "index.json"
FORMAT_VERSION: Final = 2

Kind = Literal["flat", "ivf", "ivf-pq"]
"""How vectors are searched: all of them exactly; inverted lists of 8-bit codes; inverted lists of
product-quantised codes. Both of the latter score their candidates again with the exact vectors."""

_VERSION: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z][0-9a-z-]{0,63}\.[0-9a-z]{1,8}")  # no folder, and none of ours is another's
_TAXONOMY: Final = re.compile(r"taxonomy/[0-9a-f]{64}\.json")
_POINTER: Final = re.compile(rf"({_VERSION.pattern}) ({_DIGEST.pattern})\n")
_MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an index.

    Attributes:
        name: Name in the version's folder.
        version: The version whose folder it is in.
        size_bytes: Size.
        sha256: Of its bytes, in hex.
        blake3: Of its bytes, in hex.
    """

    name: str
    version: str
    size_bytes: int
    sha256: str
    blake3: str

    @property
    def key(self) -> str:
        """Where it is in the collection."""
        return f"{INDEX_FOLDER}/{self.version}/{self.name}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of exact vectors.

    Attributes:
        file: Name of the file.
        start: Slot of its first row.
        rows: Rows, with those that only fill it up.
    """

    file: str
    start: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of index.json.

    Attributes:
        version: Name of this version.
        model_id: Fingerprint of the model that made the embeddings.
        model: Its name.
        dim: Length of an embedding.
        kind: How vectors are searched.
        count: Images in the index.
        slots: Places for vectors, with those of removed images.
        table_version: Version of the tags table that the index shows.
        serial: Serial of the taxonomy settings that its words were made with.
        heads: Fingerprint of the taught heads that its words were made with.
        taxonomy_file: Where the collection keeps the taxonomy of its words, or None.
        trained_count: Images when lists and codes were trained; 0 without any.
        trained_spread: Mean squared distance of the images from the centres of their lists then.
        drift: The same of the images that the last update added, divided by that: 1 when they look alike.
        nprobe: Lists looked into for a query; 0 for `flat`.
        depth: Candidates scored exactly for the first results; 0 for `flat`.
        recall_at_10: Share of the ten exact neighbours that a query finds; None without queries to measure.
        recall_queries: Images of the collection it was measured with.
        segments: The vector files, by slot.
        files: Every file.
        created_at: When it was made, UTC.
        seconds: Time it took.
    """

    version: str
    model_id: str
    model: str
    dim: int
    kind: Kind
    count: int
    slots: int
    table_version: int
    serial: int
    heads: str
    taxonomy_file: str | None
    trained_count: int
    trained_spread: float
    drift: float
    nprobe: int
    depth: int
    recall_at_10: float | None
    recall_queries: int
    segments: tuple[Segment, ...]
    files: tuple[FileEntry, ...]
    created_at: str
    seconds: float

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size_bytes for entry in self.files)

    def file(self, name: str) -> FileEntry:
        """Return the entry of a file.

        Raises:
            IndexUnusable: There is none.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        raise IndexUnusable(f"the index {self.version} has no {name}; {REMEDY}")

    def require_model(self, model_id: str, dim: int, where: str) -> None:
        """Check that the index is of a collection's model.

        Raises:
            IndexUnusable: It is of another one.
        """
        if (self.model_id, self.dim) != (model_id, dim):
            raise IndexUnusable(
                f"the index of {where} was made from embeddings of another model ({self.model}, "
                f"{self.model_id[:12]}, {self.dim} values): {REMEDY}"
            )

    def behind(self, table_version: int) -> str | None:
        """Say that the index shows an older version of the table; None where it shows this one."""
        if self.table_version == table_version:
            return None
        return f"the index shows version {self.table_version} of the table, which is at {table_version}"

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        document = {"format_version": FORMAT_VERSION, "metric": "cosine", **asdict(self)}
        return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Read the file's bytes.

        Args:
            data: Content of index.json.
            where: Its address, for the messages.

        Raises:
            IndexUnusable: It is not ours, damaged, or of a format this release does not know.
        """
        try:
            document: dict[str, Any] = json.loads(data)
            version = document.pop("format_version")
            if version != FORMAT_VERSION:
                raise IndexUnusable(
                    f"{where} has format {version!r}, and this release reads {FORMAT_VERSION}: {REMEDY}"
                )
            if document.pop("metric") != "cosine":
                raise IndexUnusable(f"{where} has another metric than cosine: make it again")
            document["segments"] = tuple(Segment(**one) for one in document["segments"])
            document["files"] = tuple(FileEntry(**one) for one in document["files"])
            read = cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexUnusable(f"{where} is damaged ({error!r:.200}): {REMEDY}") from None
        read.require_sound(where)
        return read

    def require_sound(self, where: str) -> None:
        """Check that every field is what it should be, and that the parts fit together.

        Raises:
            IndexUnusable: They do not.
        """
        if not (self._is_typed() and self._fits()):
            raise IndexUnusable(f"{where} contradicts itself: {REMEDY}")

    def _is_typed(self) -> bool:
        whole = (self.dim, self.count, self.slots, self.table_version, self.serial, self.trained_count)
        efforts = (self.nprobe, self.depth, self.recall_queries)
        sizes = [number for segment in self.segments for number in (segment.start, segment.rows)]
        sizes += [entry.size_bytes for entry in self.files]
        texts = (self.version, self.model_id, self.model, self.kind, self.heads, self.created_at)
        floats = (self.trained_spread, self.drift, self.seconds, self.recall_at_10 or 0.0)
        return (
            all(type(number) is int and 0 <= number < 1 << 62 for number in (*whole, *efforts, *sizes))
            and all(isinstance(text, str) for text in texts)
            and all(type(value) in (int, float) and math.isfinite(value) for value in floats)
            and (self.taxonomy_file is None or bool(_TAXONOMY.fullmatch(str(self.taxonomy_file))))
            and all(
                isinstance(text, str) and pattern.fullmatch(text)
                for entry in self.files
                for text, pattern in (
                    (entry.name, _NAME),
                    (entry.version, _VERSION),
                    (entry.sha256, _DIGEST),
                    (entry.blake3, _DIGEST),
                )
            )
        )

    def _fits(self) -> bool:
        ends = [0, *(segment.start + segment.rows for segment in self.segments)]
        names = [entry.name for entry in self.files]
        return (
            self.kind in ("flat", "ivf", "ivf-pq")
            and all(segment.start == end for segment, end in zip(self.segments, ends, strict=False))
            and ends[-1] == self.slots >= self.count
            and self.dim > 0
            and (self.kind == "flat" or min(self.nprobe, self.depth) > 0)
            and len(set(names)) == len(names)
            and {segment.file for segment in self.segments} <= set(names)
        )


@dataclass(frozen=True, slots=True)
class Pointer:
    """What CURRENT says.

    Attributes:
        version: The version that is served.
        sha256: Of its index.json.
        etag: Of CURRENT itself, for a conditional write.
    """

    version: str
    sha256: str
    etag: str | None = None

    def to_bytes(self) -> bytes:
        """Return the content of CURRENT."""
        return f"{self.version} {self.sha256}\n".encode()


def read_pointer(store: Store) -> Pointer | None:
    """Return what CURRENT says; None where the collection has no index.

    Raises:
        IndexUnusable: It is damaged.
        StoreUnavailable: The store does not answer.
    """
    try:
        data, etag = store.fetch(CURRENT_NAME, max_bytes=_MOST_BYTES)
    except ImageError as error:
        if error.code == "not_found":
            return None
        raise IndexUnusable(f"{store.address(CURRENT_NAME)} cannot be read: {error.detail}") from None
    found = _POINTER.fullmatch(data.decode("ascii", "replace"))
    if found is None:
        raise IndexUnusable(f"{store.address(CURRENT_NAME)} is damaged: {REMEDY}")
    return Pointer(found[1], found[2], etag)


def read_manifest(store: Store, pointer: Pointer) -> Manifest:
    """Return the manifest that a pointer names.

    Raises:
        IndexUnusable: It is missing, or not the one that was published.
        StoreUnavailable: The store does not answer.
    """
    name = f"{INDEX_FOLDER}/{pointer.version}/{MANIFEST_NAME}"
    where = store.address(name)
    try:
        data = store.read(name, max_bytes=_MOST_BYTES)
    except ImageError as error:
        raise IndexUnusable(f"{where} cannot be read ({error.detail}): {REMEDY}") from None
    if hashlib.sha256(data).hexdigest() != pointer.sha256:
        raise IndexUnusable(f"{where} is not what was published: {REMEDY}")
    manifest = Manifest.from_json(data, where)
    if manifest.version != pointer.version:
        raise IndexUnusable(f"{where} is of another version: {REMEDY}")
    return manifest
