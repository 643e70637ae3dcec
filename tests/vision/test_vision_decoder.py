import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tagger.errors import ImageError
from tagger.vision import DecodedChunk, DecodeLimits, Decoder, Facts, Framing
from tagger.vision.decode import decode
from tagger.vision.decoder import TO_SHOW

CROP = Framing(224, 256)
SMALL = Framing(32, 32, "letterbox", "bilinear")
FAULTY = "vision_faults:decode"


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def faulty() -> Iterator[Decoder]:
    limits = DecodeLimits(timeout_s=1.5, memory_bytes=512 * 1024**2)
    with Decoder([CROP], limits, decode=FAULTY) as decoder:
        yield decoder


def outcome(chunk: DecodedChunk, index: int) -> str:
    fact = chunk.facts[index]
    if fact is None:
        return "absent"
    return fact.code if isinstance(fact, ImageError) else "tagged"


def detail(chunk: DecodedChunk, index: int) -> str:
    fact = chunk.facts[index]
    assert isinstance(fact, ImageError)
    return fact.detail


def test_same_as_decoding_in_process(jpegs: dict[str, bytes], photo_bytes: dict[str, bytes]):
    files = [*jpegs.values(), *photo_bytes.values()]
    with Decoder([CROP, SMALL], DecodeLimits()) as decoder:
        chunk = decoder.run(len(files), reversed(list(enumerate(files))))
        assert [pixels.shape for pixels in chunk.pixels] == [
            (len(files), 224, 224, 3),
            (len(files), 32, 32, 3),
        ]
        for index, data in enumerate(files):
            picture = decode(data, [CROP, SMALL], DecodeLimits())
            assert chunk.facts[index] == picture.facts
            for mine, theirs in zip(chunk.pixels, picture.pixels, strict=True):
                np.testing.assert_array_equal(mine[index], theirs)


def test_images_that_never_arrive_are_none_and_black(jpegs: dict[str, bytes]):
    photo = next(iter(jpegs.values()))
    with Decoder([SMALL], DecodeLimits(max_bytes=len(photo))) as decoder:
        decoder.run(6, ((index, photo) for index in range(6)))
        chunk = decoder.run(6, [(4, photo), (1, b""), (2, photo + b"x"), (3, b"hello")])
    states = ["absent", "empty", "too_large", "unsupported_format", "tagged", "absent"]
    assert [outcome(chunk, index) for index in range(6)] == states
    assert [bool(rows.any()) for rows in chunk.pixels[0]] == [False, False, False, False, True, False]


def test_chunks_of_changing_size(jpegs: dict[str, bytes]):
    files = list(jpegs.values())
    with Decoder([SMALL], DecodeLimits()) as decoder:
        for n in (1, 20, 0, 3, 24, 3):
            chunk = decoder.run(n, enumerate(files[:n]))
            assert chunk.pixels[0].shape == (n, 32, 32, 3)
            assert all(isinstance(fact, Facts) for fact in chunk.facts)


def test_files_larger_than_the_ring(jpegs: dict[str, bytes]):
    photo = next(iter(jpegs.values()))
    large = photo + bytes(40 * 1024**2)
    with Decoder([SMALL], DecodeLimits()) as decoder:
        plain = decoder.run(1, [(0, photo)]).facts[0]
        for _ in range(2):
            chunk = decoder.run(5, enumerate([photo, large, photo, large, photo]))
            assert chunk.facts == [plain] * 5


def test_wrong_indexes(jpegs: dict[str, bytes]):
    photo = next(iter(jpegs.values()))
    with Decoder([SMALL], DecodeLimits()) as decoder:
        with pytest.raises(ValueError, match="out of range or came twice"):
            decoder.run(2, [(0, photo), (0, photo)])
        with pytest.raises(ValueError, match="out of range or came twice"):
            decoder.run(2, [(2, photo)])
        assert outcome(decoder.run(1, [(0, photo)]), 0) == "tagged"


def test_an_error_of_the_generator_passes_through_and_leaves_a_working_decoder(jpegs: dict[str, bytes]):
    photos = list(jpegs.values())

    def broken() -> Iterator[tuple[int, bytes]]:
        yield from enumerate(photos[:3])
        raise ConnectionError("storage is gone")

    with Decoder([SMALL], DecodeLimits()) as decoder:
        with pytest.raises(ConnectionError, match="storage is gone"):
            decoder.run(9, broken())
        chunk = decoder.run(2, enumerate(photos[:2]))
        assert [outcome(chunk, index) for index in range(2)] == ["tagged", "tagged"]


@pytest.mark.parametrize(
    ("order", "code", "says"),
    [
        ("!segfault", "crash", "SIGSEGV"),
        ("!abort", "crash", "SIGABRT"),
        ("!kill", "crash", "SIGKILL"),
        ("!exit 3", "crash", "exit status 3"),
        ("!hog", "crash", "memory"),
        ("!bug oops", "crash", "KeyError: 'oops'"),
        ("!garbage", "crash", "makes no sense"),
        ("!spin", "timeout", "longer than 1.5 s"),
        ("!spin-locked", "timeout", "longer than 1.5 s"),
        ("!stop", "timeout", "longer than 1.5 s"),
        ("!refuse half grey", "corrupt", "half grey"),
    ],
)
def test_only_the_image_in_hand_fails(
    faulty: Decoder, jpegs: dict[str, bytes], order: str, code: str, says: str
):
    photos = list(jpegs.values())[:6]
    expected = [decode(photo, [CROP], DecodeLimits()) for photo in photos]
    files = [*photos[:3], order.encode(), *photos[3:]]
    chunk = faulty.run(len(files), enumerate(files))
    assert (outcome(chunk, 3), says in detail(chunk, 3)) == (code, True), chunk.facts[3]
    assert not chunk.pixels[0][3].any()
    for index, picture in zip((0, 1, 2, 4, 5, 6), expected, strict=True):
        assert chunk.facts[index] == picture.facts
        np.testing.assert_array_equal(chunk.pixels[0][index], picture.pixels[0])


def test_many_faults_in_one_chunk(faulty: Decoder, jpegs: dict[str, bytes]):
    photo = next(iter(jpegs.values()))
    files = [b"!segfault", b"!kill", photo, b"!bug x", b"!spin", photo, b"!abort"]
    chunk = faulty.run(len(files), enumerate(files))
    codes = ["crash", "crash", "tagged", "crash", "timeout", "tagged", "crash"]
    assert [outcome(chunk, index) for index in range(len(files))] == codes


def test_a_kill_from_outside_condemns_nobody(faulty: Decoder, tmp_path: Path):
    chunk = faulty.run(3, enumerate([b"!", f"!kill-once {tmp_path / 'killed'}".encode(), b"!"]))
    assert (tmp_path / "killed").exists()
    assert [outcome(chunk, index) for index in range(3)] == ["tagged"] * 3


def test_killed_while_idle(faulty: Decoder):
    assert outcome(faulty.run(1, [(0, b"!")]), 0) == "tagged"
    pid = faulty.child_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert outcome(faulty.run(1, [(0, b"!")]), 0) == "tagged"
    assert faulty.child_pid != pid


def test_time_the_files_take_to_arrive_is_not_held_against_an_image(faulty: Decoder):
    def slow() -> Iterator[tuple[int, bytes]]:
        for index in range(3):
            yield index, b"!"
            threading.Event().wait(0.8)

    chunk = faulty.run(3, slow())
    assert [outcome(chunk, index) for index in range(3)] == ["tagged"] * 3


def test_a_hang_is_noticed_while_files_still_arrive():
    limits = DecodeLimits(timeout_s=1)
    with Decoder([SMALL], limits, decode=FAULTY) as decoder:
        decoder.run(1, [(0, b"!")])

        def endless() -> Iterator[tuple[int, bytes]]:
            yield 0, b"!spin"
            first = decoder.child_pid
            index = 1
            while decoder.child_pid == first and index < 200:
                threading.Event().wait(0.05)
                yield index, b"!"
                index += 1

        chunk = decoder.run(200, endless())
    assert outcome(chunk, 0) == "timeout"
    assert outcome(chunk, 1) == "tagged"
    assert outcome(chunk, 199) == "absent"


def test_facts_that_cannot_be_are_refused():
    with Decoder([SMALL], DecodeLimits(), decode="vision_faults:nonsense_facts") as decoder:
        chunk = decoder.run(1, [(0, b"x")])
    assert "makes no sense" in detail(chunk, 0)


def test_a_hijacked_child_cannot_shrink_shared_memory_or_write_files(faulty: Decoder, tmp_path: Path):
    chunk = faulty.run(3, enumerate([b"!shrink", f"!write {tmp_path / 'planted'}".encode(), b"!"]))
    assert outcome(chunk, 2) == "tagged"
    assert not (tmp_path / "planted").exists() or not (tmp_path / "planted").stat().st_size
    assert chunk.pixels[0][2].all()


