"""One attempt at a command, as the job server knows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tagger.cluster.entry import split_attempt

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at a command, as the job server knows it.

    Attributes:
        submission_id: Its id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        base: The id that all attempts at the command share.
        attempt: Number of the attempt, from 1.
        command: The arguments of tagger; None if the job was not made by `tagger submit`.
        entry_point: The shell line that runs.
        exit_code: Of the command; None unless it ended by itself, negative if a signal killed it.
        error_type, message: What Ray says about its end.
        started_s, ended_s: Unix times.
    """

    submission_id: str
    status: str
    base: str
    attempt: int
    command: tuple[str, ...] | None
    entry_point: str
    exit_code: int | None = None
    error_type: str | None = None
    message: str | None = None
    started_s: float | None = None
    ended_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status in _ENDED

    @classmethod
    def of(cls, details: Any) -> Job:
        """Return a job from Ray's JobDetails, without its variables: those may be secret."""
        submission_id = details.submission_id or details.job_id
        metadata = details.metadata or {}
        base, attempt = split_attempt(submission_id)
        command = None
        if "tagger_command" in metadata:
            command = tuple(json.loads(metadata["tagger_command"]))
            base, attempt = metadata["tagger_id"], int(metadata["tagger_attempt"])
        secrets = ((details.runtime_env or {}).get("env_vars") or {}).values()
        return cls(
            submission_id=submission_id,
            status=str(details.status.value),
            base=base,
            attempt=attempt,
            command=command,
            entry_point=details.entrypoint,
            exit_code=details.driver_exit_code,
            error_type=details.error_type,
            message=without(details.message, secrets),
            started_s=details.start_time / 1000 if details.start_time else None,
            ended_s=details.end_time / 1000 if details.end_time else None,
        )


def without(text: str | None, secrets: Iterable[str]) -> str | None:
    """Return a text with every secret in it made unreadable.

    >>> without("no such key: hunter2", ["hunter2", ""])
    'no such key: ***'
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text and text.replace(secret, "***")
    return text
