"""How many fetch tasks, model actors and threads a cluster gets, and how much may be in flight."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tagger.engine.machines import Machines
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
        fetch_tasks: Most fetch + decode tasks that run at once, with every machine that the cluster may have.
        fetch_cpus: Logical CPUs of each.
        model_actors: Most actors that hold the CNN, likewise.
        model_cpus: Logical CPUs of each.
        model_gpus: GPUs of each; 0 runs the CNN on CPUs.
        model_threads: Threads the CNN may use in each actor.
        chunk_rows: Images in a full chunk.
        first_actors: Actors that fit on the machines that are there now; the pool starts with them.
        apart: Whether decoding keeps off the machines with GPUs.
    """

    fetch_tasks: int
    fetch_cpus: float
    model_actors: int
    model_cpus: float
    model_gpus: float
    model_threads: int
    chunk_rows: int
    first_actors: int
    apart: bool = False

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
    machines: Sequence[Machines],
    *,
    on_gpus: bool = True,
    gpus_per_actor: float | None = None,
    fetch_tasks: int | None = None,
    model_actors: int | None = None,
    model_threads: int | None = None,
    chunk_rows: int | None = None,
) -> Layout:
    """Divide a cluster between decoding and the CNN.

    Without GPUs the CNN takes some three quarters of the time; the operating system shares the cores between
    the stages, the logical shares only keep the schedule free of deadlocks. With GPUs the CNN has the
    machines with GPUs and decoding has those without; where all have GPUs, every CPU that does not feed one
    decodes.

    Args:
        machines: Those of the cluster; at least one CPU among them.
        on_gpus: Whether the CNN uses the GPUs, if there are any.
        gpus_per_actor: GPUs of one model actor: a part of one, so that several share it, or whole ones.
        fetch_tasks: Overrides the number of fetch tasks.
        model_actors: Overrides the number of model actors.
        model_threads: Overrides the threads of one model actor.
        chunk_rows: Overrides the images of a full chunk.

    Raises:
        UsageError: An override is out of its bounds, or no machine has so many GPUs.

    >>> laptop = [Machines(cpus=2, gpus=0, now=1, most=1)]
    >>> choose_layout(laptop)
    Layout(fetch_tasks=2, fetch_cpus=0.5, model_actors=1, model_cpus=1.0, model_gpus=0, model_threads=2, \
chunk_rows=256, first_actors=1, apart=False)
    >>> growing = [Machines(cpus=16, gpus=0, now=0, most=4), Machines(cpus=4, gpus=1, now=0, most=2)]
    >>> layout = choose_layout(growing)
    >>> layout.fetch_tasks, layout.fetch_cpus, layout.model_actors, layout.model_cpus, layout.first_actors
    (64, 1.0, 2, 1.0, 1)
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
    cpus = sum(one.cpus * one.most for one in machines)
    with_gpus = [one for one in machines if one.gpus] if on_gpus else []
    if gpus_per_actor is not None and not with_gpus:
        raise UsageError("--gpus-per-actor needs GPUs, and the cluster has none: leave it out")
    if with_gpus:
        layout = _on_gpus(machines, with_gpus, model_actors, gpus_per_actor)
        layout = replace(layout, model_threads=model_threads or 1, chunk_rows=chunk_rows or layout.chunk_rows)
    else:
        layout = _on_cpus(machines, model_actors, model_threads, chunk_rows)
    gpus = sum(one.gpus * one.most for one in with_gpus)
    if layout.model_actors * layout.model_gpus > gpus + 1e-6:
        raise UsageError(
            f"{layout.model_actors} model actors of {layout.model_gpus:g} GPUs are more than the cluster's "
            f"{gpus} GPUs: lower --model-actors or --gpus-per-actor"
        )
    if fetch_tasks is not None:
        room = cpus - layout.model_actors * layout.model_cpus
        layout = replace(
            layout, fetch_tasks=fetch_tasks, fetch_cpus=min(layout.fetch_cpus, room / fetch_tasks)
        )
    layout = replace(layout, fetch_cpus=_fine(layout.fetch_cpus), model_cpus=_fine(layout.model_cpus))
    if layout.fetch_cpus <= 0 or (layout.model_cpus <= 0 and not layout.model_gpus):
        raise UsageError(
            f"{layout.fetch_tasks} fetch tasks and {layout.model_actors} model actors are too many for "
            f"{cpus} CPUs: lower --fetch-tasks or --model-actors"
        )
    return layout


def _fine(share: float) -> float:
    """Round a share down to what Ray counts with.

    >>> _fine(1 / 3), _fine(2.0)
    (0.3333, 2.0)
    """
    return int(share * 10_000 + 1e-6) / 10_000


def _on_gpus(
    machines: Sequence[Machines],
    with_gpus: list[Machines],
    model_actors: int | None,
    gpus_per_actor: float | None,
) -> Layout:
    """Divide a cluster with GPUs."""
    if gpus_per_actor is None:  # more actors than GPUs share them
        gpus = sum(one.gpus * one.most for one in with_gpus)
        gpus_per_actor = 1 / math.ceil((model_actors or gpus) / gpus)
    on_each = {one: _fitting(one.gpus, gpus_per_actor) for one in with_gpus}
    if not any(on_each.values()):
        most = max(one.gpus for one in with_gpus)
        raise UsageError(f"--gpus-per-actor is {gpus_per_actor:g}, and no machine has more than {most} GPUs")
    usable = [one for one in with_gpus if on_each[one]]
    actors = sum(on_each[one] * one.most for one in usable)
    first = sum(on_each[one] * one.now for one in usable)
    decoding = sum(one.cpus * one.most for one in machines if not one.gpus)
    apart = decoding > 0
    # One CPU feeds a GPU, however many actors share it; at most half of them where decoding needs some, too.
    model_cpus = min(
        min(one.gpus, one.cpus if apart or one.cpus > one.gpus else 0.5 * one.cpus) / on_each[one]
        for one in usable
    )
    if model_actors is not None:
        actors, first = model_actors, min(first, model_actors)
    left = sum(one.cpus * one.most for one in machines) - actors * model_cpus
    if not apart:
        decoding = max(1, int(left))
    return Layout(
        fetch_tasks=decoding,
        fetch_cpus=min(1.0, max(left, 0.5) / decoding),
        model_actors=actors,
        model_cpus=model_cpus,
        model_gpus=gpus_per_actor,
        model_threads=1,
        chunk_rows=MAX_CHUNK_ROWS,
        first_actors=max(1, first),
        apart=apart,
    )


def _on_cpus(
    machines: Sequence[Machines],
    model_actors: int | None,
    model_threads: int | None,
    chunk_rows: int | None,
) -> Layout:
    """Divide a cluster where CPUs do everything."""
    cpus = max(1, sum(one.cpus * one.most for one in machines))
    largest = max([1, *(one.cpus for one in machines)])
    threads = model_threads or min(largest, _MODEL_THREADS)
    actors = model_actors or max(1, sum(one.cpus // threads * one.most for one in machines))
    first = max(1, sum(one.cpus // threads * one.now for one in machines))
    return Layout(
        fetch_tasks=1 if cpus == 1 else max(2, cpus // 2),
        fetch_cpus=0.5,
        model_actors=actors,
        # More than half of a node would leave a restarted actor waiting for a node that is all free.
        model_cpus=0.5 * min(cpus / actors, largest),
        model_gpus=0,
        model_threads=threads,
        chunk_rows=chunk_rows or (256 if cpus <= 4 else MAX_CHUNK_ROWS),
        first_actors=min(first, actors),
    )


def _fitting(gpus: int, each: float) -> int:
    """Return how many actors fit on the GPUs of a machine; one never has parts of two.

    >>> _fitting(1, 0.25), _fitting(4, 0.4), _fitting(4, 2), _fitting(1, 2)
    (4, 8, 2, 0)
    """
    return gpus * int(1 / each + 1e-9) if each <= 1 else int(gpus // each)
