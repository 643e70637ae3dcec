import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from collection_kit import (
    Child,
    FaultyProxy,
    contents,
    make_collection,
    make_rows,
    put_rows,
    raises,
    wait_for,
)

from tagger.collection import Collection
from tagger.collection.lease import Beat, Holder, acquire, read_beat, write_beat
from tagger.errors import CollectionBusy, StoreUnavailable, TakenOver
from tagger.storage import open_store

TTL_S = 1.5

# Enters a writer, commits once whenever it is told to, says what came of it.
WRITER = """
collection = Collection.open(sys.argv[1])
try:
    with collection.writer(sys.argv[2], "tagger tag photos", ttl_s=float(sys.argv[3])) as writer:
        say("took over" if writer.took_over else "in")
        for i in range(100):
            if input() == "end":
                break
            part = put_rows(collection, make_rows([f"{sys.argv[2]}/{i}"]))
            try:
                writer.commit([part])
                say("committed")
            except Exception as error:
                say(type(error).__name__ + ": " + str(error))
except Exception as error:
    say(type(error).__name__ + ": " + str(error))
"""


def is_fresh(place):
    """Whether a newcomer would see the heartbeat of a living run."""
    return time.monotonic() - read_beat(open_store(place).read("lease.json")).clock_s < TTL_S / 2


def writer_process(place, run_id, ttl_s=TTL_S):
    return Child(WRITER, place, run_id, ttl_s)


def test_a_beat_is_read_as_written():
    holder = Holder.here("run-a", "tagger tag «x»" + "y" * 1000)
    assert len(holder.command) == 300
    beat = Beat(holder, 7, 12.5)
    assert read_beat(write_beat(beat)) == beat
    assert read_beat(write_beat(beat) + b"  \n") == beat
    for garbage in (b"", b"\0" * 100, b"{}", b'{"run_id": 1}', write_beat(beat)[:50], b"[]", b"\xff"):
        assert read_beat(garbage) == Beat(None, 0, 0.0)
    assert holder.token not in repr(holder)


def test_a_holder_knows_whether_it_is_alive():
    here = Holder.here("r", "c")
    assert here.same_machine()
    assert not here.is_dead()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = Holder(**{**fields(here), "pid": process.pid})
    assert gone.is_dead()
    reused = Holder(**{**fields(here), "started": "1"})
    assert reused.is_dead()
    elsewhere = Holder(**{**fields(gone), "host": "another"})
    assert not elsewhere.is_dead()  # nobody can tell from here


def fields(holder):
    return {name: getattr(holder, name) for name in holder.__dataclass_fields__}


def test_a_living_run_is_named_to_the_newcomer(place):
    make_collection(place)
    with writer_process(place, "run-first") as first:
        assert first.line() == "in"
        started = time.monotonic()
        with pytest.raises(CollectionBusy) as error, Collection.open(place).writer("run-b", "c", ttl_s=TTL_S):
            pass
        waited = time.monotonic() - started
        text = str(error.value)
        assert error.value.exit_code == 1
        for word in ("run-first", "tagger tag photos", str(first.pid), socket.gethostname(), "since 2"):
            assert word in text
        assert waited < TTL_S
        first.go()
        assert first.line() == "committed"
    assert contents(Collection.open(place)).keys() == {"run-first/0"}


def test_a_lease_given_back_is_free_at_once(place):
    collection = make_collection(place)
    for i in range(3):
        started = time.monotonic()
        with collection.writer(f"run-{i}", "tagger tag") as writer:
            assert not writer.took_over
        assert time.monotonic() - started < 10  # the time to live is 20 s
    assert collection.table.version == 0  # no fence was needed


def test_a_killed_run_is_replaced_at_once(place):
    collection = make_collection(place)
    with writer_process(place, "run-first", ttl_s=60) as first:
        assert first.line() == "in"
        first.signal(signal.SIGKILL)
        first.process.wait()
        started = time.monotonic()
        with collection.writer("run-b", "tagger tag", ttl_s=60) as writer:
            assert time.monotonic() - started < 30
            assert writer.took_over
            assert collection.table.counter == 1  # the fence
    assert collection.table.version == 1


def test_a_stopped_run_is_replaced_after_a_while_and_then_commits_nothing(place):
    make_collection(place)
    with writer_process(place, "run-stopped") as stopped:
        assert stopped.line() == "in"
        stopped.go()
        assert stopped.line() == "committed"
        stopped.signal(signal.SIGSTOP)
        wait_for(lambda: not is_fresh(place), "the last heartbeat to grow old")
        with writer_process(place, "run-next") as newcomer:
            assert newcomer.line() == "took over"
            stopped.go()
            stopped.signal(signal.SIGCONT)
            assert stopped.line().startswith("TakenOver: another run took over")
            newcomer.go()
            assert newcomer.line() == "committed"
            stopped.go()
            assert stopped.line().startswith("TakenOver")
            with pytest.raises(CollectionBusy, match="run-next"):
                Collection.open(place).writer("run-b", "c", ttl_s=TTL_S).__enter__()
            stopped.process.stdin.write("end\n")
            stopped.process.stdin.flush()
            stopped.process.wait()  # gives nothing back that is not its own:
            newcomer.go()
            assert newcomer.line() == "committed"
    assert contents(Collection.open(place)).keys() == {"run-stopped/0", "run-next/0", "run-next/1"}


