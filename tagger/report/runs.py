"""What the report tells about runs, from the records in the collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tagger.report.timeline import Lanes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run as its run.json tells it; a missing or odd field becomes its default, never an error.

    Attributes:
        run_id: Name of the run.
        command: What the operator started.
        state: `done`, `failed`, `interrupted` or `running`.
        started: When, as `YYYY-MM-DD HH:MM:SS` UTC.
        ended: When, likewise, or empty.
        planned: Images it planned.
        tagged: Of these, tagged.
        failed: Of these, failed.
        seconds: Wall time, start-up included; None where the record does not tell.
        images_per_s: Likewise.
        stage_seconds: Time by stage, added up over all workers.
        timeline: When which machine worked at which stage.
        settings: As resolved when the run started.
        versions: Versions of tagger and what it computes with.
    """

    run_id: str
    command: str = ""
    state: str = "running"
    started: str = ""
    ended: str = ""
    planned: int = 0
    tagged: int = 0
    failed: int = 0
    seconds: float | None = None
    images_per_s: float | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    timeline: Lanes = field(default_factory=Lanes)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RunFacts:
        """Read a record."""
        result, settings = _mapping(record.get("result")), _mapping(record.get("settings"))
        stages = _mapping(result.get("stage_seconds"))
        return cls(
            run_id=str(record.get("run_id", "")),
            command=str(settings.get("command") or record.get("command") or ""),
            state=str(record.get("state", "running")),
            started=_moment(record.get("started_at")),
            ended=_moment(record.get("ended_at")),
            planned=int(_number(result.get("planned")) or 0),
            tagged=int(_number(result.get("tagged")) or 0),
            failed=int(_number(result.get("failed")) or 0),
            seconds=_number(result.get("seconds")),
            images_per_s=_number(result.get("images_per_s")),
            stage_seconds={
                str(k): v for k, v in ((k, _number(v)) for k, v in stages.items()) if v is not None
            },
            timeline=Lanes.of(result.get("timeline")),
            settings=settings,
            versions={str(k): str(v) for k, v in _mapping(record.get("versions")).items()},
        )


@dataclass(frozen=True, slots=True)
class History:
    """The runs of a collection.

    Attributes:
        runs: Newest first.
    """

    runs: tuple[RunFacts, ...]

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> History:
        """Read records, in any order."""
        newest = sorted(records, key=_when, reverse=True)
        return cls(tuple(RunFacts.of(record) for record in newest))

    @property
    def newest(self) -> RunFacts | None:
        """The newest run that finished; without one the newest of all."""
        return next((run for run in self.runs if run.state == "done"), self.runs[0] if self.runs else None)

    @property
    def timed(self) -> RunFacts | None:
        """The newest finished run that had images to do: its speed means something."""
        return next((run for run in self.runs if run.state == "done" and run.planned and run.seconds), None)


def _when(record: Mapping[str, Any]) -> tuple[str, str]:
    """Sort key: the names of runs tell the second only, their records the millisecond."""
    return str(record.get("started_at", "")), str(record.get("run_id", ""))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
    return float(value) if good else None


def _moment(value: Any) -> str:
    """Shorten an ISO time to seconds.

    >>> _moment("2026-11-23T08:14:05.123+00:00"), _moment(None)
    ('2026-11-23 08:14:05', '')
    """
    return value[:19].replace("T", " ") if isinstance(value, str) else ""