def test_the_child_gets_no_secrets_and_imports_little(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("TAGGER_API_KEY", "geheim")
    with Decoder([SMALL], DecodeLimits(), decode=FAULTY) as decoder:
        chunk = decoder.run(2, enumerate([b"!environment", b"!modules"]))
    names = detail(chunk, 0).split()
    assert not [name for name in names if "AWS" in name or "KEY" in name]
    assert not {"torch", "ray", "pyarrow", "openvino", "scipy"} & set(detail(chunk, 1).split())


def test_a_child_that_cannot_start_says_why():
    with (
        Decoder([SMALL], DecodeLimits(), decode="vision_faults:no_such_function") as decoder,
        pytest.raises(RuntimeError, match=r"exit status 1 before it was ready: .*no_such_function"),
    ):
        decoder.run(1, [(0, b"x")])


def test_arrays_stay_readable_after_close(jpegs: dict[str, bytes]):
    decoder = Decoder([SMALL], DecodeLimits())
    chunk = decoder.run(1, [(0, next(iter(jpegs.values())))])
    before = chunk.pixels[0].copy()
    pid = decoder.child_pid
    decoder.close()
    decoder.close()
    np.testing.assert_array_equal(chunk.pixels[0], before)
    assert pid is not None
    assert not alive(pid)
    with pytest.raises(RuntimeError, match="closed"):
        decoder.run(0, [])


COUNTING = """
from pathlib import Path
from tagger.vision import DecodeLimits, Decoder, Framing
def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))
with Decoder([Framing(32, 32)], DecodeLimits(), decode="vision_faults:decode") as decoder:
    for round in range(4):
        decoder.run(2, enumerate([b"!kill", b"!"]))
        print(open_files(), flush=True)
"""


def test_open_files_do_not_pile_up():
    """In a process of its own: here other tests' garbage may close its files between two counts."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", COUNTING], capture_output=True, text=True, env=env, check=True
    )
    counts = done.stdout.split()
    assert len(counts) == 4
    assert set(counts) == {counts[0]}


def test_many_decoders_at_once_from_threads_that_end(jpegs: dict[str, bytes]):
    """A child must outlive the thread that started it: workers start decoders from threads."""
    photos = list(jpegs.values())[:8]
    decoders: list[Decoder] = []

    def start() -> None:
        decoders.append(Decoder([SMALL], DecodeLimits()))

    for _ in range(3):
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    results: list[DecodedChunk] = []
    threads = [
        threading.Thread(target=lambda d=decoder: results.append(d.run(8, enumerate(photos))))
        for decoder in decoders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        assert result.facts == results[0].facts
        assert all(isinstance(fact, Facts) for fact in result.facts)
    for decoder in decoders:
        decoder.close()


PARENT = """
import json, os, signal, sys, threading
from tagger.vision import DecodeLimits, Decoder, Framing
decoder = Decoder([Framing(32, 32)], DecodeLimits(), decode="vision_faults:decode")
decoder.run(1, [(0, b"!")])
def items():
    yield 0, sys.argv[1].encode()
    print(decoder.child_pid, flush=True)
    threading.Event().wait(60)
decoder.run(1, items())
"""


@pytest.mark.parametrize("order", ["!", "!spin", "!spin-locked", "!stop"])
def test_the_child_dies_with_its_parent(order: str):
    """Whatever the child is busy with: idle, in a loop, in C with the interpreter locked, stopped."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shared_before = set(Path("/dev/shm").iterdir())
    with subprocess.Popen([sys.executable, "-c", PARENT, order], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid))
    assert set(Path("/dev/shm").iterdir()) <= shared_before


MASKED = """
import json, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM, signal.SIGIO, signal.SIGINT})
signal.signal(signal.SIGCHLD, signal.SIG_IGN if sys.argv[1] == "ignore" else signal.SIG_DFL)
from tagger.vision import DecodeLimits, Decoder, Framing
with Decoder([Framing(32, 32)], DecodeLimits(timeout_s=1), decode="vision_faults:decode") as decoder:
    chunk = decoder.run(4, enumerate([b"!", b"!spin", b"!kill", b"!"]))
print(json.dumps([getattr(fact, "code", "tagged") for fact in chunk.facts]))
"""


@pytest.mark.parametrize("children", ["ignore", "default"])
def test_with_blocked_signals_and_no_terminal(children: str):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MASKED, children],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=env,
        check=True,
        start_new_session=True,
    )
    assert json.loads(done.stdout) == ["tagged", "timeout", "crash", "tagged"]


def test_who_wants_pixels_alone_gets_the_same_ones(photo_bytes):
    framing = Framing(size_px=224, resize_px=256)
    data = photo_bytes["chelsea"]
    with (
        Decoder([framing], DecodeLimits()) as whole,
        Decoder([framing], DecodeLimits(), decode=TO_SHOW) as fast,
    ):
        one, other = whole.run(1, [(0, data)]), fast.run(1, [(0, data)])
        assert np.array_equal(one.pixels[0], other.pixels[0])
        assert other.facts[0].colors == []
        assert (other.facts[0].width_px, other.facts[0].format) == (
            one.facts[0].width_px,
            one.facts[0].format,
        )
