"""The wiring: plan → fetch + decode → model, as one Ray Data stream of chunks.

This module and pieces.py are the only ones that touch Ray Data. Three of its defaults are changed on purpose:

- Blocks hold one row, a whole chunk (see blocks.py), and `target_max_block_size` is one byte, so that
  every block moves on as soon as it is made instead of waiting to be merged into 128 MB.
- Each stage asks for other resources than its neighbour, which keeps Ray Data from fusing them.
- Errors are never turned into missing blocks. What a stage raises on purpose is left in Ray's key-value
  store as well, because only its traceback would reach the driver.
"""

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyarrow as pa
import ray
import ray.data
from ray.data._internal.logging import SessionFileHandler, configure_logging
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.experimental import internal_kv

from tagger import errors
from tagger.engine.blocks import bytes_of, chunk_number, pack
from tagger.engine.fetch import Fetcher, FetchSettings
from tagger.engine.machines import OffGpus
from tagger.engine.planstore import PlanReader
from tagger.engine.resources import Layout
from tagger.engine.tagging import Tagger, TagSettings
from tagger.engine.timeline import DECODE, MODEL, Span, dump_spans, load_spans
from tagger.errors import RunError, TaggerError
from tagger.storage import StorageOptions, open_store

NO_PROGRESS_S = 300
"""A run in which nothing moves for this long stops; everything committed is kept."""

_PULSE_S = 5.0

_ACTORS_PER_CHUNK = 4
"""A chunk that ends this many model actors, on machines that live on, ends the run. Two would do for a chunk
that is to blame; but whoever kills workers for reasons of his own may well hit one chunk twice."""


class FetchStage(Protocol):
    """What runs as stage 1: `Fetcher`, or what stands in for it."""

    def __call__(self, block: pa.Table) -> pa.Table:
        """Fetch and decode one chunk."""
        ...

    def close(self) -> None:
        """Let go of what it holds; a later run works in the same process."""
        ...


MakeFetcher = Callable[..., FetchStage]


@dataclass(frozen=True)
class StreamSettings:
    """Everything the stages need; travels to the workers, so it holds no secret.

    Attributes:
        run_uri: Folder of the run, where the plan is.
        run_id: Name of the run.
        options: How to reach the storage of the run's folder.
        fetch: Settings of stage 1.
        tag: Settings of stage 2, one for each collection.
        layout: Resources of the stages.
    """

    run_uri: str
    run_id: str
    options: StorageOptions
    fetch: FetchSettings
    tag: tuple[TagSettings, ...]
    layout: Layout


class ChunkStream:
    """Tags every chunk of a plan; iterate for references to the finished blocks, as they come.

    Each reference is of a block of one row: `rows_<n>` for each collection, `seconds`. Iterating raises
    `TaggerError` for what a stage raised on purpose (see `reported_error`) and `ray.exceptions.RayError`
    for what Ray could not mend.

    Args:
        settings: What the stages need.
        payloads: The weights of each model, put into the object store once.
        only: Numbers of the chunks to do; None does the whole plan, while it is being written.
        make_fetcher: Class of stage 1; tests and simulations put theirs here.
        make_tagger: Class of stage 2; likewise.
    """

    def __init__(
        self,
        settings: StreamSettings,
        payloads: Sequence[Mapping[str, bytes]],
        *,
        only: Sequence[int] | None = None,
        make_fetcher: MakeFetcher = Fetcher,
        make_tagger: Callable[..., Callable[[pa.Table], pa.Table]] = Tagger,
    ) -> None:
        configure()
        refs = [ray.put(dict(payload)) for payload in payloads]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._dataset = _wire(settings, refs, only, make_fetcher, make_tagger)
            self._executor = self._dataset._create_executor()  # noqa: SLF001 - to be able to stop it

    def __iter__(self) -> Iterator[Any]:
        for bundle in self._dataset._build_bundle_iterator(self._executor):  # noqa: SLF001
            yield from bundle.block_refs

    def close(self) -> None:
        """Stop the stages. Its threads must be gone before Ray is: they would end the process."""
        self._executor.shutdown(force=True)


def _wire(
    settings: StreamSettings,
    payload_refs: list[Any],
    only: Sequence[int] | None,
    make_fetcher: MakeFetcher,
    make_tagger: Callable[..., Callable[[pa.Table], pa.Table]],
) -> Any:
    layout = settings.layout
    dataset = ray.data.read_datasource(
        _PlanSource(settings.run_uri, settings.options, only), override_num_blocks=1, num_cpus=0
    )
    dataset = dataset.map_batches(
        _fetch,
        fn_kwargs={"settings": settings.fetch, "run_id": settings.run_id, "make": make_fetcher},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=layout.fetch_cpus,
        compute=ray.data.TaskPoolStrategy(size=layout.fetch_tasks),
        ray_remote_args_fn=OffGpus() if layout.apart else None,
    )
    return dataset.map_batches(
        _ModelActor,
        fn_constructor_kwargs={
            "make_tagger": make_tagger,
            "settings": settings,
            "payload_refs": payload_refs,
        },
        batch_size=1 if layout.model_gpus else None,  # blocks have one row; with GPUs Ray Data wants a number
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=layout.model_cpus,
        num_gpus=layout.model_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=layout.model_actors,
            initial_size=layout.first_actors,
            max_tasks_in_flight_per_actor=2,
        ),
    )


