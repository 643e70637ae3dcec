"""The log of a job, line by line while the job runs, over a connection that may break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from tagger.errors import ClusterUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tagger.cluster.client import JobClient
    from tagger.cluster.job import Job

PATIENCE_S: Final = 600.0
"""How long a job server may be away while a job runs. A head node needs minutes to come back."""

_LOOK_S: Final = 15.0  # a silent connection may be a dead one
_LONGEST_PAUSE_S: Final = 30.0
_KEPT_LINES: Final = 60
_LONGEST_LINE: Final = 1_000_000

_Answer = TypeVar("_Answer")


class Log:
    """What a job has printed, cut into lines; a part that comes a second time is left out.

    Args:
        show: Gets every line once, without its end.

    Attributes:
        last_lines: The last lines, for who wants to know how it ended.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._seen = 0
        self._repeated = 0
        self._rest = ""
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def rewind(self) -> None:
        """Expect the log from its first character on."""
        self._repeated = self._seen

    def add(self, text: str) -> None:
        """Take in what comes next."""
        known = min(self._repeated, len(text))
        self._repeated -= known
        text = text[known:]
        self._seen += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)
        if len(self._rest) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """Take what is left for a line."""
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        self.last_lines.append(line)
        self._show(line)


def follow(client: JobClient, submission_id: str, log: Log, say: Callable[[str], None]) -> Job | None:
    """Show what a job prints until it has ended.

    Args:
        client: The cluster.
        submission_id: The job.
        log: Gets the log, from its beginning.
        say: Tells of broken connections.

    Returns:
        The job as it ended; None if the job server no longer knows it, as after a restart of the cluster.

    Raises:
        ClusterUnavailable: The job server was away for `PATIENCE_S`.
    """
    pauses = 0
    while True:
        log.rewind()
        broken = asyncio.run(_tail(client, submission_id, log))
        job = patiently(lambda: client.find(submission_id), say)
        if job is None or job.ended:
            if job is not None and broken:
                log.rewind()
                with contextlib.suppress(ClusterUnavailable):
                    log.add(patiently(lambda: client.logs(submission_id), say))
            log.end()
            return job
        pauses = pauses + 1 if broken else 0
        time.sleep(min(2.0**pauses, _LONGEST_PAUSE_S) if broken else 1.0)


def patiently(ask: Callable[[], _Answer], say: Callable[[str], None]) -> _Answer:
    """Ask the job server, again and again while it does not answer.

    Raises:
        ClusterUnavailable: It has not answered for `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    pause = 2.0
    while True:
        try:
            return ask()
        except ClusterUnavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            if pause == 2.0:
                say(f"{error}; the job may go on meanwhile, trying again")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _tail(client: JobClient, submission_id: str, log: Log) -> bool:
    """Take the log from one connection until that ends; tells whether it broke."""
    import aiohttp

    stream = client.tail(submission_id)
    silent = False
    while True:
        step = asyncio.ensure_future(anext(stream, None))
        try:
            while not (await asyncio.wait({step}, timeout=_LOOK_S))[0]:
                # Nothing comes: either the job has nothing to say, or nobody is there any more.
                over = _is_over(client, submission_id)
                if over and silent:
                    return True
                silent = over
            text = step.result()
        except (aiohttp.ClientError, OSError, RuntimeError):
            return True
        finally:
            await _dropped(step, stream)
        if text is None:
            return False
        log.add(text)
        silent = False


def _is_over(client: JobClient, submission_id: str) -> bool:
    """Tell whether there is nothing to wait for: the job has ended, or its server is away."""
    try:
        job = client.find(submission_id)
    except ClusterUnavailable:
        return True
    return job is None or job.ended


async def _dropped(step: asyncio.Future[str | None], stream: AsyncIterator[str]) -> None:
    """End a step that is not wanted any more, and the connection with it."""
    if step.done():
        return
    step.cancel()
    with contextlib.suppress(BaseException):
        await step
    close = getattr(stream, "aclose", None)
    if close is not None:
        with contextlib.suppress(Exception):
            await close()
