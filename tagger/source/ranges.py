"""Listing one prefix by several requests at a time, every key exactly once.

S3 lists a thousand keys per request, each request after the last key of the one before. To go faster, a
worker that has nothing to do cuts the remaining range of a busy one in two: keys up to some string M stay,
keys after M are its own. M need not be a key, and nothing has to be known about the keys beforehand.

Amazon and most servers list keys in the order of their bytes. Servers built on folders compare part by part
between the slashes, so that `a/x` comes before `a.jpg`; StartAfter follows the same order. The two orders
differ only in keys of which one has `/` where the other has a smaller character. M is made of the beginning
of a key that was listed and characters greater than `/`, so it stands in the same place in both orders,
except for keys that differ from that listed key in this very way; and before such a key can fall to the
wrong side, the listing goes backwards in the order of bytes. That is noticed, and from then on parts are
compared.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from operator import lt
from typing import TYPE_CHECKING, Final

from tagger.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tagger.storage import ObjectInfo

    PageOf = Callable[[str], tuple[list[ObjectInfo], bool]]
    """Lists up to some number of objects after a name; returns them and whether more follow."""

THREADS: Final = 8
# SeaweedFS leaves out a whole folder when asked for what comes after its bare name, so M must not be one.
_NO_FOLDER: Final = "~tagger~"
_SEQUENTIAL_PAGES: Final = 4  # so few are not worth a second request at a time
_FAREWELL_S: Final = 1.0  # a request under way may last longer; its thread then ends by itself


@dataclass(eq=False)
class _Range:
    """Names after `after`, up to and including `end`, that nobody has delivered yet."""

    after: str
    end: str | None
    may_be_cut: bool = False  # a page came since the last cut, so `after` is a listed name, and more follow
    turn: int = 0  # when it was last cut


def list_ranges(page: PageOf, *, threads: int = THREADS) -> Iterator[list[ObjectInfo]]:
    """Yield every object once, page by page as they arrive, in no particular order.

    Args:
        page: Lists one page after a name; called from several threads.
        threads: Requests at a time; only one is made while the first page is all there is.

    Raises:
        SourceError: The server lists keys in neither known order.
    """
    listing = _Listing(page, threads)
    try:
        yield from listing.pages()
    finally:
        listing.stop()


class _Listing:
    def __init__(self, page: PageOf, threads: int) -> None:
        self._page = page
        self._wanted = threads
        self._changed = threading.Condition()
        self._active: list[_Range] = []
        self._pending = [_Range("", None)]
        self._alphabet: set[str] = set()
        self._by_parts = False
        self._turns = 0
        self._pages = 0
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._results: queue.Queue[list[ObjectInfo] | BaseException | None] = queue.Queue(2 * threads)

    def pages(self) -> Iterator[list[ObjectInfo]]:
        self._start_thread()
        while True:
            result = self._results.get()
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield result

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        # Every worker puts at most one page more, so that none of them waits on a full queue for ever.
        with suppress(queue.Empty):
            while True:
                self._results.get_nowait()
        deadline = time.monotonic() + _FAREWELL_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"list-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        try:
            while (mine := self._take()) is not None:
                self._walk(mine)
        except BaseException as error:  # raised again by the consumer
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            self._results.put(error)

    def _take(self) -> _Range | None:
        """Wait for a range of one's own; None when everything is delivered or the listing is stopped."""
        with self._changed:
            while not self._stopped:
                if self._pending:
                    mine = self._pending.pop()
                elif (split := self._split()) is not None:
                    mine = split
                elif self._active:
                    self._changed.wait()
                    continue
                else:
                    self._stopped = True
                    self._changed.notify_all()
                    self._results.put(None)
                    return None
                self._active.append(mine)
                return mine
            return None

    def _split(self) -> _Range | None:
        """Cut the range in two that was left alone longest; called with the lock held."""
        candidates = sorted(
            (found for found in self._active if found.may_be_cut), key=lambda found: found.turn
        )
        alphabet = sorted(self._alphabet)
        for busy in candidates:
            middle = midpoint(busy.after, busy.end, alphabet)
            if middle is not None:
                self._turns += 1
                stolen = _Range(middle, busy.end, turn=self._turns)
                # One cut a page: a cut may turn out useless, and then costs a request.
                busy.end, busy.turn, busy.may_be_cut = middle, self._turns, False
                return stolen
        return None

    def _walk(self, mine: _Range) -> None:
        more = True
        while more and not self._stopped:
            rows, more = self._page(mine.after)
            with self._changed:
                rows, more = self._own(mine, rows, more)
                mine.may_be_cut = more
                self._pages += 1
                may_grow = self._pages >= _SEQUENTIAL_PAGES and len(self._threads) < self._wanted
                if more and may_grow and not self._stopped:
                    self._start_thread()
                self._changed.notify_all()
            if rows and not self._stopped:
                self._results.put(rows)
        # Only now, after its rows are out: when no range is active, the listing is at its end.
        with self._changed:
            self._active.remove(mine)
            self._changed.notify_all()

    def _own(self, mine: _Range, rows: list[ObjectInfo], more: bool) -> tuple[list[ObjectInfo], bool]:  # noqa: FBT001
        """Return the rows of a page that belong to this range, and whether to go on."""
        if not rows:
            return rows, False
        names = [row.name for row in rows]
        self._check_order([mine.after, *names] if mine.after else names)
        if mine.end is not None:
            inside = self._count_inside(names, mine.end)
            if inside < len(rows):
                return rows[:inside], False
        mine.after = names[-1]
        self._alphabet.update(*names[:: max(1, len(names) // 64)])
        return rows, more

    def _count_inside(self, names: list[str], end: str) -> int:
        if self._by_parts:
            return bisect_right(names, end.split("/"), key=lambda name: name.split("/"))
        return bisect_right(names, end)

    def _check_order(self, names: list[str]) -> None:
        if not self._by_parts:
            if all(map(lt, names, names[1:])):
                return
            self._by_parts = True
        parts = [name.split("/") for name in names]
        if not all(map(lt, parts, parts[1:])):
            raise SourceError(
                "the store lists its keys in no known order, so it cannot be told when all were seen: "
                "name the images in a manifest"
            )


def midpoint(after: str, end: str | None, alphabet: list[str]) -> str | None:
    """Return a string between a listed name and the end of its range, about in the middle, or None.

    It is the beginning of `after`, a greater character, and an end; both greater than `/`. The leftmost place
    where that is possible is taken, as it separates most; a cut that proves useless costs one request.

    Args:
        after: The last name that was listed.
        end: End of the range, itself inside; None for the end of everything.
        alphabet: Characters seen in names, sorted.

    >>> midpoint("0013.jpg", None, list("0123456789gjp")), midpoint("0013.jpg", "01", list("0123456789gjp"))
    ('7~tagger~', '007~tagger~')
    """
    bounded = end is not None
    for place, low in enumerate(after):
        high = None
        if bounded and end is not None:
            if place >= len(end):
                return None  # `end` begins like `after` and is no greater: nothing is left
            high = end[place]
        floor = max(low, "/")
        choice = [c for c in alphabet if c > floor and (high is None or c < high)]
        if choice:
            return after[:place] + choice[len(choice) // 2] + _NO_FOLDER
        bounded = bounded and high == low
    return None
