"""The arithmetic, the look-alikes and the tables of `python -m bench.index`; nothing is measured here."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # bench/ is a folder of the repository, not a part of the package

from bench import index, index_report, lookalike, report  # noqa: E402
from bench.index_peers import worker  # noqa: E402
from bench.index_peers.process import EngineProcess  # noqa: E402

DIM = 16


@pytest.fixture(scope="module")
def real():
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.random((10, DIM)), 30, axis=0)
    vectors = np.maximum(centres + rng.normal(0, 0.1, centres.shape), 0).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
    return lookalike.Real.of(vectors / norms[:, None], norms)


def test_neighbours_are_the_nearest_others(real):
    scores = real.vectors @ real.vectors.T
    np.fill_diagonal(scores, -1)
    for row, near in enumerate(real.neighbours):
        assert set(near) == set(np.argsort(-scores[row])[: lookalike.NEIGHBOURS])


def test_look_alikes_have_length_one_no_negative_value_and_fit_float16(real):
    made = lookalike.make(real, 500, seed=1)
    assert made.vectors.shape == (500, DIM)
    assert made.vectors.dtype == np.float16
    assert (made.vectors >= 0).all()
    assert np.linalg.norm(made.vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=2e-3)


def test_a_seed_gives_the_same_look_alikes_and_fewer_are_the_first_of_more(real, tmp_path):
    more = lookalike.make(real, lookalike.BLOCK_ROWS + 50, seed=1, path=tmp_path / "vectors.f16")
    fewer = lookalike.make(real, 3000, seed=1)
    assert np.array_equal(more.vectors[:3000], fewer.vectors)
    assert np.array_equal(more.norms[:3000], fewer.norms)
    assert np.array_equal(more.taught[:3000], fewer.taught)
    assert not np.array_equal(lookalike.make(real, 50, seed=2).vectors, fewer.vectors[:50])
    assert not np.array_equal(more.vectors[:50], more.vectors[-50:])
    on_disk = np.fromfile(tmp_path / "vectors.f16", np.float16).reshape(-1, DIM)
    assert np.array_equal(on_disk, more.vectors)


def test_look_alikes_lie_where_real_ones_do(real):
    described = lookalike.describe(lookalike.make(real, len(real.vectors), seed=1).vectors)
    assert described["nearest"][1] > described["tenth"][1] > described["random"][1]
    assert described["axes"] == sorted(described["axes"])
    assert described["axes"][-1] <= DIM


def test_so_many_have_a_taught_tag(real):
    made = lookalike.make(real, 40_000, seed=1)
    for tag, share in lookalike.TAUGHT.items():
        assert made.has(tag).mean() == pytest.approx(share, rel=0.4)


def test_an_image_id_gives_its_number_back():
    keys = np.array([0, 7, 123_456, 9_999_999_999])
    assert [lookalike.key_of(image_id) for image_id in lookalike.image_ids(keys).to_pylist()] == keys.tolist()


def test_taught_tags_are_put_where_their_scores_belong():
    kind = pa.list_(pa.struct([("tag", pa.string()), ("score", pa.float32()), ("source", pa.string())]))
    held = [{"tag": "cat", "score": 0.99, "source": "m"}, {"tag": "lynx", "score": 0.1, "source": "m"}]
    tags = pa.array([held, [], held[1:]], kind)
    taught = np.array([0b010, 0b101, 0], np.uint8)
    rows = lookalike.with_taught(tags, taught, np.random.default_rng(0)).to_pylist()
    assert [one["tag"] for one in rows[0]] == ["cat", "sale", "lynx"]
    assert {one["tag"] for one in rows[1]} == {"season", "rare"}
    assert [one["tag"] for one in rows[2]] == ["lynx"]
    assert all(row == sorted(row, key=lambda one: -one["score"]) for row in rows)


def test_a_collection_of_look_alikes_is_one_that_the_product_reads(real, tmp_path):
    target = collection_of_16(tmp_path / "collection")
    made = lookalike.make(real, 300, seed=1)
    collection = lookalike.write_rows(target, made)
    rows = collection.table.scan().read_all().sort_by("image_id")
    assert [lookalike.key_of(image_id) for image_id in rows.column("image_id").to_pylist()] == list(
        range(300)
    )
    stored = np.array(rows.column("embedding").to_pylist(), np.float32)
    assert np.array_equal(stored, made.vectors.astype(np.float32))
    sale = [any(one["tag"] == "sale" for one in row) for row in rows.column("tags").to_pylist()]
    assert sale == made.has("sale").tolist()

    from tagger.collection import check

    findings = check(collection).findings
    assert [one for one in findings if "nor a taught head" not in one] == []  # the heads are not there

    changed = lookalike.make(real, 20, seed=3)
    keys = np.array([*range(10), *range(300, 310)])
    index.change(target, keys, changed, removed=np.arange(10, 15), again=np.arange(10))
    now = collection.open(collection.uri).table.scan(["image_id", "embedding"]).read_all().sort_by("image_id")
    found = [lookalike.key_of(image_id) for image_id in now.column("image_id").to_pylist()]
    assert found == [*range(10), *range(15, 310)]
    assert np.array_equal(
        np.array(now.column("embedding").to_pylist()[:10], np.float32),
        changed.vectors[:10].astype(np.float32),
    )


def collection_of_16(path):
    """What `open_target` returns, of a model with 16 values instead of 1280."""
    from tagger.collection import Collection, Config, Tagging
    from tagger.tags import Entry, Taxonomy

    labels = ("tabby", "lynx", "daisy")
    taxonomy = Taxonomy(
        tags=(Entry("tabby", ("cat",)), Entry("lynx", ("cat",)), Entry("daisy")), nodes=(Entry("cat"),)
    )
    config = Config(
        model_id="0123456789abcdef",
        model="tiny",
        dim=DIM,
        labels=labels,
        activation="softmax",
        tagging=Tagging.of(taxonomy, threshold=0.1, top_k=3),
    )
    from safetensors.numpy import save

    head = {"weight": np.eye(3, DIM, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    return SimpleNamespace(
        collection=Collection.create_or_open(str(path), config, taxonomy=taxonomy),
        taxonomy=taxonomy,
        prepared={"head.safetensors": save(head)},
    )


def test_nearest_is_what_sorting_all_of_them_gives():
    rng = np.random.default_rng(0)
    vectors, queries = rng.random((70, 8)).astype(np.float16), rng.random((5, 8)).astype(np.float32)
    keys = rng.permutation(1000)[:70]
    exact = [keys[np.argsort(-(vectors.astype(np.float32) @ query))[:10]].tolist() for query in queries]
    assert index.nearest(queries, [(vectors, keys)]) == exact
    apart = [(vectors[:3], keys[:3]), (vectors[3:50], keys[3:50]), (vectors[50:], keys[50:])]
    assert index.nearest(queries, apart) == exact
    assert [len(found) for found in index.nearest(queries, [(vectors[:4], keys[:4])])] == [4] * 5


def test_recall_is_the_share_of_exact_neighbours_found():
    assert index.recall([[1, 2, 3], [4]], [[1, 2, 9], [4]]) == 0.75
    assert index.recall([[]], [[]]) == 0


def test_the_effort_is_the_fastest_that_finds_enough():
    measured = {1: (0.90, 1.0), 2: (0.96, 2.0), 3: (0.99, 3.0), 10: (0.5, 0.1), 11: (0.95, 1.5)}
    asked = []

    def try_out(effort):
        asked.append(effort["n"])
        return measured[effort["n"]]

    ladders = [[{"n": 1}, {"n": 2}, {"n": 3}], [{"n": 10}, {"n": 11}]]
    assert index.choose(ladders, try_out, 0.95) == {"n": 11}
    assert asked == [1, 2, 10, 11]  # a ladder ends where enough is found
    assert index.choose(ladders, try_out, 0.999) == {"n": 3}  # nobody finds enough: the best there is


def test_one_thread_asks_every_query_once():
    asked = []
    queries = np.arange(40, dtype=np.float32)[:, None]
    found = worker.measure(lambda query: asked.append(float(query[0])), queries, threads=1, limit_s=5)
    assert found["queries"] == 40
    assert asked[worker.WARM_UP :] == queries[:, 0].tolist()
    assert found["p50_ms"] <= found["p99_ms"]
    assert worker.measure(lambda _: None, queries, threads=1, limit_s=0)["queries"] == 1


def test_the_rate_of_threads_that_wait_for_each_other_is_that_of_one():
    turn = threading.Lock()

    def search(_):
        with turn:
            time.sleep(0.002)

    found = worker.measure(search, np.zeros((30, 2), np.float32), threads=4, limit_s=0.3)
    assert found["per_s"] <= 1 / 0.002  # and not four times that, however they take turns
    assert found["queries"] >= 4


def test_medians_are_taken_number_by_number():
    turns = [{"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 7.0}, {"a": 9.0, "b": 8.0}]
    assert index.medians(turns) == {"a": 2.0, "b": 8.0}


def test_files_are_taken_out_of_the_page_cache_and_stay_whole(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 10_000)
    index.forget(tmp_path)
    assert (tmp_path / "deep" / "file").read_bytes() == b"x" * 10_000


def test_a_job_survives_its_way_to_another_process(tmp_path):
    job = worker.Job(tmp_path / "v", 5, 8, tmp_path / "a.npy", "collection", tmp_path, 2)
    assert worker.Job.from_json(job.to_json()) == job


def test_an_engine_that_cannot_start_is_an_error(tmp_path):
    job = worker.Job(tmp_path / "v", 5, 8, tmp_path / "a.npy", "collection", tmp_path, 2)
    with EngineProcess("no_such_engine", job) as process, pytest.raises(RuntimeError, match="no_such_engine"):
        process.ask("build")


def turn(p50, p99=None, recall=0.97, effort=None):
    threads = {"p50_ms": p50, "p99_ms": p99 or 2 * p50, "per_s": 1000 / p50, "queries": 100}
    return {"recall": recall, "effort": effort or {}, "threads": {"1": threads, "8": threads}}


def some_results():
    command = {"wall_s": 100.0, "cpu_s": 150.0, "peak_bytes": 2e9, "recall_at_10": 0.96, "how": "built"}
    opened = {"kind": "ivf", "lists": 2048, "code_bytes": 256, "nprobe": 8, "depth": 100, "bytes": 3e9}
    opened |= {"files": {"vectors-0.f16": 2_560_000_000, "codes.faiss": 264_000_000}, "build_s": 2.0}
    opened |= {"own_bytes": 5e8, "count": 1_000_000}
    memory = {"own": 5e8, "mapped": 2.6e9}
    mine = {"tagger, whole query": turn(1.2), "tagger, ranks": turn(0.9)}
    alike = {"rows": 12_000, "nearest": [0.8, 0.9, 0.95], "tenth": [0.7, 0.8, 0.9], "random": [0.1, 0.2, 0.3]}
    alike |= {"axes": [300, 500, 1000], "zeros": 0.4}
    update = {"removed": 3333, "retagged": 3333, "new": 3333, "queries": 7666, "removed_found": 0}
    update |= {"changed_found": 1.0, "index": command | {"wall_s": 9.0, "how": "updated"}}
    return {
        "date": "2026-01-02",
        "quick": False,
        "plan": index.FULL.__dict__,
        "load_before": 0.0,
        "machine": {"cores": 2, "cpu": "x", "memory_bytes": 2**34, "system": "Linux", "python": "3.11"}
        | {"versions": {"faiss-cpu": "1.15.1"}},
        "alike": {"real": alike, "look-alikes": alike},
        "large": {
            "count": 1_000_000,
            "build": command,
            "cold": opened | {"build_s": 4.0},
            "opened": opened,
            "memory": memory,
            "unfiltered": mine | {"bare FAISS": turn(0.8)},
            "filtered": {
                tag: turn(2.0, recall=1.0) | {"admitted": 10_000, "first_ms": 9.0} for tag in lookalike.TAUGHT
            },
            "update": turn(1.0) | update,
            "retag": {"index": command},
        },
        "small": {
            "count": 200_000,
            "admitted": 2000,
            "kinds": {
                kind: command | {"opened": opened, "memory": memory} | turn(1.0) for kind in ("flat", "ivf")
            },
            "built": {
                "tagger": opened,
                "bare FAISS": opened,
                "hnswlib": {"build_s": 30.0, "memory": memory, "settings": "M 16"},
            },
            "unfiltered": {"least": 0.97, "engines": mine | {"hnswlib": turn(0.9), "LanceDB": turn(6.0)}},
            "filtered": {"least": 0.95, "engines": mine | {"hnswlib": turn(9.0, effort={"ef": 40})}},
        },
    }


def test_promises_are_judged_by_what_was_measured():
    found = {target.name: (target.value, target.met) for target in index_report.targets(some_results())}
    assert found["recall@10 at 1,000,000"] == (0.97, True)
    assert found["tagger, ranks ÷ bare FAISS, p50, 1 thread"] == (pytest.approx(1.125), True)
    assert found["tagger, whole query ÷ bare FAISS, p99, 8 threads"] == (pytest.approx(1.5), False)
    assert found["update of 1 % ÷ build, time"] == (pytest.approx(0.09), True)
    assert found["removed images in the answers to 7,666 queries"] == (0, True)
    assert found["tagger ÷ hnswlib at 200,000"] == (pytest.approx(1.2 / 0.9), True)
    assert found["LanceDB ÷ tagger at 200,000"] == (pytest.approx(5.0), True)
    assert found["hnswlib ÷ tagger at 200,000, filter of 1 %"] == (pytest.approx(7.5), True)
    assert found["usearch ÷ tagger at 200,000, filter of 1 %"] == (None, None)
    json.dumps(report.as_json(index_report.targets(some_results())))


def test_the_report_tells_what_was_measured():
    text = index_report.render(some_results())
    assert "### 1,000,000 images" in text
    assert "### Peers, at 200,000 images" in text
    assert " ef 40 |" in text
    assert "vectors 2,560, codes 264" in text
    assert "MISSED" in text
    assert "not measured" in text


@pytest.mark.parametrize("left_out", ["small", "large"])
def test_a_report_of_one_half_is_a_report(left_out):
    results = some_results()
    del results[left_out]
    assert "### Promises of the index" in index_report.render(results)


def test_the_page_has_the_markers_of_the_index():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    written = report.replace_block(page, "x", begin=index_report.BEGIN, end=index_report.END)
    assert written.count("\nx\n") == 1
    assert report.BEGIN in written


def test_modules_import_no_peer():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench.index; "
        "print(*{'lancedb', 'hnswlib', 'usearch', 'faiss', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
