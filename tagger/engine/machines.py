"""What a cluster is made of: its machines by shape, those that are there and those it may still start."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tagger.errors import RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_GROUP: Final = re.compile(r"(\d+)x(\d+)cpus?(?:\+(\d+)gpus?)?", re.IGNORECASE)
_MOST_MACHINES: Final = 10_000
_LOCATE_MS: Final = 2000
_LOOK_S: Final = 2.0
_ALONE_S: Final = 120.0


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


def see_machines(may_grow_to: str | None) -> list[Machines]:
    """Return the machines of the connected cluster that can do work, and those that it may start.

    Ray tells nobody what its autoscaler may start, so the operator does.

    Args:
        may_grow_to: As for `parse_groups`; None for a cluster that stays as it is.

    Raises:
        UsageError: `may_grow_to` cannot be read.
        RunError: There are no machines.
    """
    import ray

    found = machines_of(ray.nodes(), parse_groups(may_grow_to or ""))
    if not any(one.cpus for one in found):
        raise RunError(
            "the Ray cluster has no machine with CPUs for work: add worker nodes, or tell with --machines "
            "(or TAGGER_MACHINES) what its autoscaler may start, such as 8x16cpu,4x4cpu+1gpu"
        )
    return found


def parse_groups(text: str) -> list[Machines]:
    """Read which machines a cluster may grow to: how many, of how many CPUs and GPUs.

    Args:
        text: Such as `8x16cpu,4x4cpu+1gpu`; may be empty.

    Raises:
        UsageError: It cannot be read.

    >>> parse_groups("8x16cpu, 4x4cpu+1gpu")
    [Machines(cpus=16, gpus=0, now=0, most=8), Machines(cpus=4, gpus=1, now=0, most=4)]
    """
    groups = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _GROUP.fullmatch(part)
        if match is None:
            raise UsageError(
                f"--machines must be like 8x16cpu,4x4cpu+1gpu (how many machines of how many CPUs and GPUs), "
                f"got {part!r}"
            )
        count, cpus, gpus = (int(number or 0) for number in match.groups())
        if not 0 < count <= _MOST_MACHINES or not cpus + gpus:
            raise UsageError(f"--machines must have 1 to {_MOST_MACHINES:,} machines with CPUs, got {part!r}")
        groups.append(Machines(cpus, gpus, now=0, most=count))
    return groups


def machines_of(nodes: Iterable[Mapping[str, Any]], groups: Iterable[Machines]) -> list[Machines]:
    """Put the nodes that are there and the groups that may grow together by shape.

    Args:
        nodes: As `ray.nodes()` gives them; a head without CPUs works for nobody.
        groups: As `parse_groups` gives them.

    >>> node = {"Alive": True, "Resources": {"CPU": 4.0}}
    >>> machines_of([node, node], parse_groups("8x4cpu,2x4cpu+1gpu"))
    [Machines(cpus=4, gpus=0, now=2, most=8), Machines(cpus=4, gpus=1, now=0, most=2)]
    """
    now = Counter(_shape(node["Resources"]) for node in nodes if node["Alive"])
    most: Counter[tuple[int, int]] = Counter()
    for group in groups:
        most[group.cpus, group.gpus] += group.most
    return [
        Machines(*shape, now=now[shape], most=max(now[shape], most[shape]))
        for shape in sorted({*now, *most})
        if shape != (0, 0) and max(now[shape], most[shape])
    ]


def name_machines(before: Mapping[str, str]) -> dict[str, str]:
    """Return what to call every machine that the connected cluster has or had, by its id.

    Args:
        before: What they were called: Ray forgets the resources of a machine that is gone.
    """
    import ray

    names = {}
    for node in ray.nodes():
        has = ((kind, node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        counts = (f"{count:g} {kind}{'s' if count > 1 else ''}" for kind, count in has if count)
        name = ", ".join([node["NodeManagerAddress"], *counts])
        known = name if node["Alive"] else f"{before.get(node['NodeID'], name)}, gone"
        names[node["NodeID"]] = known
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

    By itself Ray only prefers others, and what it put there would be in the way of the CNN. When there have
    been no others for two minutes, because they are lost or do not come, a slow run is better than none.
    """

    def __init__(self) -> None:
        self._looked = float("-inf")
        self._others_at = time.monotonic()
        self._where: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """Return arguments for a task."""
        import ray

        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            self._looked = now
            shapes = {one["NodeID"]: _shape(one["Resources"]) for one in ray.nodes() if one["Alive"]}
            if any(cpus and not gpus for cpus, gpus in shapes.values()):
                self._others_at = now
            alone = now - self._others_at > _ALONE_S
            self._where = {} if alone else _off(node for node, (_, gpus) in shapes.items() if gpus)
        return self._where


def _shape(resources: Mapping[str, float]) -> tuple[int, int]:
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
