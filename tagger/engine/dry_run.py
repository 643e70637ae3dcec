"""`tag --dry-run`: what a run would do, how long it would take and what it would cost."""

import math
import time
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from tagger.collection import new_run_id
from tagger.engine.blocks import pack
from tagger.engine.fetch import Fetcher, FetchSettings
from tagger.engine.machines import parse_groups
from tagger.engine.options import TagOptions
from tagger.engine.plan import plan_chunks
from tagger.engine.resources import choose_layout
from tagger.engine.tagging import Tagger, TagSettings
from tagger.engine.targets import Wish, find_targets, require_possible, settled_rows, wishes
from tagger.errors import UsageError
from tagger.settings import Settings, load_settings
from tagger.source import open_source
from tagger.spill import spill_folder
from tagger.storage import StorageOptions
from tagger.vision import DecodeLimits

SAMPLE_IMAGES = 96
"""Images that are really fetched, decoded and tagged for the estimate: some seconds of work on a laptop."""

STARTUP_S = 5.0
"""Wall seconds a run spends before the first image and after the last (docs/benchmarks.md)."""

_HIDDEN_SHARE = 0.86  # of the sum of the stages that a run reaches at steady state (docs/benchmarks.md)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would do.

    Attributes:
        listed: Images under the source.
        planned: Images a run would tag.
        bytes: Sum of their sizes, as far as the listing tells.
        estimated_seconds: Wall time of the run on `cpus` CPUs, from a measured sample; the time that machines
            of a cluster take to start is not in it.
        estimated_cost: `estimated_seconds` times the price, in USD; None without a price.
        sample: Images measured.
        cpus: CPUs the estimate is for: those that decode, where GPUs run the CNN.
        gpus: GPUs the estimate is for; taken to keep up with the CPUs, because none is measured here.
    """

    listed: int
    planned: int
    bytes: int
    estimated_seconds: float
    estimated_cost: float | None
    sample: int
    cpus: int
    gpus: int

    def to_json(self) -> dict[str, Any]:
        """Return what `tagger tag --dry-run --json` prints."""
        left_out = ("sample", "cpus", "gpus")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def estimate(
    source: str, collection: str, *, price_usd_per_hour: float | None = None, **given: Any
) -> Estimate:
    """List the source, compare it with the collection, and measure a short sample; write nothing there.

    Args:
        source: As for `tag`.
        collection: As for `tag`; need not exist.
        price_usd_per_hour: Price of the machines.
        given: Fields of `TagOptions`.

    Raises:
        UsageError: Wrong settings, or nothing to list.
    """
    if price_usd_per_hour is not None and not 0 <= price_usd_per_hour < math.inf:
        raise UsageError(f"--price must be at least 0, got {price_usd_per_hour}")
    options, settings = TagOptions(**given), load_settings()
    storage = StorageOptions(anonymous=options.anonymous, requester_pays=options.requester_pays)
    listing = open_source(
        source, options=storage, include=options.include, exclude=options.exclude, leave_out=collection
    )
    require_possible(listing, collection, options, settings)
    results = StorageOptions(requester_pays=options.requester_pays)
    wanted = wishes(collection, options, results, settings)
    targets = find_targets(wanted, options, results)
    with (
        spill_folder(settings.cache_dir, new_run_id()) as spill,
        plan_chunks(
            listing.batches(),
            settled_rows(targets, spill_dir=spill, retry_failed=options.retry_failed) if targets else None,
            spill_dir=spill,
            model_id=wanted[0].prepared.model_id,
            retry_failed=options.retry_failed,
            limit=options.limit,
            chunk_rows=(SAMPLE_IMAGES // 2, SAMPLE_IMAGES // 2, 512),
        ) as plan,
    ):
        sample: list[pa.Table] = list(islice(plan, 2))
        for _ in plan:
            pass
        counts = plan.counts
    if counts.listed == 0 and not (options.prune and targets):
        raise UsageError(f"there is no image under {listing.uri}: check the address, --include and --exclude")
    here = options.cpus or settings.cpus
    cpus, gpus = _machines(options, settings) or (here, 0)
    seconds = 0.0
    if sample:
        decode_s, model_s = _measure(sample, wanted, options, storage, cpus=here)
        per_image_s = (decode_s if gpus else decode_s + model_s) / cpus
        seconds = STARTUP_S + counts.planned * per_image_s / _HIDDEN_SHARE
    return Estimate(
        listed=counts.listed,
        planned=counts.planned,
        bytes=counts.planned_bytes,
        estimated_seconds=round(seconds, 1),
        estimated_cost=None if price_usd_per_hour is None else round(seconds / 3600 * price_usd_per_hour, 4),
        sample=sum(chunk.num_rows for chunk in sample),
        cpus=cpus,
        gpus=gpus,
    )


def _machines(options: TagOptions, settings: Settings) -> tuple[int, int] | None:
    """Return the CPUs and GPUs of the cluster that a run would have, if somebody told."""
    on_cluster = options.address or settings.ray_address
    told = parse_groups(options.machines or (settings.machines if on_cluster else None) or "")
    if not any(one.cpus * one.most for one in told):
        return None
    layout = choose_layout(told, on_gpus=options.on_gpus, gpus_per_actor=options.gpus_per_actor)
    cpus = sum(one.cpus * one.most for one in told)
    if not layout.model_gpus:
        return cpus, 0
    return max(1, round(layout.fetch_tasks * layout.fetch_cpus)), sum(one.gpus * one.most for one in told)


def _measure(
    sample: list[pa.Table], wanted: list[Wish], options: TagOptions, storage: StorageOptions, *, cpus: int
) -> tuple[float, float]:
    """Return the seconds of one CPU that decoding and the CNN take an image; the first chunk warms up."""
    limits = DecodeLimits(
        max_bytes=options.max_image_bytes, max_pixels=options.max_pixels, timeout_s=options.decode_timeout_s
    )
    framings = tuple(one.prepared.framing for one in wanted)
    fetcher = Fetcher(FetchSettings(options=storage, framings=framings, limits=limits))
    tagger = Tagger(
        tuple(
            TagSettings(
                one.prepared,
                one.taxonomy,
                one.config.tagging.threshold,
                one.config.tagging.top_k,
                run_id="dry-run",
                source=one.prepared.name,
            )
            for one in wanted
        ),
        tuple(one.prepared.payload() for one in wanted),
        threads=cpus,
    )
    try:
        for number, chunk in enumerate(sample):
            started = time.perf_counter()
            decoded = fetcher(pack(number, rows=chunk))
            fetched = time.perf_counter()
            tagger(decoded)
            tagged = time.perf_counter()
    finally:
        fetcher.close()
    # One decoder keeps one CPU busy; the CNN keeps all of them.
    images: int = sample[-1].num_rows
    return (fetched - started) / images, (tagged - fetched) * cpus / images
