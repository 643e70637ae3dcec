"""The process that decodes: started by `tagger.vision.decoder`, never by hand.

It is where a decoding library may crash, hang or run out of memory. It gets no credentials, cannot write
files, and dies with its parent.
"""

import contextlib
import fcntl
import importlib
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from PIL import Image

from tagger.errors import ImageError
from tagger.scheduling import take_long_turns
from tagger.vision.framing import Framing
from tagger.vision.picture import DecodeLimits, Picture, Pixels
from tagger.vision.wire import (
    JOB,
    READY,
    REPLY,
    ChildConfig,
    encode_error,
    encode_facts,
    pixel_bytes,
    pixel_views,
)

Decode: TypeAlias = Callable[[memoryview, Sequence[Framing], DecodeLimits], Picture]


def die_with_parent(life_fd: int) -> None:
    """Have the kernel kill this process when the other end of a pipe closes.

    It works while C code spins with the interpreter locked, and while the process is stopped.
    PR_SET_PDEATHSIG would not do: it fires when the *thread* that started us ends, and workers start decoders
    from threads.
    """
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        if not os.read(life_fd, 1):  # it closed before we asked
            os._exit(0)


def restrict(limits: DecodeLimits) -> None:
    """Limit what a file that takes over, or bloats, this process can do."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  pathlib is not needed otherwise
        in_use = int(statm.read().split()[0]) * mmap.PAGESIZE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = in_use + limits.memory_bytes
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def load_function(name: str) -> Decode:
    """Import `module:function`."""
    module, _, function = name.partition(":")
    loaded: Decode = getattr(importlib.import_module(module), function)
    return loaded


class Worker:
    """Reads jobs, decodes, writes pixels and replies, until the parent closes the pipe."""

    def __init__(self, config: ChildConfig) -> None:
        self._config = config
        self._decode = load_function(config.decode)
        self._ring = mmap.mmap(-1, 1)
        self._pixels = mmap.mmap(-1, 1)
        self._views: tuple[Pixels, ...] = ()
        self._n = -1

    def run(self) -> None:
        """Serve until the pipe closes."""
        self._reply(0, READY, b"")
        while len(job := os.read(self._config.jobs_fd, JOB.size)) == JOB.size:
            sequence, index, n, offset, length, ring_bytes = JOB.unpack(job)
            self._map(n, ring_bytes)
            file = memoryview(self._ring)[offset : offset + length]
            try:
                picture = self._decode(file, self._config.framings, self._config.limits)
                for view, pixels in zip(self._views, picture.pixels, strict=True):
                    view[index] = pixels
                kind, payload = encode_facts(picture.facts)
            except ImageError as error:
                kind, payload = encode_error(error)
            except MemoryError:
                kind, payload = encode_error(ImageError("crash", "decoding ran out of memory"))
            except Exception as error:
                text = f"the decoder failed: {type(error).__name__}: {error}"
                kind, payload = encode_error(ImageError("crash", text))
            self._reply(sequence, kind, payload)

    def _map(self, n: int, ring_bytes: int) -> None:
        if len(self._ring) != ring_bytes:
            self._ring = mmap.mmap(self._config.ring_fd, ring_bytes)
        if n != self._n:
            size = pixel_bytes(n, self._config.framings)
            if len(self._pixels) < size:
                self._pixels = mmap.mmap(self._config.pixels_fd, size)
            self._views = pixel_views(self._pixels, n, self._config.framings)
            self._n = n

    def _reply(self, sequence: int, kind: int, payload: bytes) -> None:
        reply = REPLY.pack(sequence, kind, len(payload)) + payload
        while reply:
            reply = reply[os.write(self._config.replies_fd, reply) :]


def main(text: str) -> None:
    """Run the child.

    Args:
        text: The JSON of `ChildConfig`.
    """
    config = ChildConfig.from_json(text)
    die_with_parent(config.life_fd)
    # Workers may have blocked or ignored signals, and a child inherits that.
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM, signal.SIGIO):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # decode() checks pixels against the limit of the run; Pillow's own limit is lower and would warn first.
    Image.MAX_IMAGE_PIXELS = None
    worker = Worker(config)
    take_long_turns()
    restrict(config.limits)
    # From here on only libraries would write there, and what they write about a bad file is noise.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    with contextlib.suppress(BrokenPipeError):
        worker.run()


if __name__ == "__main__":
    main(sys.argv[1])
