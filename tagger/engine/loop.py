"""The driver's loop: finished chunks in, groups written, receipts committed."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import RayError, RayTaskError

from tagger.collection import Writer
from tagger.engine.blocks import merge_seconds
from tagger.engine.ledger import Groups, Ledger
from tagger.engine.metrics import RunMetrics
from tagger.engine.parts import Receipt, write_group
from tagger.engine.planner import Planner
from tagger.engine.progress import Progress
from tagger.engine.session import HeadWatch
from tagger.engine.stream import NO_PROGRESS_S, ChunkStream, last_pulse, reported_error
from tagger.engine.targets import Target
from tagger.engine.timeline import WRITE, Span, Timeline
from tagger.errors import ClusterUnavailable, RunError, TaggerError

_TICK_S = 0.2
_JOIN_S = 5.0
_LOOK_S = 30.0  # between two looks for a pulse: only a run that seems stuck is worth asking


def write_refs(refs: list[Any], **settings: Any) -> Receipt:
    """Write a group of finished blocks, given by reference; runs as a Ray task near its blocks."""
    import pyarrow as pa
    import ray

    started, node = time.time(), ray.get_runtime_context().get_node_id()
    try:
        receipt = write_group(ray.get(refs), **settings)
        span = Span(WRITE, node, started, time.time(), receipt.rows)
        return replace(receipt, spans=(*receipt.spans, span))
    finally:
        pa.default_memory_pool().release_unused()  # each group may be written by another worker


@dataclass
class CommitLoop:
    """Takes finished chunks from the stream, has them written in groups, and commits the receipts."""

    planner: Planner
    writers: list[Writer]
    ledger: Ledger
    progress: Progress
    groups: Groups
    write: Callable[[list[Any]], Any]
    run_id: str
    targets: list[Target]
    metrics: RunMetrics
    watch: HeadWatch | None = None

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.timeline = Timeline(time.time())
        self._out = 0
        self._writing: list[Any] = []
        self._moved = time.monotonic()
        self._listed = 0
        self._looked = time.monotonic()
        self._pulse: bytes | None = None

    def drain(self, stream: ChunkStream) -> None:
        """Take everything the stream gives and commit it; the stream is closed in any case.

        Raises:
            RunError: Nothing moved for `NO_PROGRESS_S`, or Ray could not mend a fault.
            TaggerError: What a stage raised on purpose.
        """
        arrived: queue.Queue[Any] = queue.Queue()
        pump = threading.Thread(target=_pump, args=(stream, arrived), name="stream", daemon=True)
        pump.start()
        try:
            self._take(arrived)
        except ClusterUnavailable:
            raise  # nobody is there who could stop the stages
        except BaseException:
            self._close(stream, pump)
            raise
        self._close(stream, pump)

    def _close(self, stream: ChunkStream, pump: threading.Thread) -> None:
        stream.close()
        pump.join(_JOIN_S)

    def _take(self, arrived: "queue.Queue[Any]") -> None:
        ended = False
        while not ended or self._writing:
            self.planner.raise_error()
            if self.watch is not None:
                self.watch.require()
            for writer in self.writers:  # also when no commit is due: the plan may be gone with the lease
                writer.check()
            with contextlib.suppress(queue.Empty):
                item = arrived.get(timeout=_TICK_S)
                while item is not _END:
                    if isinstance(item, BaseException):
                        raise _explained(item, self.run_id) from None
                    self.groups.add(item)
                    self._out += 1
                    self._moved = time.monotonic()
                    item = arrived.get_nowait()
                ended = True
            while group := self.groups.due(all_of_it=ended):
                if self.watch is not None:
                    self.watch.wait()
                self._writing.append(self.write(group))
            self._commit_written(wait=ended)
            self._show()
        self._commit(self.ledger.last())

    def _commit_written(self, *, wait: bool) -> None:
        import ray

        if not self._writing:
            self._check_progress()
            return
        done, self._writing = ray.wait(
            self._writing, num_returns=len(self._writing), timeout=_TICK_S if wait else 0, fetch_local=False
        )
        accepted: list[Receipt] = []
        try:
            for ref in done:
                try:
                    receipt: Receipt = ray.get(ref)
                except Exception as error:
                    if _is_lost(error):  # its chunks are missing in the ledger, and the next pass does them
                        continue
                    raise _explained(error, self.run_id) from None
                self._moved = time.monotonic()
                self.seconds = merge_seconds(self.seconds, receipt.seconds)
                self.timeline.add(receipt.spans)
                accepted += self.ledger.accept(receipt)
        finally:
            # Together: a commit takes as long with many parts as with one, and meanwhile others are written.
            self._commit(accepted)
        if not done:
            self._check_progress()

    def _commit(self, receipts: list[Receipt]) -> None:
        if not receipts:
            return
        for n, writer in enumerate(self.writers):
            replaced: dict[str, set[str]] = {}
            if n == 0:
                for receipt in receipts:
                    for part, ids in receipt.replaced.items():
                        replaced.setdefault(part, set()).update(ids)
            elif self.targets[n].collection.table.rows:
                replaced = self.targets[n].old_parts(
                    [one for receipt in receipts for one in receipt.image_ids]
                )
            writer.commit([receipt.parts[n] for receipt in receipts], replaced=replaced)
        self.ledger.committed(receipts)
        self.metrics.committed(receipts)

    def _show(self) -> None:
        self.metrics.show(
            planned=self.planner.images_in(self.planner.chunks), done=self.ledger.tagged + self.ledger.failed
        )
        done = max(self.planner.images_in(min(self._out, self.planner.chunks)), self.ledger.tagged)
        self.progress.update(
            done=done,
            failed=self.ledger.failed,
            planned=self.planner.images_in(self.planner.chunks),
            planned_all=self.planner.done,
        )

    def _check_progress(self) -> None:
        listed = self.planner.plan.counts.listed
        if listed != self._listed:
            self._listed, self._moved = listed, time.monotonic()
        if time.monotonic() - self._looked > _LOOK_S:
            if self.watch is not None:
                self.watch.wait()
            self._looked = time.monotonic()
            pulse = last_pulse(self.run_id)
            if pulse != self._pulse:
                self._pulse, self._moved = pulse, self._looked
        if time.monotonic() - self._moved > NO_PROGRESS_S:
            raise RunError(f"nothing moved for {NO_PROGRESS_S} s; start the same command again to go on")


_END = object()


def _pump(stream: Iterable[Any], arrived: "queue.Queue[Any]") -> None:
    try:
        for item in stream:
            arrived.put(item)
    except BaseException as error:  # the main thread raises it
        arrived.put(error)
    else:
        arrived.put(_END)


def _explained(error: BaseException, run_id: str) -> BaseException:
    """Return what a stage raised on purpose instead of Ray's account of it, if that is what happened."""
    cause = getattr(error, "cause", None)  # of a task's error, which Ray makes look like its cause
    if isinstance(cause, TaggerError):
        return cause
    if isinstance(error, TaggerError):
        return error
    with contextlib.suppress(Exception):  # the cluster may be gone
        reported = reported_error(run_id)
        if reported is not None:
            return reported
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        name = type(error).__name__
        return RunError(f"Ray lost a part of the run ({name}); what is committed is kept: start it again")
    return error


def _is_lost(error: Exception) -> bool:
    from ray import exceptions

    return isinstance(
        error, (exceptions.ObjectLostError, exceptions.WorkerCrashedError, exceptions.NodeDiedError)
    )
