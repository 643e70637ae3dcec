"""Decode many images so that a bad file costs one row: a child process does it, and is replaceable."""

import contextlib
import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tagger.errors import ImageError
from tagger.vision.framing import Framing
from tagger.vision.picture import DecodeLimits, Facts, Pixels
from tagger.vision.process import Child, ChildDied
from tagger.vision.ring import Ring
from tagger.vision.wire import JOB, ChildConfig, parse_reply, pixel_bytes, pixel_views

TO_SHOW: Final = "tagger.vision.decode:decode_to_show"
"""For who wants pixels alone: see there."""

_RING_BYTES: Final = 16 * 1024**2
_MAX_IN_FLIGHT: Final = 64
_LOOK_S: Final = 0.25
_NAP_S: Final = 0.02
_START_S: Final = 120.0
_MAX_STARTS: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class DecodedChunk:
    """What became of a chunk of images.

    Attributes:
        pixels: One array (n, S, S, 3) uint8 per framing, a view on shared memory that the next `run` writes
            over. Rows of images that failed or never arrived are zero.
        facts: Per image its facts, the reason it failed, or None where it never arrived.
    """

    pixels: tuple[Pixels, ...]
    facts: list[Facts | ImageError | None]


@dataclass(slots=True)
class _Job:
    sequence: int
    index: int
    offset: int
    length: int
    deaths: int = 0


