"""`tag`: a source in, a collection out. The driver's loop: list, stream, write, commit, account."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from tagger.collection import RunRecord, Writer, new_run_id
from tagger.engine.ledger import Groups, Ledger
from tagger.engine.machines import Machines, beside_most_of, name_machines, see_machines
from tagger.engine.options import Run, TagOptions
from tagger.engine.plan import plan_chunks
from tagger.engine.planner import Planner
from tagger.engine.progress import Progress
from tagger.engine.resources import MAX_CHUNK_ROWS, choose_layout
from tagger.engine.session import HeadWatch, ray_session
from tagger.engine.targets import (
    Target,
    find_targets,
    open_targets,
    require_possible,
    settled_rows,
    wishes,
)
from tagger.errors import ClusterUnavailable, RunError, TaggerError, UsageError
from tagger.settings import Settings, load_settings
from tagger.source import Source, open_source
from tagger.spill import spill_folder
from tagger.storage import StorageOptions, open_store
from tagger.vision import DecodeLimits

_ASK_ABOVE = 0.2  # share of the table that --prune takes without --yes
_TIDY_S = 15.0  # that an interrupted run has to put things away before it heeds another signal
_PASSES = 3  # over chunks whose results were lost on the way


def tag(source: str | os.PathLike[str], collection: str | os.PathLike[str], **options: Any) -> Run:
    """Tag every image of a source that the collection has no settled row for.

    Args:
        source: Bucket, prefix, folder, one image, or a manifest.
        collection: Folder of the results, made if missing.
        options: Fields of `TagOptions`.

    Returns:
        What was done; `exit_code` is 3 when more than `max_failed` of the images failed.

    Raises:
        UsageError: Wrong settings; nothing was done.
        RunError: The run stopped; what is committed is kept and the same call goes on from there.
        KeyboardInterrupt: Interrupted; likewise.
    """
    known = [field.name for field in fields(TagOptions)]
    for name in options:
        if name not in known:
            raise UsageError(f"tag() has no option {name!r}; it has {', '.join(known)}")
    return _TagRun(source, collection, TagOptions(**options), load_settings()).run()


class _Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM: stop where we are, keep what is committed."""


