"""A disk that is full while an index is written: an error that says so, and the old version is served on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from index_kit import add, collection_of, names, rows_of, vectors_of

from tagger.index import Index, index
from tagger.index.manifest import read_manifest, read_pointer

DIM = 16
LIMITED = """
import resource, signal, sys
sys.path[:0] = sys.argv[3:]
from tagger.collection import Collection
from tagger.errors import RunError, StoreUnavailable
from tagger.index import index

collection = Collection.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing past the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    print(index(collection).how)
except (RunError, StoreUnavailable) as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("short", [1, 100, 20_000])
def test_the_last_bytes_of_the_codes_find_no_room(tmp_path, short):
    place = tmp_path / "c"
    tables = [rows_of(names(0, 1500), vectors_of(1500, dim=DIM, seed=0, clusters=9))]
    collection = collection_of(place, tables, dim=DIM)
    index(collection, kind="ivf")
    before = Index.open(collection).manifest
    size = read_manifest(collection.store, read_pointer(collection.store)).file("codes.faiss").size_bytes
    add(collection, rows_of(names(2000, 2001), vectors_of(1, dim=DIM, seed=1)))
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, str(place), str(size + 40 - short), str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TAGGER_CPUS": "1"},
    ).stdout
    assert said.startswith("refused: the index cannot be made"), said
    assert Index.open(collection).manifest == before
    assert index(collection).how == "updated"
    assert Index.open(collection).count == 1501
