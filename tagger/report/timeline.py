"""When which machine worked at which stage of a run, as strips for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_LANES: Final = 60
_ORDER: Final = ("fetch and decode", "tag", "write")


@dataclass(frozen=True, slots=True)
class Lane:
    """One machine at one stage.

    Attributes:
        stage: Name of the stage.
        machine: What the machine is called.
        heights: Work in each step of time, as a share of the most that any machine did at that stage.
        busy_s: Seconds of work, of all workers on the machine.
        images: Images it finished.
    """

    stage: str
    machine: str
    heights: Sequence[float]
    busy_s: float
    images: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """All machines of a run, stage by stage.

    Attributes:
        lanes: Those that did most come first within a stage.
        steps: How many steps of time there are.
        step_s: Width of one, in seconds.
        left_out: Lanes beyond the first 60.
    """

    lanes: Sequence[Lane] = ()
    steps: int = 0
    step_s: float = 1.0
    left_out: int = 0

    @classmethod
    def of(cls, timeline: Any) -> Lanes:
        """Read the timeline of a run's record; what is missing or odd is left out, never an error."""
        if not isinstance(timeline, dict):
            return cls()
        rows = [row for row in timeline.get("rows") or () if _is_row(row)]
        step = timeline.get("bucket_s")
        names = timeline.get("machines")
        most: dict[str, float] = {}
        for row in rows:
            most[row["stage"]] = max(most.get(row["stage"], 0.0), *row["busy_s"])
        lanes = [_lane(row, most[row["stage"]], names if isinstance(names, dict) else {}) for row in rows]
        lanes.sort(key=lambda lane: (_place(lane.stage), lane.stage, -lane.busy_s, lane.machine))
        return cls(
            lanes=tuple(lanes[:_MOST_LANES]),
            steps=max((len(lane.heights) for lane in lanes), default=0),
            step_s=float(step) if isinstance(step, (int, float)) else 1.0,
            left_out=max(0, len(lanes) - _MOST_LANES),
        )


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("stage"), str)
        and isinstance(row.get("node"), str)
        and bool(row.get("busy_s"))
        and all(isinstance(number, (int, float)) for number in [*row["busy_s"], *(row.get("images") or ())])
    )


def _lane(row: Mapping[str, Any], most: float, names: Mapping[str, str]) -> Lane:
    node = row["node"]
    return Lane(
        stage=row["stage"],
        machine=f"{names.get(node, 'machine')} ({node[-6:]})",
        heights=tuple(max(0.0, busy / most) if most > 0 else 0.0 for busy in row["busy_s"]),
        busy_s=float(sum(row["busy_s"])),
        images=int(sum(row.get("images") or ())),
    )


def _place(stage: str) -> int:
    return _ORDER.index(stage) if stage in _ORDER else len(_ORDER)
