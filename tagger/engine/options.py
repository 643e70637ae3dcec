"""What a tagging run can be told, and what it tells when it ends."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tagger.engine.machines import parse_groups
from tagger.engine.resources import MAX_CHUNK_ROWS
from tagger.errors import UsageError
from tagger.models import DEFAULT_MODEL

DEFAULT_MAX_FAILED = 0.05
"""Share of failed images above which a run exits with 3: a few strays are normal, a broken feed is not."""


@dataclass(frozen=True, kw_only=True)
class TagOptions:
    """Options of `tagger tag`; every one has the same name on the command line.

    Attributes:
        model: Name in the zoo, `timm:NAME`, `torchvision:NAME`, or path of a checkpoint.
        also: (model, collection) pairs that are tagged in the same pass over the images.
        taxonomy: File that renames, hides, groups labels; None keeps the collection's own.
        threshold: Least score of a tag, in [0, 1]; None keeps the collection's own.
        top_k: Most tags per image; None keeps the collection's own.
        limit: Plan at most this many images; the others are counted as deferred.
        include: Globs; only keys that match one are listed.
        exclude: Globs; keys that match one are not listed.
        retry_failed: Plan every failed image again, also those that would only fail again.
        prune: Remove rows whose image is no longer under the source.
        yes: Do not ask when `prune` would remove more than a fifth of the table.
        max_failed: Share of failed images, in [0, 1], above which the run ends with exit code 3.
        anonymous: Read a public bucket without credentials.
        requester_pays: Agree to pay for reads of a requester-pays bucket.
        address: Ray cluster to run on; None starts one on this machine.
        machines: What the cluster may grow to, such as `8x16cpu,4x4cpu+1gpu`: 8 machines of 16 CPUs, and 4 of
            4 CPUs and a GPU. None takes TAGGER_MACHINES, and without it the machines that are there.
        backend: `openvino` or `torch`; None takes torch where the cluster has GPUs.
        precision: Arithmetic of the CNN, as the backend names it; None takes the fastest faithful one.
        fetch_tasks: Fetch tasks at once; None chooses by the cluster.
        model_actors: Actors that hold the CNN; None chooses by the cluster.
        model_threads: Threads of each; None chooses by the cluster.
        gpus_per_actor: GPUs of each, such as 0.5 for two actors on one GPU; None takes one for each.
        chunk_rows: Images in a chunk, at most 512; None chooses by the cluster.
        cpus: CPUs of a cluster of our own; None takes those of the machine.
        max_image_bytes: Larger files are not read.
        max_pixels: Pictures with more pixels are not decoded.
        decode_timeout_s: Time one picture may take to decode.
        quiet: Show no progress.
    """

    model: str = DEFAULT_MODEL
    also: tuple[tuple[str, str], ...] = ()
    taxonomy: Path | None = None
    threshold: float | None = None
    top_k: int | None = None
    limit: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    retry_failed: bool = False
    prune: bool = False
    yes: bool = False
    max_failed: float = DEFAULT_MAX_FAILED
    anonymous: bool = False
    requester_pays: bool = False
    address: str | None = None
    machines: str | None = None
    backend: str | None = None
    precision: str | None = None
    fetch_tasks: int | None = None
    model_actors: int | None = None
    model_threads: int | None = None
    gpus_per_actor: float | None = None
    chunk_rows: int | None = None
    cpus: int | None = None
    max_image_bytes: int = 64 << 20
    max_pixels: int = 200_000_000
    decode_timeout_s: float = 20.0
    quiet: bool = False

    @property
    def on_gpus(self) -> bool:
        """Whether the CNN takes the GPUs of a cluster, if there are any."""
        return self.backend != "openvino" or self.gpus_per_actor is not None

    def __post_init__(self) -> None:
        for name, least in (
            ("limit", 0),
            ("top_k", 1),
            ("cpus", 1),
            ("max_image_bytes", 1),
            ("max_pixels", 1),
            ("fetch_tasks", 1),
            ("model_actors", 1),
            ("model_threads", 1),
            ("chunk_rows", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        for name in ("threshold", "max_failed"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must be between 0 and 1, got {share}")
        if self.prune and self.also:
            raise UsageError("--prune works on one collection at a time: leave --also out")
        if self.prune and self.limit is not None:
            raise UsageError(
                "--prune needs the whole listing and cannot go with --limit: leave one of them out"
            )
        if self.chunk_rows is not None and self.chunk_rows > MAX_CHUNK_ROWS:
            raise UsageError(f"--chunk-rows must be at most {MAX_CHUNK_ROWS}, got {self.chunk_rows}")
        parse_groups(self.machines or "")
        gpus = self.gpus_per_actor
        if gpus is not None and not (0.01 <= gpus <= 1 or (gpus > 1 and gpus % 1 == 0)):
            raise UsageError(
                f"--gpus-per-actor must be a part of one GPU, 0.01 or more, or a whole number, got {gpus:g}"
            )
        if not 0 < self.decode_timeout_s < math.inf:
            raise UsageError(f"--decode-timeout-s must be more than 0, got {self.decode_timeout_s}")


@dataclass(kw_only=True)
class Run:
    """What a run did. `listed = skipped + planned + deferred` and `planned = tagged + failed`.

    Attributes:
        run_id: Name of the run; its record is runs/<run_id>/run.json in the collection.
        listed: Images under the source.
        skipped: Of these, images that have a settled row.
        planned: Images that this run tagged or failed.
        deferred: Images beyond the limit.
        tagged: Images with tags.
        failed: Images with an error.
        removed: Rows removed by `prune`.
        seconds: Wall time, start-up included.
        images_per_s: `planned / seconds`.
        table_version: Version of the tags table that holds the result.
        errors: Failed images by code.
        stage_seconds: Time by stage, added up over all workers.
        exit_code: 0, or 3 when more than `max_failed` of the images failed.
    """

    run_id: str
    listed: int = 0
    skipped: int = 0
    planned: int = 0
    deferred: int = 0
    tagged: int = 0
    failed: int = 0
    removed: int = 0
    seconds: float = 0.0
    images_per_s: float = 0.0
    table_version: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the record that `tagger tag --json` prints."""
        details = ("errors", "stage_seconds")
        return {name: value for name, value in self.to_record().items() if name not in details}

    def to_record(self) -> dict[str, Any]:
        """Return what run.json keeps: the same and the details."""
        return {name: value for name, value in asdict(self).items() if name != "exit_code"}
