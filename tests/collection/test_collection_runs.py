import json
import re

import pytest
from collection_kit import make_collection

from tagger.collection import new_run_id
from tagger.collection.runs import versions, without_secrets
from tagger.errors import RunError


def test_run_ids_sort_by_time_and_differ():
    made = {new_run_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", run_id) for run_id in made)


def test_a_record_is_written_at_both_ends(place):
    collection = make_collection(place)
    record = collection.record("run-a")
    record.start({"source": "s3://photos", "limit": None})
    started = json.loads(collection.store.read("runs/run-a/run.json"))
    assert (started["state"], started["settings"]) == ("running", {"source": "s3://photos", "limit": None})
    assert started["versions"].keys() >= {"python", "deltalake", "pyarrow"}
    record.finish("done", {"listed": 3})
    ended = next(iter(collection.runs()))
    assert ended["state"] == "done"
    assert ended["result"] == {"listed": 3}
    assert ended["started_at"] == started["started_at"] <= ended["ended_at"]
    assert collection.run_uri("run-a") == f"{collection.uri}/runs/run-a"


def test_runs_come_oldest_first_and_other_files_are_left_out(place):
    collection = make_collection(place)
    for run_id in ("c", "a", "b"):
        collection.record(run_id).start({})
    collection.store.put("runs/a/plan/run.json", b"[]")
    assert [run["run_id"] for run in collection.runs()] == ["a", "b", "c"]
    collection.store.put("runs/b/run.json", b"{")
    with pytest.raises(RunError, match=r"runs/b/run.json cannot be read"):
        list(collection.runs())


def test_secrets_stay_out_of_records(tmp_path):
    collection = make_collection(tmp_path)
    record = collection.record("run-a")
    record.start(
        {
            "aws_secret_access_key": "hunter2",
            "nested": {
                "api_key": "hunter2",
                "tokens": ["hunter2"],
                "source": "s3://b/p?x-amz-signature=hunter2",
            },
            "endpoint": "https://user:hunter2@host/path",
            "limit": 5,
        }
    )
    text = (tmp_path / "runs/run-a/run.json").read_text()
    assert "hunter2" not in text
    assert json.loads(text)["settings"]["limit"] == 5
    assert json.loads(text)["settings"]["endpoint"] == "https://host/path"


def test_odd_values_do_not_break_a_record(tmp_path):
    record = make_collection(tmp_path).record("run-a")
    record.start({"path": tmp_path, "odd": "\udcff", "set": {1}})
    assert json.loads((tmp_path / "runs/run-a/run.json").read_text())["settings"]["path"] == str(tmp_path)


def test_what_is_no_secret_stays():
    settings = {"model": "efficientnet_lite0", "include": ["*.jpg"], "key": None, "uri": "s3://b/a?b"}
    assert without_secrets(settings) == settings
    assert "tagger" in versions()
