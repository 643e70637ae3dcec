"""Partitions filled by Ray tasks and merged are the index that one process makes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from index_kit import Oracle, collection_of, names, recall, rows_of, vectors_of

from tagger.index import Index, Indexed, index
from tagger.index.manifest import read_manifest, read_pointer

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

DIM = 16


# In a process of its own: others have imported Ray into this one before tagger could ask for a token.
ON_RAY = """
import json, sys
from dataclasses import asdict
import tagger.index.parallel
from tagger.collection import Collection
from tagger.index import index

tagger.index.parallel._LEAST_ROWS = 256  # several tasks for a small collection
print(json.dumps(asdict(index(Collection.open(sys.argv[1]), kind="ivf", rebuild=True, address="local"))))
"""


def on_ray(collection):
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, collection.uri],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return Indexed(**json.loads(done.stdout.splitlines()[-1]))


def test_tasks_fill_what_one_process_fills(tmp_path):
    flock = vectors_of(2_000, dim=DIM, seed=1, clusters=20)
    tables = [
        rows_of(names(start, start + 250), flock[start : start + 250], failed=names(start, start + 3))
        for start in range(0, 2000, 250)
    ]
    collection = collection_of(tmp_path / "c", tables, dim=DIM)
    queries = vectors_of(100, dim=DIM, seed=1, clusters=20)
    made, found = {}, {}
    for address in (None, "local"):
        done = on_ray(collection) if address else index(collection, kind="ivf", rebuild=True)
        assert (done.how, done.count) == ("built", 2_000 - 8 * 3)
        made[address] = done
        opened, oracle = Index.open(collection), Oracle(collection)
        found[address] = recall(opened, oracle, queries)
        assert sorted(opened.ids.image_ids(opened.ids.slots)) == oracle.ids
        vectors = opened.vectors.take(np.array([opened.slot(one) for one in oracle.ids]))
        np.testing.assert_array_equal(vectors, oracle.vectors)
    assert made[None].recall_at_10 == made["local"].recall_at_10  # the same lists, codes and queries
    assert found[None] == found["local"] >= 0.95
    manifest = read_manifest(collection.store, read_pointer(collection.store))
    assert len(manifest.segments) > 2  # one a task