class Decoder:
    """Decodes chunk after chunk in one long-lived child process.

    The parent knows which image the child has in hand. If the child dies, that image is tried once more in a
    new child, because memory spoilt by an earlier image, or a kill from outside, must not condemn it; if it
    dies again the image is `crash`. If an image takes longer than `limits.timeout_s` the child is killed and
    the image is `timeout`. All other images of the chunk are decoded as if nothing had happened.

    Files go to the child through a ring of shared memory and pixels come back through shared memory; both are
    anonymous, so nothing is left behind however the processes end. Use one decoder per thread. Linux only.

    Args:
        framings: At least one; what the models want to see.
        limits: What one image may cost.
        decode: `module:function` that the child calls; tests name faulty ones here.
        on_image: Called whenever the child is done with an image; must be quick.
    """

    def __init__(
        self,
        framings: Sequence[Framing],
        limits: DecodeLimits,
        *,
        decode: str = "tagger.vision.decode:decode",
        on_image: Callable[[], None] = lambda: None,
    ) -> None:
        if not framings:
            raise ValueError("framings must name at least one framing")
        self._framings = tuple(framings)
        self._on_image = on_image
        self._limits = limits
        self._ring = Ring(_RING_BYTES)
        self._ring_fd = _shared_memory("tagger-files", _RING_BYTES)
        self._ring_map = mmap.mmap(self._ring_fd, _RING_BYTES)
        self._pixels_fd = _shared_memory("tagger-pixels", mmap.PAGESIZE)
        self._pixels_map = mmap.mmap(self._pixels_fd, mmap.PAGESIZE)
        self._config = ChildConfig(
            decode, self._framings, limits, -1, -1, -1, ring_fd=self._ring_fd, pixels_fd=self._pixels_fd
        )
        self._in_flight: deque[_Job] = deque()
        self._facts: list[Facts | ImageError | None] = []
        self._sequence = 0
        self._failed_starts = 0
        self._spent_s = 0.0
        self._looked_at = 0.0
        self._pace_s = 0.0
        self._closed = False
        # Started before it is needed: it takes some 0.2 s, and the first files are being fetched meanwhile.
        self._child: Child | None = Child(self._config)

    @property
    def child_pid(self) -> int | None:
        """Process id of the present child, None between two."""
        return self._child.pid if self._child else None

    def run(self, n: int, items: Iterable[tuple[int, bytes]]) -> DecodedChunk:
        """Decode one chunk.

        Args:
            n: Images in the chunk.
            items: (index in the chunk, file) in any order, each index at most once. May be slow: what has
                arrived is decoded while the rest is fetched.

        Returns:
            Pixels and facts in the order of the indexes.

        Raises:
            ValueError: An index is out of range or came twice.
            RuntimeError: The decoder is closed, or its child process cannot be started.
        """
        if self._closed:
            raise RuntimeError("the decoder is closed")
        self._facts = [None] * n
        self._make_room_for_pixels(n)
        seen = bytearray(n)
        try:
            for index, data in items:
                if not 0 <= index < n or seen[index]:
                    raise ValueError(  # noqa: TRY301  the handler below cleans up for any error
                        f"index {index} is out of range or came twice in a chunk of {n}"
                    )
                seen[index] = 1
                self._submit(index, data)
                self._collect(0)
            while self._in_flight:
                self._collect(_LOOK_S)
        except BaseException:
            self._abandon()
            raise
        self._give_back_memory()
        pixels = pixel_views(self._pixels_map, n, self._framings)
        for index, fact in enumerate(self._facts):
            if not isinstance(fact, Facts):
                for view in pixels:
                    view[index] = 0
        return DecodedChunk(pixels, self._facts)

    def close(self) -> None:
        """End the child and free the shared memory; arrays already given out stay readable."""
        if self._closed:
            return
        self._closed = True
        if self._child is not None:
            self._child.close()
            self._child = None
        for shared in (self._ring_map, self._pixels_map):
            with contextlib.suppress(BufferError):  # arrays given out still show it
                shared.close()
        os.close(self._ring_fd)
        os.close(self._pixels_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()

    def _submit(self, index: int, data: bytes) -> None:
        # The two verdicts that need no decoder also spare an enormous file its way through the ring.
        if not data:
            self._facts[index] = ImageError("empty", "the file has no bytes")
            return
        if len(data) > self._limits.max_bytes:
            text = f"{len(data):,} bytes, the limit is {self._limits.max_bytes:,}"
            self._facts[index] = ImageError("too_large", text)
            return
        while len(self._in_flight) >= _MAX_IN_FLIGHT or (offset := self._ring.take(len(data))) is None:
            if self._in_flight:
                self._collect(_LOOK_S)
            else:
                self._grow_ring(len(data))
        self._ring_map[offset : offset + len(data)] = data
        self._sequence += 1
        if not self._in_flight:
            self._start_clock()
        self._in_flight.append(_Job(self._sequence, index, offset, len(data)))
        self._send(self._in_flight[-1])

    def _send(self, job: _Job) -> None:
        self._alive().send(
            JOB.pack(job.sequence, job.index, len(self._facts), job.offset, job.length, self._ring.capacity)
        )

    def _alive(self) -> Child:
        if self._child is None:
            self._child = Child(self._config)
            self._start_clock()
        return self._child

    def _collect(self, wait_s: float) -> None:
        """Take in what the child has replied, and judge it if it died or is late."""
        if not self._in_flight:
            return
        child = self._alive()
        was_ready = child.ready
        if wait_s > 0:
            # Waking up for every single reply costs as much as reading ten: sleep through half of the work
            # that is known to be left.
            time.sleep(min(self._pace_s * len(self._in_flight) / 2, _NAP_S))
        try:
            replies = child.receive(wait_s)
            for sequence, kind, payload in replies:
                self._settle(sequence, kind, payload)
        except ChildDied as death:
            self._bury(child, death.how)
            return
        now = time.monotonic()
        if replies or child.ready != was_ready:
            self._pace_s = (now - self._looked_at) / len(replies) if replies else 0.0
            self._failed_starts = 0
            self._start_clock()
            return
        # At most 1 s per look: if this process itself stood still (stopped, frozen, waiting for a file), the
        # child may have too, or its replies could not be read; that time is not held against the image.
        self._spent_s += min(now - self._looked_at, 1.0)
        self._looked_at = now
        if not child.ready:
            if self._spent_s > _START_S:
                self._bury(child, f"the decoder did not start within {_START_S:.0f} s")
        elif self._spent_s > self._limits.timeout_s:
            self._kill_child()
            text = f"decoding took longer than {self._limits.timeout_s:g} s"
            self._finish(ImageError("timeout", text))
            self._resend()

    def _settle(self, sequence: int, kind: int, payload: bytes) -> None:
        if not self._in_flight or self._in_flight[0].sequence != sequence:
            raise ChildDied("the decoder answered a question nobody asked")
        try:
            outcome = parse_reply(kind, payload)
        except ValueError:
            raise ChildDied("the decoder wrote a reply that makes no sense") from None
        if isinstance(outcome, ImageError) and outcome.code == "crash":
            # Its memory is full, or in an unknown state: go on with a new child.
            raise ChildDied(outcome.detail)
        self._finish(outcome)

    def _bury(self, child: Child, how: str) -> None:
        """Blame the image in hand for the child's death the second time; then go on with a new child."""
        last_words = child.last_words()
        self._kill_child()
        if not child.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_STARTS:
                raise RuntimeError(f"{how} before it was ready: {last_words}")
        else:
            job = self._in_flight[0]
            job.deaths += 1
            if job.deaths > 1:
                self._finish(ImageError("crash", how))
        self._resend()

    def _finish(self, outcome: Facts | ImageError) -> None:
        job = self._in_flight.popleft()
        self._ring.give_back()
        self._facts[job.index] = outcome
        self._on_image()

    def _resend(self) -> None:
        for job in self._in_flight:
            self._send(job)

    def _start_clock(self) -> None:
        self._spent_s = 0.0
        self._looked_at = time.monotonic()

    def _kill_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _abandon(self) -> None:
        """Forget a chunk half way: the child may still be at work on it."""
        if self._in_flight:
            self._kill_child()
        while self._in_flight:
            self._in_flight.popleft()
            self._ring.give_back()

    def _make_room_for_pixels(self, n: int) -> None:
        size = pixel_bytes(n, self._framings)
        if size > len(self._pixels_map):
            os.ftruncate(self._pixels_fd, size)
            # The old mapping lives on while arrays of the last chunk show it.
            self._pixels_map = mmap.mmap(self._pixels_fd, size)

    def _grow_ring(self, length: int) -> None:
        size = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(self._ring_fd, size)
        self._ring_map.close()
        self._ring_map = mmap.mmap(self._ring_fd, size)
        self._ring = Ring(size)

    def _give_back_memory(self) -> None:
        """Free the pages that one enormous file needed."""
        if self._ring.capacity > _RING_BYTES:
            self._ring_map.madvise(mmap.MADV_REMOVE, _RING_BYTES, self._ring.capacity - _RING_BYTES)


def _shared_memory(name: str, size: int) -> int:
    """Return a file descriptor of anonymous shared memory.

    A sealed one cannot be made smaller: a child that was taken over could otherwise make the parent's next
    access to it a bus error.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd
