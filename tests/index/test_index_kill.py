"""kill -9 at every write of a build and an update: what was served before is served on, and a rerun works.

One process loads the libraries once and forks for each try. An audit hook kills the fork at the n-th file it
is about to put in its place; nothing of tagger is replaced.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from index_kit import add, collection_of, names, remove, rows_of, vectors_of

from tagger.collection import Collection
from tagger.errors import IndexUnusable
from tagger.index import Index, index

DIM = 8
FORKS = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from tagger.collection import Collection
from tagger.index import index
import duckdb, faiss, pyarrow.parquet, pyroaring, deltalake

def run(place, nth):
    writes = [0]
    def hook(event, arguments):
        if event in ("os.rename", "os.link") and b"/index/" in os.fsencode(arguments[1]):
            if not os.path.basename(os.fsencode(arguments[1])).endswith(b".tmp"):
                writes[0] += 1
                if writes[0] == nth:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    index(Collection.open(place), kind=sys.argv[2])

for line in sys.stdin:
    place, nth = line.rstrip().split("\\t")
    pid = os.fork()
    if not pid:
        try:
            run(place, int(nth))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    def __init__(self, kind):
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS, "-", kind, str(here.parents[1])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TAGGER_CPUS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, place, nth):
        self.process.stdin.write(f"{place}\t{nth}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize(("what", "kind"), [("build", "ivf"), ("update", "flat"), ("update", "ivf")])
def test_a_kill_at_any_write_leaves_what_was_served(tmp_path, kind, what, record_property):
    place = tmp_path / "c"
    collection = collection_of(place, [rows_of(names(0, 90), vectors_of(90, dim=DIM, seed=0))], dim=DIM)
    before = None
    if what == "update":
        index(collection, kind=kind)
        add(collection, rows_of(names(90, 95), vectors_of(5, dim=DIM, seed=1)))
        remove(collection, names(3, 5))
        before = Index.open(collection).manifest.version
    killed = 0
    with Forks(kind) as forks:
        for nth in range(1, 20):
            copy = tmp_path / f"killed-at-{nth}"
            shutil.copytree(place, copy)
            code = forks(copy, nth)
            assert code in (0, -9)
            served = Collection.open(str(copy))
            if code == 0:
                assert Index.open(served).count == (90 if what == "build" else 93)
                break
            killed += 1
            if before is None:
                with pytest.raises(IndexUnusable, match="has no index yet"):
                    Index.open(served)
            else:
                old = Index.open(served)
                assert (old.manifest.version, old.count) == (before, 90)
            assert index(served).how == ("built" if what == "build" else "updated")
            assert Index.open(served).count == (90 if what == "build" else 93)
            shutil.rmtree(copy)
    expected = {"flat": 4, "ivf": 6}[kind] + 2  # its files, index.json and CURRENT
    assert killed == expected
    record_property("measured", f"{killed} kills")
