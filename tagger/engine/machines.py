"""What a cluster is made of: its machines by shape, those that are there and those it may still start."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HEAD: Final = "node:__internal_head__"

_LOCATE_MS: Final = 2000
_LOOK_S: Final = 2.0

UNBOUNDED: Final = 64
"""Machines of a group that may grow without a bound: a pool needs one, and only what is used is started."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Machines of one shape.

    Attributes:
        cpus: Logical CPUs of each.
        gpus: GPUs of each.
        now: How many are there.
        most: How many there may be, at least `now`: the cluster's autoscaler starts the others when asked.
    """

    cpus: int
    gpus: int
    now: int
    most: int


def see_machines() -> list[Machines]:
    """Return the machines of the connected cluster that can do work, and those that it may start."""
    import ray
    from ray._private.state import state

    config: Any = state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    return machines_of(ray.nodes(), [(dict(group.resources), group.max_count) for group in groups])


def machines_of(
    nodes: Iterable[Mapping[str, Any]], groups: Iterable[tuple[Mapping[str, float], int]]
) -> list[Machines]:
    """Put nodes and the groups of an autoscaler together by shape; a head without CPUs works for nobody.

    Args:
        nodes: As `ray.nodes()` gives them.
        groups: Resources of a node and the most nodes of each group; -1 is without a bound.

    >>> node = {"Alive": True, "Resources": {"CPU": 4.0}}
    >>> machines_of([node, node], [({"CPU": 4}, 8), ({"CPU": 4, "GPU": 1}, 2)])
    [Machines(cpus=4, gpus=0, now=2, most=8), Machines(cpus=4, gpus=1, now=0, most=2)]
    """
    now: Counter[tuple[int, int]] = Counter()
    heads: Counter[tuple[int, int]] = Counter()
    for node in nodes:
        if node["Alive"]:
            shape = _shape(node["Resources"])
            now[shape] += 1
            heads[shape] += _HEAD in node["Resources"]
    most: Counter[tuple[int, int]] = Counter()
    for resources, count in groups:
        shape = _shape(resources)
        # A group of one machine like the head is the head: it is there, and no second one comes.
        if not (count == 1 and heads[shape]):
            most[shape] += UNBOUNDED if count < 0 else count
    shapes = sorted({*now, *most})
    return [
        Machines(*shape, now=now[shape], most=max(now[shape], most[shape]))
        for shape in shapes
        if shape != (0, 0) and max(now[shape], most[shape])
    ]


def name_machines() -> dict[str, str]:
    """Return what to call every machine that the connected cluster has or had, by its id."""
    import ray

    names = {}
    for node in ray.nodes():
        has = ((kind, node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        counts = (f"{count:g} {kind}{'s' if count > 1 else ''}" for kind, count in has if count)
        parts = [node["NodeManagerAddress"], *counts]
        names[node["NodeID"]] = ", ".join(parts if node["Alive"] else [*parts, "gone"])
    return names


def beside_most_of(refs: list[Any]) -> dict[str, Any]:
    """Return arguments for a task that run it where most bytes of these objects lie already.

    Ray by itself would only look at objects that are arguments of their own; and what asks for no CPU it may
    put on a head that is to do no work.

    Args:
        refs: References to objects.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.experimental import get_object_locations
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    sizes: Counter[str] = Counter()
    with contextlib.suppress(GetTimeoutError):
        for found in get_object_locations(refs, timeout_ms=_LOCATE_MS).values():
            for node in found["node_ids"]:
                sizes[node] += found.get("object_size") or 1
    if sizes:
        (node, _), *_ = sizes.most_common(1)
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
    return _off(one["NodeID"] for one in ray.nodes() if _shape(one["Resources"]) == (0, 0))


def _off(nodes: Iterable[str]) -> dict[str, Any]:
    ids = ",".join(sorted(nodes))
    return {"label_selector": {"ray.io/node-id": f"!in({ids})"}} if ids else {}


class OffGpus:
    """Tells Ray, task by task, to keep off the machines that have GPUs at that time.

    By itself Ray only prefers others, and what it put there would be in the way of the CNN.
    """

    def __init__(self) -> None:
        self._looked = float("-inf")
        self._where: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """Return arguments for a task."""
        import ray

        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            self._looked = now
            alive = (one for one in ray.nodes() if one["Alive"])
            self._where = _off(one["NodeID"] for one in alive if _shape(one["Resources"])[1])
        return self._where


def _shape(resources: Mapping[str, float]) -> tuple[int, int]:
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
