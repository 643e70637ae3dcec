"""How many fetch tasks, model actors and threads a cluster gets, and how much may be in flight."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tagger.errors import UsageError
from tagger.settings import memory_bytes

MAX_CHUNK_ROWS = 512
"""Most images in one chunk: what a killed worker may have to do again."""

_MODEL_THREADS = 4
"""Threads of one CPU model actor. More actors of few threads scale better than one of many, and
each holds only some 20 MB of weights; four keep the number of processes small on large machines."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Resources of every stage, chosen so that their sum never exceeds the cluster.

    Actor pools hold their CPUs for ever, so a stage that no longer finds its share waits without a
    word. Here reading the plan and writing parts ask for no logical CPU at all, and fetch tasks and
    model actors together ask for at most what there is.

    Attributes:
        fetch_tasks: Fetch + decode tasks that run at once.
        fetch_cpus: Logical CPUs of each.
        model_actors: Actors that hold the CNN.
        model_cpus: Logical CPUs of each.
        model_gpus: GPUs of each; 0 runs the CNN on CPUs.
        model_threads: Threads the CNN may use in each actor.
        chunk_rows: Images in a full chunk.
    """

    fetch_tasks: int
    fetch_cpus: float
    model_actors: int
    model_cpus: float
    model_gpus: float
    model_threads: int
    chunk_rows: int

    @property
    def cpus(self) -> float:
        """Logical CPUs that all stages hold together."""
        return self.fetch_tasks * self.fetch_cpus + self.model_actors * self.model_cpus


def object_store_bytes(cpus: int) -> int:
    """Return how much shared memory a cluster of our own gets for blocks in flight.

    A full chunk of pixels is 77 MB; a fetch task and a model actor hold about three each. Not more than
    a third of the machine's memory or four fifths of its shared memory.
    """
    shared = os.statvfs("/dev/shm")  # noqa: S108 - where Ray keeps its objects
    free = shared.f_bavail * shared.f_frsize
    return max(128 << 20, min(cpus * (384 << 20) + (512 << 20), memory_bytes() // 3, int(free * 0.8)))


def choose_layout(
    cpus: int,
    gpus: int,
    *,
    node_cpus: Sequence[int] = (),
    fetch_tasks: int | None = None,
    model_actors: int | None = None,
    model_threads: int | None = None,
    chunk_rows: int | None = None,
) -> Layout:
    """Divide a cluster between decoding and the CNN.

    On CPUs the CNN takes some three quarters of the time; the operating system shares the cores
    between the stages, the logical shares only keep the schedule free of deadlocks. With GPUs every
    CPU that does not feed a GPU fetches and decodes.

    Args:
        cpus: CPUs of the cluster, at least 1.
        gpus: GPUs of the cluster.
        node_cpus: CPUs of each of its nodes; by default it is a single one. An actor must fit on a node.
        fetch_tasks: Overrides the number of fetch tasks.
        model_actors: Overrides the number of model actors.
        model_threads: Overrides the threads of one model actor.
        chunk_rows: Overrides the images of a full chunk.

    Raises:
        UsageError: An override is below 1, or the chunk is larger than 512.

    >>> choose_layout(2, 0)
    Layout(fetch_tasks=2, fetch_cpus=0.5, model_actors=1, model_cpus=1.0, model_gpus=0, model_threads=2, \
chunk_rows=256)
    >>> three = choose_layout(6, 0, node_cpus=[2, 2, 2])
    >>> three.model_actors, three.model_cpus, three.model_threads
    (3, 1.0, 2)
    >>> choose_layout(1, 0).cpus, choose_layout(64, 0).cpus, choose_layout(16, 1).cpus
    (1.0, 48.0, 16.0)
    """
    for name, value in (
        ("fetch-tasks", fetch_tasks),
        ("model-actors", model_actors),
        ("model-threads", model_threads),
        ("chunk-rows", chunk_rows),
    ):
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if chunk_rows is not None and chunk_rows > MAX_CHUNK_ROWS:
        raise UsageError(f"--chunk-rows must be at most {MAX_CHUNK_ROWS}, got {chunk_rows}")
    if gpus:
        actors = model_actors or gpus
        layout = Layout(
            fetch_tasks=max(1, cpus - gpus),
            fetch_cpus=1.0 if cpus > gpus else 0.5 * cpus,
            model_actors=actors,
            model_cpus=1.0 * gpus / actors if cpus > gpus else 0.5 * cpus / actors,
            model_gpus=gpus / actors if actors > gpus else 1,
            model_threads=model_threads or 1,
            chunk_rows=chunk_rows or MAX_CHUNK_ROWS,
        )
    else:
        nodes = node_cpus or [cpus]
        threads = model_threads or min(max(*nodes, 1), _MODEL_THREADS)
        actors = model_actors or max(1, sum(of_node // threads for of_node in nodes))
        layout = Layout(
            fetch_tasks=1 if cpus == 1 else max(2, cpus // 2),
            fetch_cpus=0.5,
            model_actors=actors,
            # More than half of a node would leave a restarted actor waiting for a node that is all free.
            model_cpus=0.5 * min(cpus / actors, max(*nodes, 1)),
            model_gpus=0,
            model_threads=threads,
            chunk_rows=chunk_rows or (256 if cpus <= 4 else MAX_CHUNK_ROWS),
        )
    if fetch_tasks is not None:
        room = cpus - layout.model_actors * layout.model_cpus
        layout = replace(
            layout, fetch_tasks=fetch_tasks, fetch_cpus=min(layout.fetch_cpus, room / fetch_tasks)
        )
    return layout
