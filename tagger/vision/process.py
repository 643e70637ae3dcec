"""One decoder child: started, spoken to, told dead from alive, and ended."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace

from tagger.vision.wire import MAX_REPLY_BYTES, READY, REPLY, ChildConfig

_KEPT_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
    "TMPDIR",
    "OPENBLAS_CORETYPE",  # where it is set, results here must be those of other processes to the last bit
)


def clean_environment() -> dict[str, str]:
    """Return the variables a child gets: no credentials, one thread, and our import path."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # The working directory is spelt out: '' would be looked up anew by the child.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
    return {**kept, **threads, "PYTHONPATH": path}


class ChildDied(Exception):
    """The child ended, or is no longer to be trusted; `how` is a sentence."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Child:
    """A running child process and its pipes.

    Args:
        config: What to tell the child; its pipe ends are filled in here.
    """

    def __init__(self, config: ChildConfig) -> None:
        self.ready = False
        self._talks_nonsense = False
        jobs_fd, self._jobs = os.pipe()
        self._replies, replies_fd = os.pipe()
        life_fd, self._life = os.pipe()
        self._buffer = b""
        self._stderr = open(os.memfd_create("tagger-stderr"), "w+b")  # noqa: PTH123, SIM115  not a path
        theirs = (jobs_fd, replies_fd, life_fd)
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own module
                # -P: a file in the working directory must not stand in for a library
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "tagger.vision.child",
                    replace(config, jobs_fd=jobs_fd, replies_fd=replies_fd, life_fd=life_fd).to_json(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=clean_environment(),
                pass_fds=(*theirs, config.ring_fd, config.pixels_fd),
                start_new_session=True,  # Ctrl-C in a terminal goes to us alone
            )
        except BaseException:
            self._close_pipes()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self._replies, False)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def send(self, job: bytes) -> None:
        """Hand over one job; a dead child is noticed by `receive`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._jobs, job)

    def receive(self, wait_s: float) -> list[tuple[int, int, bytes]]:
        """Return the replies that have come: (sequence number, kind, JSON).

        Args:
            wait_s: How long to wait for the first.

        Raises:
            ChildDied: The child ended, or wrote something it never would.
        """
        if self._talks_nonsense:
            raise ChildDied("the decoder wrote a reply that makes no sense")
        if wait_s > 0 and not self._poll.poll(wait_s * 1000):
            return []
        try:
            data = os.read(self._replies, 65536)
        except BlockingIOError:
            return []
        if not data:
            raise ChildDied(self._how_it_ended())
        return self._split(data)

    def _split(self, data: bytes) -> list[tuple[int, int, bytes]]:
        self._buffer += data
        replies = []
        at = 0
        while len(self._buffer) - at >= REPLY.size:
            sequence, kind, length = REPLY.unpack_from(self._buffer, at)
            if length > MAX_REPLY_BYTES:
                # The replies before it still count: the next call says that it is over.
                self._talks_nonsense = True
                break
            if len(self._buffer) - at < REPLY.size + length:
                break
            payload = self._buffer[at + REPLY.size : at + REPLY.size + length]
            at += REPLY.size + length
            if kind == READY and not self.ready:
                self.ready = True
            else:
                replies.append((sequence, kind, payload))
        self._buffer = self._buffer[at:]
        return replies

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "the decoder closed its pipe"
        if status < 0:
            try:
                return f"the decoder was killed by {signal.Signals(-status).name}"
            except ValueError:
                return f"the decoder was killed by signal {-status}"
        return f"the decoder ended with exit status {status}"

    def last_words(self) -> str:
        """Return the last line the child wrote to stderr while it started."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else "it said nothing"

    def kill(self) -> None:
        """End the child at once and reap it."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def close(self) -> None:
        """End the child; it finishes by itself when it is idle."""
        os.close(self._jobs)
        self._jobs = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self.kill()

    def _close_pipes(self) -> None:
        for fd in (self._jobs, self._replies, self._life):
            if fd >= 0:
                os.close(fd)
        self._jobs = self._replies = self._life = -1
        self._stderr.close()
