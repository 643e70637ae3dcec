"""Which end of a job is worth another attempt, and after how long."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tagger.cluster.job import Job

FIRST_PAUSE_S: Final = 25.0
"""Longer than the lease of a killed driver lives (tagger.collection.lease.TTL_S): then the next may write."""

_LONGEST_PAUSE_S: Final = 300.0
_INTERRUPTED: Final = 130
_FINAL: Final = frozenset({0, 2, 3, _INTERRUPTED})
_SHELL_SIGNAL: Final = 128  # a shell tells of a killed program as 128 + the signal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be thought of the end of an attempt.

    Attributes:
        again: `no` it is final, `once` another attempt is worth it if none failed like this before, `yes`.
        exit_code: With which code `tagger submit` ends if this was the last attempt.
        why: What happened, to follow «job X».
    """

    again: Literal["no", "once", "yes"]
    exit_code: int
    why: str


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failed attempts: what failed may need time to come back.

    >>> [pause_s(n) for n in (1, 2, 3, 9)]
    [25.0, 50.0, 100.0, 300.0]
    """
    return float(min(FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S))


def judge(job: Job | None, last_lines: Sequence[str]) -> Verdict:
    """Judge an attempt that is over.

    Args:
        job: What the job server says of it; None if it no longer knows it.
        last_lines: The end of its log.
    """
    if job is None:
        return Verdict("yes", 1, "is no longer known: the cluster was started anew")
    if job.status == "SUCCEEDED":
        return Verdict("no", 0, "is done")
    if job.status == "STOPPED":
        return Verdict("no", _INTERRUPTED, "was stopped; the same command goes on from there")
    code = job.exit_code
    if code is None:
        return _without_code(job)
    number = -code if code < 0 else code - _SHELL_SIGNAL
    if code not in _FINAL and number > 0:
        return Verdict("yes", 1, f"was killed by {_signal_name(number)}")
    said = told(last_lines)
    if code == 1:
        return _failed(said, last_lines)
    reason = f": {said}" if said else ""
    if code in (126, 127):
        reason = ": there is no `python` on the cluster's PATH"
    return Verdict("no", code, f"ended with exit code {code}{reason}")


def told(lines: Sequence[str]) -> str | None:
    """Return the sentence with which a tagger command ended that failed on purpose, if the log has one."""
    for line in reversed(lines):
        if line.startswith("tagger: "):
            return line.removeprefix("tagger: ").strip()
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                error = json.loads(line).get("error")
                if isinstance(error, str):
                    return error
    return None


def _failed(said: str | None, lines: Sequence[str]) -> Verdict:
    if said:
        return Verdict("yes", 1, f"failed: {said}")
    text = "\n".join(lines)
    if "No module named tagger" in text:
        return Verdict("no", 1, "found no tagger on the cluster: install it there, or give --working-dir")
    if "Traceback (most recent call last)" in text:
        last = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
        return Verdict("once", 1, f"failed with a traceback, which looks like a bug: {last[:200]}")
    return Verdict("once", 1, "ended with exit code 1 and gave no reason")


def _without_code(job: Job) -> Verdict:
    """Judge a job whose command never ended by itself: what ran it died, or it never began."""
    reason = (job.message or job.error_type or "no reason given").strip().partition("\n")[0][:300]
    if job.error_type in ("RUNTIME_ENV_SETUP_FAILURE", "JOB_ENTRYPOINT_COMMAND_START_ERROR"):
        return Verdict("once", 1, f"could not be started: {reason}")
    return Verdict("yes", 1, f"was lost by the cluster: {reason}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
