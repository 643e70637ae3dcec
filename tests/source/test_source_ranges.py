"""The parallel listing against an oracle: every key once, whatever the keys, the order and the timing."""

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.errors import SourceError
from tagger.source.ranges import list_ranges, midpoint
from tagger.storage import ObjectInfo

# `/` and characters on both sides of it, long common beginnings, and some from the ends of Unicode.
PARTS = [
    "/",
    "a",
    "b",
    ".",
    "-",
    "0",
    "1",
    "9",
    "aaaaaaaaaa",
    "é",
    "😀",
    "\U0010ffff",
    "~",
    "~~~",
    "\t",
    "%2F",
    "//",
]
KEYS = st.sets(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join), max_size=150)


def by_bytes(key):
    return key.encode()


def by_parts(key):
    return [part.encode() for part in key.split("/")]


class Server:
    """Lists as S3 does, in one of two orders; with the fault of SeaweedFS that a folder's name hides it."""

    def __init__(self, keys, order, page_keys, seed=0):
        self.keys = sorted(keys, key=order)
        self.order = order
        self.page_keys = page_keys
        self.requests = 0
        self.random = random.Random(seed)
        self.barrier = threading.Event()

    def page(self, after):
        self.requests += 1
        if self.random.random() < 0.3:
            self.barrier.wait(0.0005)  # lets other threads go first
        rest = [key for key in self.keys if not after or self.order(key) > self.order(after)]
        if self.order is by_parts and after:
            rest = [key for key in rest if not key.startswith(after + "/") or after in self.keys]
        rows = rest[: self.page_keys]
        return [ObjectInfo(key, None, 1) for key in rows], len(rest) > len(rows)


def listed(server, threads=4):
    return [found.name for page in list_ranges(server.page, threads=threads) for found in page]


@pytest.mark.parametrize("order", [by_bytes, by_parts])
@settings(deadline=None, max_examples=500)
@given(keys=KEYS, page_keys=st.integers(1, 7), seed=st.integers(0, 1000))
def test_every_key_comes_once(order, keys, page_keys, seed):
    assert sorted(listed(Server(keys, order, page_keys, seed))) == sorted(keys)


@pytest.mark.parametrize("order", [by_bytes, by_parts])
def test_many_keys_in_folders(order):
    keys = [
        f"{folder}{sep}{n:04d}.jpg"
        for folder in ("a", "a/b", "a.b", "a-b", "b")
        for sep in "/.-"
        for n in range(200)
    ]
    for seed in range(5):
        assert sorted(listed(Server(keys, order, 20, seed), threads=8)) == sorted(keys)


@pytest.mark.parametrize(
    "keys",
    [
        [f"{n:07d}.jpg" for n in range(5000)],
        [f"{random.Random(n).getrandbits(64):016x}" for n in range(5000)],
        [f"photos/2026/{n % 12:02d}/IMG_{n:06d}.jpeg" for n in range(5000)],
        [f"{'deep/' * 40}{n:05d}" for n in range(5000)],
        [f"é/😀/{n}" for n in range(5000)],
    ],
    ids=["numbers", "hashes", "months", "deep", "unicode"],
)
def test_the_work_is_shared_and_little_is_wasted(keys):
    server = Server(keys, by_bytes, 50)
    workers = set()

    def page(after):
        workers.add(threading.get_ident())
        server.barrier.wait(0.001)  # about what a request takes
        return server.page(after)

    names = [found.name for page in list_ranges(page, threads=6) for found in page]
    assert sorted(names) == sorted(keys)
    assert len(workers) > 1
    assert server.requests <= 2.2 * len(keys) / 50  # one useless cut a page at the most


def test_few_keys_take_few_requests():
    server = Server([f"{n:03d}" for n in range(30)], by_bytes, 10)
    assert len(listed(server)) == 30
    assert server.requests == 3
    empty = Server([], by_bytes, 10)
    assert listed(empty) == []
    assert empty.requests == 1


def test_the_first_page_comes_before_the_last_is_asked_for():
    server = Server([f"{n:04d}" for n in range(1000)], by_bytes, 10)
    pages = list_ranges(server.page, threads=2)
    assert len(next(pages)) == 10
    assert server.requests < 50
    pages.close()
    running = [thread for thread in threading.enumerate() if thread.name.startswith("list-")]
    for thread in running:
        thread.join(5)
    assert not any(thread.is_alive() for thread in running)


def test_an_error_comes_out_as_itself():
    server = Server([f"{n:04d}" for n in range(1000)], by_bytes, 10)

    def page(after):
        if after > "05":
            raise SourceError("gone")
        return server.page(after)

    with pytest.raises(SourceError, match="gone"):
        list(list_ranges(page, threads=4))


def test_an_unknown_order_is_refused():
    keys = [f"{n:04d}" for n in range(100)]
    random.Random(1).shuffle(keys)
    rows = [ObjectInfo(key, None, 1) for key in keys]

    def page(after):
        begin = keys.index(after) + 1 if after in keys else 0
        return rows[begin : begin + 10], begin + 10 < len(rows)

    with pytest.raises(SourceError, match="no known order"):
        list(list_ranges(page))


@given(
    after=st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join),
    end=st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join),
    alphabet=st.sets(st.sampled_from("0123456789abcz~é😀"), max_size=9),
    bounded=st.booleans(),
)
def test_a_midpoint_lies_between(after, end, alphabet, bounded):
    if bounded and end <= after:
        after, end = end, after
    middle = midpoint(after, end if bounded else None, sorted(alphabet))
    if middle is not None:
        assert after < middle
        assert not bounded or middle < end
        if by_parts(after) <= by_parts(end) or not bounded:
            assert by_parts(after) < by_parts(middle)
            assert not bounded or by_parts(middle) < by_parts(end)