def configure() -> None:
    """Change Ray Data's defaults of this process."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # the driver's loop knows better: a long listing is progress
    context.retried_io_errors = []
    context.memory_usage_poll_interval_s = None  # a thread for every task, to fill in statistics nobody reads
    context.max_errored_blocks = 0
    # A plan is one input of many chunks, which Ray Data cannot know.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks", category=UserWarning)
    configure_logging()  # first, so that Ray Data does not do it later and undo the next line
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, SessionFileHandler):
            handler.setLevel(logging.CRITICAL)  # errors reach the user through us, in one sentence


def reported_error(run_id: str) -> TaggerError | None:
    """Return what a stage of the run raised on purpose; Ray itself keeps only its text."""
    data = internal_kv._internal_kv_get(_error_key(run_id))  # noqa: SLF001
    if not data:
        return None
    name, text = json.loads(data)
    kind = getattr(errors, name, RunError)
    return cast("TaggerError", kind(text))


@contextlib.contextmanager
def _reported(run_id: str) -> Iterator[None]:
    """Leave word of a deliberate error where the driver finds it."""
    try:
        yield
    except TaggerError as error:
        word = json.dumps([type(error).__name__, str(error)]).encode()
        internal_kv._internal_kv_put(_error_key(run_id), word, overwrite=False)  # noqa: SLF001
        raise


class _Pulse:
    """Says at most every few seconds that images are being done: a chunk may take longer than patience.

    The decoder gives every image a bounded time, so as long as it beats the run is not stuck.
    """

    def __init__(self, run_id: str) -> None:
        self._key = _pulse_key(run_id)
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PULSE_S
            internal_kv._internal_kv_put(self._key, str(time.time_ns()).encode(), overwrite=True)  # noqa: SLF001


def last_pulse(run_id: str) -> bytes | None:
    """Return something that changes while images are being fetched and decoded."""
    beat: bytes | None = internal_kv._internal_kv_get(_pulse_key(run_id))  # noqa: SLF001
    return beat


def _pulse_key(run_id: str) -> bytes:
    return f"tagger:{run_id}:pulse".encode()


def _error_key(run_id: str) -> bytes:
    return f"tagger:{run_id}:error".encode()


class _PlanSource(Datasource):
    """Reads the numbered chunks of a plan, in order, while the driver still writes them."""

    def __init__(self, run_uri: str, options: StorageOptions, only: Sequence[int] | None) -> None:
        super().__init__()
        self._run_uri = run_uri
        self._options = options
        self._only = only

    def get_name(self) -> str:
        return "Plan"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        del parallelism, per_task_row_limit, data_context
        run_uri, options, only = self._run_uri, self._options, self._only

        def read() -> Iterator[pa.Table]:
            reader = PlanReader(open_store(run_uri, options))
            # The driver watches the plan's progress itself; when it dies, Ray ends this task.
            chunks = (
                reader.chunks(alive=lambda: True)
                if only is None
                else ((n, reader.read_chunk(n)) for n in only)
            )
            for number, rows in chunks:
                yield pack(number, rows=rows)

        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, nothing_known)]


_FETCHERS: dict[tuple[str, FetchSettings], FetchStage] = {}  # in each worker, for as long as it lives


def _fetch(block: pa.Table, *, settings: FetchSettings, run_id: str, make: MakeFetcher) -> pa.Table:
    """Stage 1 as Ray Data calls it: a task that finds its Fetcher where an earlier task left it."""
    fetcher = _FETCHERS.get((run_id, settings))
    if fetcher is None:
        for old in _FETCHERS.values():
            old.close()
        _FETCHERS.clear()
        fetcher = _FETCHERS[run_id, settings] = make(settings, on_image=_Pulse(run_id))
    with _reported(run_id):
        started = time.time()
        return _with_span(fetcher(block), DECODE, started, before=[])


def _with_span(block: pa.Table, stage: str, started: float, *, before: list[Span]) -> pa.Table:
    """Return a block with word of where and when it was worked at."""
    span = Span(stage, ray.get_runtime_context().get_node_id(), started, time.time(), images=0)
    return block.append_column("spans", pa.array([dump_spans([*before, span])], pa.large_binary()))


class _ModelActor:
    """Stage 2 as Ray Data calls it, with a guard against chunks that end one actor after the other."""

    def __init__(
        self,
        make_tagger: Callable[..., Callable[[pa.Table], pa.Table]],
        settings: StreamSettings,
        payload_refs: list[Any],
    ) -> None:
        self._run_id = settings.run_id
        self._tag = make_tagger(
            settings.tag, tuple(ray.get(payload_refs)), threads=settings.layout.model_threads
        )

    def __call__(self, block: pa.Table) -> pa.Table:
        with _reported(self._run_id):
            return self._guarded(block)

    def _guarded(self, block: pa.Table) -> pa.Table:
        number = chunk_number(block)
        key = f"tagger:{self._run_id}:{number}".encode()
        # Ray's own key-value store outlives the actor; a chunk that was begun and never ended is
        # one that ended its actor. Retries by Ray need no other bound.
        begun = json.loads(internal_kv._internal_kv_get(key) or "[]")  # noqa: SLF001
        if len(begun) >= _ACTORS_PER_CHUNK:
            # A machine that is gone took its actors along, whatever they were doing.
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            begun = [node for node in begun if node in alive]
        if len(begun) >= _ACTORS_PER_CHUNK:
            raise RunError(
                f"chunk {number} of run {self._run_id} ended {len(begun)} model actors, one after the other; "
                f"its images are listed in runs/{self._run_id}/plan"
            )
        here = ray.get_runtime_context().get_node_id()
        internal_kv._internal_kv_put(key, json.dumps([*begun, here]).encode(), overwrite=True)  # noqa: SLF001
        started = time.time()
        tagged = self._tag(block)
        internal_kv._internal_kv_del(key)  # noqa: SLF001
        return _with_span(tagged, MODEL, started, before=load_spans(bytes_of(block, "spans")))