@pytest.mark.s3
def test_a_run_stopped_inside_a_commit_is_fenced_too(bucket, s3, monkeypatch):
    """The old run's PUT into the log arrives only after the new one has bumped the fence."""
    hold = threading.Event()
    arrived = threading.Event()

    def fault(method, path, headers):
        if method == "PUT" and path.endswith("00000000000000000001.json"):
            arrived.set()
            hold.wait(60)
        return ""

    place = bucket.uri + "/c"
    collection = make_collection(place)
    with FaultyProxy(s3, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with writer_process(place, "run-stopped") as stopped:
            assert stopped.line() == "in"
            stopped.go()
            assert arrived.wait(60)
            stopped.signal(signal.SIGSTOP)
            wait_for(lambda: not is_fresh(place), "the last heartbeat to grow old")
            monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
            with Collection.open(place).writer("run-next", "tagger tag", ttl_s=TTL_S) as writer:
                hold.set()
                stopped.signal(signal.SIGCONT)
                assert stopped.line().startswith("TakenOver")
                writer.commit([put_rows(collection, make_rows(["new"]))])
    assert contents(collection).keys() == {"new"}


def test_of_racing_newcomers_one_gets_in(place):
    make_collection(place)
    with writer_process(place, "dead") as dead:
        assert dead.line() == "in"
    inside, outcomes = [], []
    leave = threading.Event()

    def enter(i):
        try:
            with Collection.open(place).writer(f"run-{i}", "c", ttl_s=TTL_S):
                inside.append(i)
                leave.wait(60)
        except CollectionBusy:
            outcomes.append(i)

    threads = [threading.Thread(target=enter, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(outcomes) == 4, "four to be refused")
    leave.set()
    for thread in threads:
        thread.join()
    assert len(inside) == 1


def test_a_child_that_inherited_the_lock_does_not_keep_it(tmp_path):
    place = str(tmp_path / "c")
    make_collection(place)
    code = """
collection = Collection.open(sys.argv[1])
writer = collection.writer("run-a", "c", ttl_s=60).__enter__()
child = os.fork()
if child:
    say(child)
time.sleep(60)
"""
    with Child("import warnings\nwarnings.simplefilter('ignore')" + code, place) as parent:
        child = int(parent.line())
        parent.signal(signal.SIGKILL)
        parent.process.wait()
        try:
            with Collection.open(place).writer("run-b", "c", ttl_s=60) as writer:
                assert writer.took_over
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.s3
def test_a_lease_of_another_machine_is_watched(bucket):
    store = make_collection(bucket.uri + "/c").store
    foreign = Holder(**{**fields(Holder.here("run-far", "tagger tag")), "host": "far", "boot_id": "other"})
    store.put("lease.json", write_beat(Beat(foreign, 0, 0.0)))
    stop = threading.Event()

    def beat():
        count = 0
        while not stop.wait(0.2):
            count += 1
            store.put("lease.json", write_beat(Beat(foreign, count, 0.0)))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(CollectionBusy, match=r"run-far .* on far"):
        acquire(store, "run-b", "c", ttl_s=TTL_S)
    stop.set()
    thread.join()
    started = time.monotonic()
    lease = acquire(store, "run-b", "c", ttl_s=TTL_S)
    assert time.monotonic() - started >= TTL_S * 0.9
    assert lease.stale
    lease.release()
    assert not store.exists("lease.json")


def test_a_damaged_lease_does_not_lock_a_collection_for_ever(place):
    store = make_collection(place).store
    store.put("lease.json", b"garbage")
    lease = acquire(store, "run-b", "c", ttl_s=TTL_S)
    assert lease.stale
    lease.release()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    collection = make_collection(tmp_path)
    (tmp_path / "lease.json").mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be written: Is a directory"):
        collection.writer("run-a", "c").__enter__()


def test_the_lease_is_renewed(place):
    store = make_collection(place).store
    lease = acquire(store, "run-b", "tagger tag", ttl_s=TTL_S)
    first = read_beat(store.read("lease.json"))
    assert first.holder.run_id == "run-b"
    wait_for(lambda: read_beat(store.read("lease.json")).count >= 3, "three heartbeats")
    lease.check()
    lease.release()
    assert json.loads(write_beat(first))["pid"] == os.getpid()


@pytest.mark.s3
@pytest.mark.parametrize("action", ["lost", 503])
def test_a_store_that_stumbles_does_not_lose_the_lease(bucket, s3, monkeypatch, action):
    count = {"puts": 0}

    def fault(method, path, headers):
        if method == "PUT" and path.endswith("lease.json"):
            count["puts"] += 1
            return action if count["puts"] % 2 else ""
        return ""

    with FaultyProxy(s3, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(bucket.uri + "/c")
        lease = acquire(store, "run-b", "c", ttl_s=3)
        wait_for(lambda: count["puts"] >= 8, "eight requests")
        lease.check()
        lease.release()
        assert not store.exists("lease.json")


def test_a_lost_lease_is_noticed_and_not_given_back(place):
    store = make_collection(place).store
    lease = acquire(store, "run-b", "c", ttl_s=TTL_S)
    other = Holder.here("run-c", "c")
    store.put("lease.json", write_beat(Beat(other, 0, time.monotonic())))  # a new object, or a new file
    wait_for(lambda: raises(TakenOver, lease.check), "the loss to be noticed")
    lease.release()
    assert read_beat(store.read("lease.json")).holder == other