class _TagRun:
    """One run from start to end; a class because the steps share its book."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        collection: str | os.PathLike[str],
        options: TagOptions,
        settings: Settings,
    ) -> None:
        self._started = time.monotonic()
        self._options = options
        self._settings = settings
        self._storage = StorageOptions(anonymous=options.anonymous, requester_pays=options.requester_pays)
        # Results go to a store of one's own, with credentials, also when the source is public.
        self._results = StorageOptions(requester_pays=options.requester_pays)
        self._source_uri = os.fspath(source)
        self._collection_uri = os.fspath(collection)
        self._run = Run(run_id=new_run_id())
        self._seconds: dict[str, float] = {}
        self._timeline: dict[str, Any] = {}

    def run(self) -> Run:
        options = self._options
        source = open_source(
            self._source_uri,
            options=self._storage,
            include=options.include,
            exclude=options.exclude,
            leave_out=self._collection_uri,
        )
        require_possible(source, self._collection_uri, options, self._settings)
        listing = source.batches()
        first_page = next(listing, None)  # before anything is made: a wrong address must leave nothing behind
        if first_page is None and not options.prune:
            raise UsageError(
                f"there is no image under {source.uri}: check the address, --include and --exclude"
            )
        self._listing = chain([] if first_page is None else [first_page], listing)
        wanted = wishes(self._collection_uri, options, self._results, self._settings)
        if first_page is None and find_targets(wanted, options, self._results) is None:
            raise UsageError(
                f"there is no image under {source.uri}, and {self._collection_uri} is no collection that "
                "--prune could remove rows from: check both addresses"
            )
        targets = open_targets(wanted, options, self._results)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_interruptible())
            progress = stack.enter_context(Progress(quiet=options.quiet))
            writers = [
                stack.enter_context(target.collection.writer(self._run.run_id, "tag")) for target in targets
            ]
            for target in targets:
                target.settle(options)
            state: Literal["done", "failed", "interrupted"]
            record = self._record = RunRecord(targets[0].collection.store, self._run.run_id)
            record.start(self._describe(targets))
            try:
                with spill_folder(self._settings.cache_dir, self._run.run_id) as spill:
                    self._plan_and_stream(source, targets, writers, progress, spill)
                state = "done"
            except KeyboardInterrupt:
                state = "interrupted"
                raise
            except BaseException:
                state = "failed"
                raise
            finally:
                self._finish(record, state, writers[0])
        return self._run

    def _plan_and_stream(
        self, source: Source, targets: list[Target], writers: list[Writer], progress: Progress, spill: Path
    ) -> None:
        options, run = self._options, self._run
        layout_rows = options.chunk_rows
        first = targets[0]
        plan = plan_chunks(
            self._listing,
            settled_rows(targets, spill_dir=spill, retry_failed=options.retry_failed),
            spill_dir=spill,
            model_id=first.prepared.model_id,
            retry_failed=options.retry_failed,
            limit=options.limit,
            chunk_rows=_ramp(layout_rows or _default_chunk_rows(options, self._settings)),
        )
        run_store = open_store(f"{first.collection.uri}/runs/{run.run_id}", self._results)
        planner = Planner(plan, run_store)
        ledger = Ledger()
        try:
            planner.start()
            progress.phase("listing")
            if planner.wait_for_first_chunk():
                progress.phase("starting")
                self._stream(planner, targets, writers, ledger, progress)
            planner.raise_error()
            rows = ledger.tagged + ledger.failed
            if rows != plan.counts.planned:
                raise RunError(
                    f"{plan.counts.planned:,} images were planned and {rows:,} got a row: this is a bug of "
                    "tagger, please report it; starting the run again takes up the others"
                )
            if options.prune:
                self._prune(source, planner, writers)
        finally:
            counts = plan.counts
            run.listed, run.skipped = counts.listed, counts.skipped
            run.planned, run.deferred = counts.planned, counts.deferred
            run.tagged, run.failed, run.errors = ledger.tagged, ledger.failed, ledger.errors
            planner.close()

    def _stream(
        self,
        planner: Planner,
        targets: list[Target],
        writers: list[Writer],
        ledger: Ledger,
        progress: Progress,
    ) -> None:
        options = self._options
        address = options.address or self._settings.ray_address
        with ray_session(address, settings=self._settings, cpus=options.cpus) as cluster:
            import ray

            from tagger.engine.fetch import FetchSettings
            from tagger.engine.loop import CommitLoop, write_refs
            from tagger.engine.metrics import RunMetrics
            from tagger.engine.stream import ChunkStream, StreamSettings

            layout = choose_layout(
                see_machines(options.machines or self._settings.machines if address else None),
                on_gpus=options.on_gpus,
                gpus_per_actor=options.gpus_per_actor,
                fetch_tasks=options.fetch_tasks,
                model_actors=options.model_actors,
                model_threads=options.model_threads,
                chunk_rows=options.chunk_rows,
            )
            prepared = [
                target.prepare_for(gpu=layout.model_gpus > 0, options=options, settings=self._settings)
                for target in targets
            ]
            settings = StreamSettings(
                run_uri=f"{targets[0].collection.uri}/runs/{self._run.run_id}",
                run_id=self._run.run_id,
                options=self._results,
                fetch=FetchSettings(
                    options=self._storage,
                    framings=tuple(one.framing for one in prepared),
                    limits=DecodeLimits(
                        max_bytes=options.max_image_bytes,
                        max_pixels=options.max_pixels,
                        timeout_s=options.decode_timeout_s,
                    ),
                ),
                tag=tuple(target.tag_settings(self._run.run_id) for target in targets),
                layout=layout,
            )
            self._record.note(
                cluster={name: cluster[name] for name in ("CPU", "GPU", "memory") if name in cluster},
                backend=[one.backend for one in prepared],
                precision=[one.precision for one in prepared],
                layout=asdict(layout),
            )
            machines = name_machines({})
            payloads = [one.payload() for one in prepared]
            write = ray.remote(num_cpus=0, max_retries=3)(write_refs)
            loop = CommitLoop(
                planner=planner,
                writers=writers,
                ledger=ledger,
                progress=progress,
                groups=Groups(chunk_rows=layout.chunk_rows, started=self._started),
                # On a cluster of our own there is but one place.
                write=lambda refs: write.options(**(beside_most_of(refs) if address else {})).remote(
                    refs,
                    collections=tuple(target.collection.uri for target in targets),
                    options=self._results,
                    run_id=self._run.run_id,
                ),
                run_id=self._run.run_id,
                targets=targets,
                metrics=RunMetrics(self._run.run_id, collected=address is not None),
                watch=HeadWatch() if address else None,
            )
            try:
                only: list[int] | None = None
                for _ in range(_PASSES):
                    loop.drain(ChunkStream(settings, payloads, only=only))
                    only = ledger.missing(planner.chunks)
                    if not only:
                        break
                else:
                    raise RunError(
                        f"{len(only or [])} chunks got no result in {_PASSES} passes; start the run again"
                    )
            finally:
                self._seconds = loop.seconds
                self._timeline = {**loop.timeline.to_record(), "machines": machines}
                if not isinstance(
                    sys.exc_info()[1], ClusterUnavailable
                ):  # then to ask it would wait for ever
                    with contextlib.suppress(Exception):
                        self._timeline["machines"] = name_machines(machines)

    def _prune(self, source: Source, planner: Planner, writers: list[Writer]) -> None:
        """Remove the rows whose image is gone, after a complete listing."""
        if not source.complete:
            raise RunError("the listing did not end, so nothing was pruned; start the run again")
        n_gone = sum(table.num_rows for table in planner.plan.vanished(source.covers))
        rows = max(1, planner.plan.counts.existing)
        if n_gone > _ASK_ABOVE * rows and not self._options.yes:
            raise UsageError(
                f"--prune would remove {n_gone:,} of {rows:,} rows ({n_gone / rows:.0%}), because their "
                f"images are no longer under {source.uri}; nothing was removed: add --yes if that is right"
            )
        if n_gone:
            gone = planner.plan.vanished(source.covers)
            self._run.removed = writers[0].remove_rows(gone, operation="prune")
            for writer in writers[1:]:
                for table in planner.plan.vanished(source.covers):
                    writer.remove_ids(table.column("image_id").to_pylist(), operation="prune")

    def _finish(
        self, record: RunRecord, state: Literal["done", "failed", "interrupted"], writer: Writer
    ) -> None:
        run = self._run
        run.seconds = round(time.monotonic() - self._started, 3)
        run.images_per_s = round(run.planned / run.seconds, 1) if state == "done" else 0.0
        run.table_version = writer.collection.table.version
        run.stage_seconds = {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}
        if run.planned and run.failed / run.planned > self._options.max_failed:
            run.exit_code = 3
        with contextlib.suppress(TaggerError) if state != "done" else contextlib.nullcontext():
            record.finish(state, {**run.to_record(), "timeline": self._timeline})

    def _describe(self, targets: list[Target]) -> dict[str, Any]:
        options = self._options
        return {
            "command": "tag",
            "source": self._source_uri,
            "model": options.model,
            "include": list(options.include),
            "exclude": list(options.exclude),
            "limit": options.limit,
            "retry_failed": options.retry_failed,
            "prune": options.prune,
            "collections": [target.collection.uri for target in targets],
        }


def _default_chunk_rows(options: TagOptions, settings: Settings) -> int:
    if options.address or settings.ray_address:
        return MAX_CHUNK_ROWS
    return choose_layout([Machines(options.cpus or settings.cpus, gpus=0, now=1, most=1)]).chunk_rows


def _ramp(rows: int) -> tuple[int, ...]:
    """Return the sizes of the first chunks: small ones reach the CNN early.

    >>> _ramp(256), _ramp(20)
    ((32, 64, 128, 256), (20,))
    """
    return (*(size for size in (32, 64, 128, 256) if size < rows), rows)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM into what Ctrl-C is, so that a stopped pod or spot machine leaves as tidily.

    Once is enough: a second signal, sent while stages, cluster and lease are being put away, would leave
    processes behind. Only after `_TIDY_S` is it heeded.
    """
    first: list[float] = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not first or now - first[0] > _TIDY_S:
            first.append(now)
            raise _Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
