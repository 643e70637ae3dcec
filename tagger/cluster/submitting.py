"""A tagger command as a job: submitted once, followed to its end, tried again where that helps."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tagger.cluster.client import AlreadyThere
from tagger.cluster.entry import attempt_id, entry_point
from tagger.cluster.following import Log, follow, patiently
from tagger.cluster.job import Job, without
from tagger.cluster.rule import Verdict, judge, pause_s
from tagger.errors import StillRunning, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tagger.cluster.client import JobClient

_Answer = TypeVar("_Answer")

_RACES: Final = 20  # as many others may submit the same id at the same moment


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to run on the cluster.

    Attributes:
        base: Id of the job; its attempts are called base, base.2, base.3 …
        command: The arguments of tagger.
        working_dir: Folder that is uploaded, and in which the command runs.
        env: Variables of the job; values are never shown.
    """

    base: str
    command: tuple[str, ...]
    working_dir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, or how it stands if nobody waits.

    Attributes:
        submission_id, status: Of the last attempt.
        attempts: Its number.
        exit_code: That of the command, as `tagger submit` passes it on; None if nobody waits.
        seconds: From the beginning of the submission.
        result: The object that the command printed for --json; None if it was not asked to.
        last_line: What the command printed last.
        error: Why it failed; None if it did not.
    """

    submission_id: str
    status: str
    attempts: int
    exit_code: int | None
    seconds: float
    result: dict[str, Any] | None = None
    last_line: str | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        record = {
            "submission_id": self.submission_id,
            "status": self.status,
            "attempts": self.attempts,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "result": self.result,
        }
        return record if self.error is None else {**record, "error": self.error}


class Submission:
    """Runs a wish on a cluster.

    Args:
        client: The cluster.
        wish: What is to run.
        retries: Most attempts after the first of this submission.
        say: Tells what happens, a line at a time.
        show: Gets every line that the job prints.
        pause: How long to wait after so many failures, in seconds.
    """

    def __init__(
        self,
        client: JobClient,
        wish: Wish,
        *,
        retries: int,
        say: Callable[[str], None],
        show: Callable[[str], None],
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        self._client = client
        self._wish = wish
        self._entry_point = entry_point(wish.command)
        self._retries = retries
        self._say = say
        self._show = show
        self._pause = pause
        self._started = time.monotonic()
        self._current: str | None = None  # the attempt that runs

    def start(self) -> Ended:
        """Submit the command unless it runs or has run already, and return without waiting.

        Raises:
            UsageError: The id belongs to another command, or the folder cannot be uploaded.
            ClusterUnavailable: Nobody answers.
        """
        job = self._attach_or_send(after=0)
        return Ended(job.submission_id, job.status, job.attempt, None, time.monotonic() - self._started)

    def run(self) -> Ended:
        """Submit the command unless it runs or has run already, follow it, try again where that helps.

        Raises:
            UsageError: The id belongs to another command, or the folder cannot be uploaded.
            ClusterUnavailable: Nobody answers.
            StillRunning: Somebody pressed Ctrl-C; the job goes on.
        """
        base = self._wish.base
        ended_before = 0
        try:
            for failures in range(1, self._retries + 2):
                job = self._attach_or_send(after=ended_before)
                log = Log(self._show)
                self._current = job.submission_id
                if job.status == "SUCCEEDED":
                    return self._succeeded_before(job)
                last = follow(self._client, job.submission_id, log, self._say)
                self._current = None
                lines = list(log.last_lines)
                verdict = judge(last, lines)
                if (
                    verdict.again == "no"
                    or failures > self._retries
                    or (verdict.again == "once" and failures > 1)
                ):
                    return self._ended(job, last, lines, verdict)
                ended_before = job.attempt
                pause = self._pause(failures)
                self._say(
                    f"job {job.submission_id} {self._clean(verdict.why)}; attempt {ended_before + 1} begins "
                    f"in {pause:.0f} s ({self._retries - failures + 1} left)"
                )
                time.sleep(pause)
        except KeyboardInterrupt:
            if self._current is None:
                if not ended_before:
                    raise
                raise StillRunning(
                    f"interrupted while no attempt was running; the same command with --id {base} goes on"
                ) from None
            raise StillRunning(
                f"the job {self._current} goes on; to follow it: `tagger jobs logs --follow "
                f"{self._current}`, to stop it: `tagger jobs stop {self._current}`"
            ) from None
        raise AssertionError("the last attempt returns")

    def _attach_or_send(self, *, after: int) -> Job:
        """Return the attempt to follow: one that is there already, or a new one.

        Args:
            after: The last attempt that is known to have failed; 0 if none is.
        """
        for _ in range(_RACES):
            job = self._ask(partial(self._client.newest, self._wish.base), patient=after > 0)
            if job is not None and job.attempt > after:
                self._require_same_command(job)
                if not job.ended:
                    self._say(f"job {job.submission_id} is {job.status.lower()} already: following it")
                    return job
                if job.status == "SUCCEEDED":
                    return job
                self._say(
                    f"job {job.submission_id} has ended with {job.status} before: it is submitted again"
                )
                after = job.attempt
            attempt = max(after, job.attempt if job else 0) + 1
            try:
                return self._ask(partial(self._send, attempt), patient=after > 0)
            except AlreadyThere:
                continue  # somebody else submitted it a moment ago: look again
        raise UsageError(f"job {self._wish.base} cannot be submitted: too many others submit it as well")

    def _ask(self, ask: Callable[[], _Answer], *, patient: bool) -> _Answer:
        """Ask at once before the first attempt, when a person waits to hear of a slip; later patiently."""
        return patiently(ask, self._say) if patient else ask()

    def _send(self, attempt: int) -> Job:
        wish = self._wish
        submission_id = attempt_id(wish.base, attempt)
        self._client.submit(
            submission_id,
            self._entry_point,
            metadata={
                "tagger_id": wish.base,
                "tagger_attempt": str(attempt),
                "tagger_command": json.dumps(wish.command),
            },
            working_dir=wish.working_dir,
            env=wish.env,
        )
        self._say(f"job {submission_id} is submitted to {self._client.address}")
        return Job(submission_id, "PENDING", wish.base, attempt, wish.command, self._entry_point)

    def _require_same_command(self, job: Job) -> None:
        if job.command != self._wish.command:
            theirs = "tagger " + shlex.join(job.command) if job.command is not None else job.entry_point
            raise UsageError(
                f"--id {self._wish.base} belongs to another command ({theirs[:300]}): choose another id"
            )

    def _succeeded_before(self, job: Job) -> Ended:
        self._say(f"job {job.submission_id} has succeeded already: nothing runs again")
        log = Log(lambda _: None)
        log.add(self._client.logs(job.submission_id))
        log.end()
        return self._ended(job, job, list(log.last_lines), judge(job, ()))

    def _ended(self, job: Job, last: Job | None, lines: list[str], verdict: Verdict) -> Ended:
        line = next((line for line in reversed(lines) if line.strip()), None)
        return Ended(
            job.submission_id,
            last.status if last is not None else "FAILED",
            job.attempt,
            verdict.exit_code,
            time.monotonic() - self._started,
            _object(line) if "--json" in self._wish.command else None,
            line,
            None if verdict.exit_code == 0 else f"job {job.submission_id} {self._clean(verdict.why)}",
        )

    def _clean(self, text: str) -> str:
        return without(text, self._wish.env.values()) or ""


def _object(line: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(line or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
