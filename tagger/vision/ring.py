"""A ring of shared memory that files pass through on their way to the decoder."""

from collections import deque


class Ring:
    """Hands out places in a ring buffer, first taken, first given back.

    Only bookkeeping: it never touches the memory. A place is contiguous, so a file may skip the rest of the
    ring and start at its beginning.

    >>> ring = Ring(10)
    >>> ring.take(4), ring.take(4), ring.take(4)
    (0, 4, None)
    >>> ring.give_back()
    >>> ring.take(3)
    0
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._taken: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Return how many places are taken."""
        return len(self._taken)

    def take(self, length: int) -> int | None:
        """Return the offset of a free place of `length` bytes, or None while there is none."""
        offset = self._find(length)
        if offset is not None:
            self._taken.append((offset, offset + length))
        return offset

    def give_back(self) -> None:
        """Free the place taken longest ago."""
        self._taken.popleft()

    def _find(self, length: int) -> int | None:
        if not self._taken:
            # Starting over keeps the same few pages warm in the cache.
            return 0 if length <= self.capacity else None
        tail, head = self._taken[0][0], self._taken[-1][1]
        if head > tail:
            if length <= self.capacity - head:
                return head
            return 0 if length < tail else None
        # `<`, so that a full ring never looks empty
        return head if length < tail - head else None
