"""Wrong use: one clear sentence, the right exit code, no traceback, no secret, nothing made or lost."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from driving import Outcome, tagger
from wrong import mounted, refusing_server, snapshot

from tagger.engine.options import TagOptions
from tagger.engine.targets import open_targets, wishes
from tagger.settings import load_settings
from tagger.storage import StorageOptions

if TYPE_CHECKING:
    from pathlib import Path

    from tagger.testing import Bucket, SeaweedFS

SECRET = "wrong-secret-that-must-not-be-shown"


@pytest.fixture
def photos(tmp_path: Path, jpegs: dict[str, bytes]) -> Path:
    """A folder with three photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in list(jpegs)[:3]:
        (folder / name).write_bytes(jpegs[name])
    return folder


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Where a collection could be made."""
    return tmp_path / "collection"


def refused(*args: str | Path, code: int = 2, env: dict[str, str] | None = None) -> str:
    """Run a command that must be refused before any work; returns its sentence."""
    said: Outcome = tagger(*args, env=env, timeout=60).require(code)
    assert said.stdout == ""
    assert SECRET not in said.stderr
    assert said.stderr.startswith("tagger: ")
    assert len(said.stderr.strip().splitlines()) == 1, said.stderr
    assert len(said.sentence) < 500
    return said.sentence


def test_a_missing_folder(tmp_path: Path, collection: Path) -> None:
    assert str(tmp_path / "nowhere") in refused("tag", tmp_path / "nowhere", collection)
    assert not collection.exists()


def test_a_folder_without_images(tmp_path: Path, collection: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no image" in refused("tag", tmp_path / "empty", collection)
    (tmp_path / "empty" / ".hidden.jpg").write_bytes(b"x")
    assert "no image" in refused("tag", tmp_path / "empty", collection)
    assert not collection.exists()


def test_globs_that_match_nothing(photos: Path, collection: Path) -> None:
    said = refused("tag", photos, collection, "--include", "*.png")
    assert "--include" in said
    assert not collection.exists()


@pytest.mark.s3
def test_a_missing_bucket(bucket: Bucket, photos: Path, collection: Path) -> None:
    assert "s3://no-such-bucket-here" in refused("tag", "s3://no-such-bucket-here/photos", collection)
    assert not collection.exists()
    assert "s3://no-such-bucket-here" in refused("tag", photos, "s3://no-such-bucket-here/collection")
    assert "s3://no-such-bucket-here" in refused("check", "s3://no-such-bucket-here/collection")


@pytest.mark.s3
def test_a_bucket_name_that_cannot_be(bucket: Bucket, collection: Path) -> None:
    refused("tag", "s3://", collection)
    refused("tag", "s3://A_b/photos", collection)
    assert not collection.exists()


@pytest.mark.s3
def test_an_empty_prefix(bucket: Bucket, collection: Path) -> None:
    bucket.put("photos/", b"")
    assert f"{bucket.uri}/photos" in refused("tag", f"{bucket.uri}/photos", collection)
    assert f"{bucket.uri}/phot" in refused("tag", f"{bucket.uri}/phot", collection)
    assert not collection.exists()


@pytest.mark.s3
@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_SECRET_ACCESS_KEY": SECRET},
        {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": SECRET},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_PROFILE": "no-such-profile"},
    ],
    ids=["wrong secret", "unknown key", "none", "unknown profile"],
)
def test_wrong_credentials(
    bucket: Bucket, photos: Path, collection: Path, jpegs: dict[str, bytes], variables: dict[str, str]
) -> None:
    bucket.put("a.jpg", jpegs["photo_0000000.jpg"])
    word = "profile" if "AWS_PROFILE" in variables else "credentials"
    assert word in refused("tag", bucket.uri, collection, env=variables)
    assert not collection.exists()
    assert word in refused("tag", photos, f"{bucket.uri}/collection", env=variables)
    assert word in refused("check", f"{bucket.uri}/collection", env=variables)
    assert bucket.keys() == ["a.jpg"]


@pytest.mark.parametrize(
    ("status", "code"), [(400, "ExpiredToken"), (403, "RequestTimeTooSkewed"), (401, "")]
)
def test_expired_credentials(collection: Path, photos: Path, s3: SeaweedFS, status: int, code: str) -> None:
    with refusing_server(status, code) as endpoint:
        env = {**s3.env(), "AWS_ENDPOINT_URL": endpoint, "AWS_SESSION_TOKEN": SECRET}
        assert "credentials" in refused("tag", "s3://bucket/photos", collection, env=env)
        assert "credentials" in refused("tag", photos, "s3://bucket/collection", env=env)
    assert not collection.exists()


def test_an_endpoint_that_nobody_answers(collection: Path, photos: Path, s3: SeaweedFS) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        env = {
            **s3.env(),
            "AWS_ENDPOINT_URL": endpoint,
            "TAGGER_PATIENCE_S": "1",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        assert endpoint in refused("tag", "s3://bucket/photos", collection, env=env, code=1)
        assert endpoint in refused("tag", photos, "s3://bucket/collection", env=env, code=1)
        assert endpoint in refused("check", "s3://bucket/collection", env=env, code=1)
    assert not collection.exists()


def test_an_unknown_model(photos: Path, collection: Path, tmp_path: Path) -> None:
    assert "resnet5O" in refused("tag", photos, collection, "--model", "resnet5O")
    refused("tag", photos, collection, "--model", tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_bytes(b"not weights at all")
    refused("tag", photos, collection, "--model", tmp_path / "text.safetensors")
    assert not collection.exists()


def test_another_model_on_a_collection(photos: Path, collection: Path) -> None:
    make_collection(collection)
    before = snapshot(collection)
    line = ("tag", photos, collection, "--model", "efficientnet_lite2")
    said = refused(*line)
    assert "new collection" in said
    assert refused(*line, "--dry-run") == said  # a dry run tells what a run would
    assert snapshot(collection) == before


def test_a_second_collection_that_cannot_be(photos: Path, collection: Path) -> None:
    other = collection.with_name("other")
    assert "no-such-model" in refused("tag", photos, collection, "--also", f"no-such-model={other}")
    make_collection(other)
    before = snapshot(other)
    lite2 = ("--model", "efficientnet_lite2", "--also", f"efficientnet_lite2={other}")
    assert "new collection" in refused("tag", photos, collection, *lite2)
    assert not collection.exists()
    assert snapshot(other) == before


def test_a_program_that_asked_for_json_is_told_too(tmp_path: Path, collection: Path) -> None:
    said = tagger("tag", tmp_path / "nowhere", collection, "--json").require(2)
    assert said.json == {"error": said.sentence, "exit_code": 2}
    slip = tagger("check", "--json").require(2)
    assert slip.json["exit_code"] == 2
    assert "COLLECTION" in slip.json["error"]


def test_failures_in_two_formats_at_once(collection: Path) -> None:
    make_collection(collection)
    said = tagger("failures", collection, "--csv", "--json").require(2)
    assert "--csv and --json" in said.sentence


def test_other_tag_settings_on_a_collection(photos: Path, collection: Path, tmp_path: Path) -> None:
    make_collection(collection)
    before = snapshot(collection)
    assert "retag" in refused("tag", photos, collection, "--threshold", "0.9")
    assert "retag" in refused("tag", photos, collection, "--top-k", "3")
    (tmp_path / "words.tsv").write_text("rename\ttabby\ttabby cat\n")
    assert "retag" in refused("tag", photos, collection, "--taxonomy", tmp_path / "words.tsv")
    assert snapshot(collection) == before


def test_a_folder_that_holds_other_things(photos: Path) -> None:
    before = snapshot(photos)
    assert "lies in the collection" in refused("tag", photos, photos)
    assert "not a collection" in refused("tag", photos / "photo_0000000.jpg", photos)
    for command in ("check", "failures", "report", "retag"):
        assert "not a collection" in refused(command, photos)
    assert "other files" in refused("demo", photos)
    assert snapshot(photos) == before


def test_a_collection_that_was_tampered_with(photos: Path, collection: Path) -> None:
    make_collection(collection)
    config = collection / "collection.json"
    whole = config.read_text()
    future = json.dumps({**json.loads(whole), "format_version": 99})
    for broken in ("", "{", "[]", future):
        config.write_text(broken)
        before = snapshot(collection)
        assert "collection.json" in refused("tag", photos, collection) or broken == future
        refused("check", collection)
        assert snapshot(collection) == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.csv", b"\xff\xfe\x00broken"),
        ("list.csv", b"width,height\n3,4\n"),
        ("list.parquet", b"PAR1 but not really PAR1"),
        ("list.jsonl", b'{"uri": "a.jpg"}\n{"uri": \n'),
        ("list.csv", b""),
        ("manifest.json", b"{}"),
        ("list.csv.gz", gzip.compress(b"uri\na.jpg\n", mtime=0)[:-9]),
    ],
)
def test_an_unreadable_manifest(tmp_path: Path, collection: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert name in refused("tag", tmp_path / name, collection)
    assert not collection.exists()


def test_prune_that_could_not_know_what_is_gone(tmp_path: Path, photos: Path, collection: Path) -> None:
    make_collection(collection)
    before = snapshot(collection)
    (tmp_path / "list.csv").write_text(f"uri\n{photos}/photo_0000000.jpg\n")
    assert "manifest" in refused("tag", tmp_path / "list.csv", collection, "--prune")
    assert snapshot(collection) == before
    (tmp_path / "empty").mkdir()
    assert "check both addresses" in refused("tag", tmp_path / "empty", tmp_path / "mistyped", "--prune")
    assert not (tmp_path / "mistyped").exists()


def test_a_manifest_that_names_an_image_twice(tmp_path: Path, photos: Path, collection: Path) -> None:
    lines = [f"{photos}/photo_000000{n}.jpg" for n in (0, 1, 0)]
    (tmp_path / "list.csv").write_text("uri\n" + "".join(f"{line}\n" for line in lines))
    assert re.search(r"lines 2, 4\b", refused("tag", tmp_path / "list.csv", collection))
    assert not collection.exists()
    rows = [{"uri": line, "image_id": name} for line, name in zip(lines, ("a", "b", "a"), strict=True)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert re.search(r"lines 1, 3\b", refused("tag", tmp_path / "list.jsonl", collection))
    assert not collection.exists()


@pytest.mark.parametrize(
    "text", ["no tabs here\n", "\x00\xff", "- just\n- a list\n", "labels: {tabby: {threshold: 7}}\n"]
)
@pytest.mark.parametrize("ending", ["tsv", "yaml"])
def test_a_bad_taxonomy(photos: Path, collection: Path, tmp_path: Path, text: str, ending: str) -> None:
    file = tmp_path / f"words.{ending}"
    file.write_bytes(text.encode("latin-1"))
    assert file.name in refused("tag", photos, collection, "--taxonomy", file)
    assert not collection.exists()
    make_collection(collection)
    before = snapshot(collection)
    assert file.name in refused("retag", collection, "--taxonomy", file)
    assert snapshot(collection) == before


def test_a_missing_taxonomy(photos: Path, collection: Path, tmp_path: Path) -> None:
    assert "none.tsv" in refused("tag", photos, collection, "--taxonomy", tmp_path / "none.tsv")
    assert "words" in refused("tag", photos, collection, "--taxonomy", _folder(tmp_path / "words"))
    assert not collection.exists()


@pytest.mark.parametrize(
    "line",
    [
        "--limit -1",
        "--top-k 0",
        "--threshold 1.5",
        "--threshold nan",
        "--max-failed -0.1",
        "--max-failed 5",
        "--cpus 0",
        "--fetch-tasks 0",
        "--model-actors 0",
        "--model-threads 0",
        "--chunk-rows 0",
        "--chunk-rows 513",
        "--max-pixels 0",
        "--max-image-bytes 0",
        "--decode-timeout-s 0",
        "--decode-timeout-s nan",
        "--price 3",
        "--dry-run --price -1",
        "--dry-run --price nan",
        "--prune --limit 3",
        "--also efficientnet_lite2",
        "--also =x",
        "--also efficientnet_lite2={collection}",
        "--address 203.0.113.5:6379",
    ],
)
def test_numbers_and_options_that_cannot_be(photos: Path, collection: Path, line: str) -> None:
    words = line.format(collection=collection).split()
    assert next(word for word in reversed(words) if word.startswith("--")) in refused(
        "tag", photos, collection, *words
    )
    assert not collection.exists()


@pytest.mark.parametrize(
    "line", ["--limit three", "--threshold high", "--backend tensorflow", "--precision int3"]
)
def test_words_where_numbers_belong(photos: Path, collection: Path, line: str) -> None:
    said = tagger("tag", photos, collection, *line.split()).require(2)
    assert line.split(maxsplit=1)[0] in said.stderr
    assert "Traceback" not in said.stderr
    assert not collection.exists()


@pytest.mark.parametrize(
    "variable",
    ["TAGGER_CPUS=0", "TAGGER_PATIENCE_S=soon", "TAGGER_REQUEST_TIMEOUT_S=0", "TAGGER_OBJECT_STORE_BYTES=1"],
)
def test_settings_that_cannot_be(photos: Path, collection: Path, variable: str) -> None:
    name, _, value = variable.partition("=")
    assert name in refused("tag", photos, collection, env={name: value})
    assert not collection.exists()


def test_a_cache_folder_that_cannot_be_made(photos: Path, collection: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = tagger("tag", photos, collection, env={"TAGGER_CACHE": str(tmp_path / "file" / "cache")})
    assert said.code in (1, 2)
    assert str(tmp_path / "file") in said.sentence


def test_addresses_of_no_kind(photos: Path, collection: Path) -> None:
    for source in ("ftp://host/photos", "http://host/photos", "https://host/a.jpg", ""):
        refused("tag", source, collection)
    for odd in ("ftp://host/c", "memory://c", ""):
        refused("tag", photos, odd)
    assert not collection.exists()


def test_a_collection_inside_a_file(photos: Path) -> None:
    before = snapshot(photos)
    said = tagger("tag", photos, photos / "photo_0000000.jpg" / "collection")
    assert said.code in (1, 2)
    assert "photo_0000000.jpg" in said.sentence
    assert snapshot(photos) == before


def test_a_read_only_folder(photos: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "fixed", "ro,size=1m") as folder:
        said = tagger("tag", photos, folder / "collection")
        assert said.code in (1, 2)
        assert str(folder) in said.sentence
        assert snapshot(folder) == {}


def test_no_space_for_a_new_collection(photos: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=16k") as folder:
        said = tagger("tag", photos, folder / "collection").require(1)
        assert "space" in said.sentence


def test_a_collection_that_cannot_be_a_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "is not a folder" in refused("tag", photos, place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_cluster_that_nobody_started(photos: Path, collection: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can be there
        taken.bind(("127.0.0.1", 0))
        line = ("tag", photos, collection, "--address", f"127.0.0.1:{taken.getsockname()[1]}")
        assert "does not answer" in refused(*line, code=1)


def test_failures_that_cannot_be_read_to_the_end(photos: Path, collection: Path) -> None:
    make_collection(collection)
    log = collection / "tags" / "_delta_log"
    add = {"add": {"path": "gone.parquet", "size": 1, "partitionValues": {}, "modificationTime": 0}}
    (log / f"{1:020}.json").write_text(json.dumps(add | {"add": {**add["add"], "dataChange": True}}))
    said = tagger("failures", collection, "--json").require(1)
    assert said.json == {"error": said.sentence, "exit_code": 1}
    assert "gone.parquet" in said.sentence


def test_a_scheduler_that_closes_stderr(collection: Path) -> None:
    make_collection(collection)
    command = [
        sys.executable,
        "-P",
        "-c",
        "from tagger.cli import main; main()",
        "check",
        collection,
        "--json",
    ]
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *map(str, command)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True


def make_collection(folder: Path) -> None:
    """Make a collection of the default model without rows, as a first run does before it tags."""
    options, storage = TagOptions(), StorageOptions()
    open_targets(wishes(str(folder), options, storage, load_settings()), options, storage)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_name_that_a_terminal_would_obey(tmp_path: Path, collection: Path) -> None:
    for name in ("\x1b[31mred\x1b]0;title\x07", "two\nlines", "right\u202eleft", os.fsdecode(b"\xff")):
        said = refused("tag", tmp_path / name, collection)
        assert said.isprintable()
    assert not collection.exists()
