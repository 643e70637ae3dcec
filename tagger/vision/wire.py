"""What the decoder and its child process say to each other: fixed structs and JSON, never pickles.

A file that takes over the child through a bug in a decoding library must not get further: whatever the child
writes is parsed as numbers, short texts and pixels.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tagger.errors import ImageError
from tagger.vision.framing import Framing
from tagger.vision.picture import DecodeLimits, Facts, Pixels

JOB: Final = struct.Struct("<QIIQQQ")
"""Parent to child: sequence number, index in the chunk, images in the chunk, offset and length in the ring,
size of the ring."""

REPLY: Final = struct.Struct("<QBI")
"""Child to parent: sequence number, kind, bytes of JSON that follow."""

READY: Final = 0
FACTS: Final = 1
FAILED: Final = 2

MAX_REPLY_BYTES: Final = 4096
_MAX_DETAIL: Final = 500


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """Everything the child is told when it starts.

    Attributes:
        decode: `module:function` with the signature of `tagger.vision.decode.decode`.
        framings: What the models want to see.
        limits: What one image may cost.
        jobs_fd: Pipe to read JOB from.
        replies_fd: Pipe to write REPLY to.
        life_fd: Pipe that nobody writes to; it closes when the parent dies.
        ring_fd: Shared memory that holds the files.
        pixels_fd: Shared memory that takes the pixels.
    """

    decode: str
    framings: tuple[Framing, ...]
    limits: DecodeLimits
    jobs_fd: int
    replies_fd: int
    life_fd: int
    ring_fd: int
    pixels_fd: int

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ChildConfig":
        """Rebuild what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["framings"] = tuple(Framing(**framing) for framing in fields["framings"])
        fields["limits"] = DecodeLimits(**fields["limits"])
        return cls(**fields)


def pixel_bytes(n: int, framings: Sequence[Framing]) -> int:
    """Return the size of the shared pixels of a chunk of `n` images."""
    return sum(n * framing.size_px**2 * 3 for framing in framings)


def pixel_views(buffer: Any, n: int, framings: Sequence[Framing]) -> tuple[Pixels, ...]:
    """Return the shared pixels of a chunk: one array (n, S, S, 3) per framing, one after the other."""
    # frombuffer and not ndarray(buffer=…): only the former keeps the memory from being unmapped.
    flat = np.frombuffer(buffer, np.uint8)
    views: list[Pixels] = []
    offset = 0
    for framing in framings:
        shape = (n, framing.size_px, framing.size_px, 3)
        views.append(flat[offset : offset + math.prod(shape)].reshape(shape))
        offset += math.prod(shape)
    return tuple(views)


def encode_facts(facts: Facts) -> tuple[int, bytes]:
    """Return kind and JSON of a reply about an image that was decoded."""
    return FACTS, json.dumps(facts.to_json()).encode()


def encode_error(error: ImageError) -> tuple[int, bytes]:
    """Return kind and JSON of a reply about an image that was not."""
    return FAILED, json.dumps([error.code, error.detail[:_MAX_DETAIL]]).encode()


def parse_reply(kind: int, payload: bytes) -> Facts | ImageError:
    """Read a reply of the child.

    Raises:
        ValueError: Not something our child would write.
    """
    try:
        fields = json.loads(payload)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if kind == FACTS:
        return Facts.from_json(fields)
    if kind != FAILED or not isinstance(fields, list) or len(fields) != 2:
        raise ValueError("not a reply")
    code, detail = fields
    if not isinstance(code, str) or not isinstance(detail, str):
        raise ValueError("code and detail must be texts")  # noqa: TRY004  every bad reply is a ValueError
    return ImageError(code, detail[:_MAX_DETAIL])
