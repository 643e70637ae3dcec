import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from collection_kit import (
    DIM,
    LABELS,
    MODEL_ID,
    TAXONOMY,
    add_rows,
    contents,
    ids,
    make_collection,
    make_config,
    make_rows,
)

from tagger.collection import Collection, Config, Tagging
from tagger.errors import CollectionError, UsageError
from tagger.storage import open_store


def test_round_trip():
    config = make_config(wnids=("n01", "n02", "n03", "n04"), next=Tagging(0.5, 2, "a", "b", 7))
    assert Config.from_json(config.to_json(), "here") == config


def test_a_new_collection_is_what_was_asked_for(place):
    made = make_collection(place)
    opened = Collection.open(place)
    assert opened.config == made.config == make_config()
    assert (opened.table.rows, opened.table.serial, opened.table.counter) == (0, 0, 0)
    assert opened.taxonomy() == TAXONOMY
    document = json.loads(opened.store.read("collection.json"))
    assert document["format_version"] == 1
    assert {"model_id": MODEL_ID, "model": "tiny", "dim": DIM, "top_k": 3}.items() <= document.items()
    assert document["taxonomy"] == {"file": f"taxonomy/{TAXONOMY.sha256}.json", "sha256": TAXONOMY.sha256}
    assert document["labels"] == list(LABELS)


def test_opening_again_keeps_the_settings_of_the_rows(place):
    make_collection(place)
    again = make_collection(place, tagging=Tagging(0.9, 1))
    assert again.config.tagging == make_config().tagging


def test_another_model_is_refused(place):
    make_collection(place)
    with pytest.raises(
        CollectionError, match=r"was made by model tiny .* not by other .* make a new collection"
    ) as error:
        make_collection(place, model_id="f" * 64, model="other")
    assert error.value.exit_code == 2
    with pytest.raises(CollectionError, match="with other weights or preprocessing"):
        make_collection(place, model_id="f" * 64)


@pytest.mark.parametrize("turn", range(4))
def test_racing_creators_share_one_collection(place, turn):
    """Also those that see the other's files only after they looked for its collection.json."""
    made, errors = [], []

    def create(i):
        time.sleep(turn * i / 200)  # together, and one after the other's first steps
        try:
            made.append(make_collection(place, model_id=f"{i % 2}" * 64))
        except CollectionError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for error in errors if "was made by model tiny" not in error] == []
    assert len(made) == len(errors) == 4
    assert len({c.config.model_id for c in made}) == 1
    assert {c.table.version for c in made} == {0}


def test_a_creation_that_was_cut_short_is_finished(place):
    store = open_store(place)
    store.put("collection.json", make_config().to_json())
    with pytest.raises(CollectionError, match="no tags table; start `tagger tag` on it again"):
        Collection.open(place)
    assert make_collection(place).table.rows == 0
    assert Collection.open(place).table.version == 0


def test_parts_without_a_log_are_not_made_into_an_empty_table(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 3)))
    log = [info.name for page in collection.store.list("tags/_delta_log/") for info in page]
    collection.store.delete(log)
    with pytest.raises(CollectionError, match="no transaction log; restore"):
        make_collection(place)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not json", "not the file of a tagger collection"),
        (b'{"something": "else"}', "not the file of a tagger collection"),
        (b"[1]", "not the file of a tagger collection"),
        (b'{"format_version": 2, "model_id": "x"}', "has format 2, and this release reads format 1"),
        (b'{"format_version": 1, "model_id": "x"}', "is damaged"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path, data, message):
    (tmp_path / "collection.json").write_bytes(data)
    for way in (Collection.open, make_collection):
        with pytest.raises(CollectionError, match=message):
            way(str(tmp_path))


def test_a_folder_with_other_files_is_not_made_a_collection(place):
    open_store(place).put("holiday/photo.jpg", b"x")
    with pytest.raises(CollectionError, match=r"holds other files \(holiday/photo.jpg\)"):
        make_collection(place)
    assert not open_store(place).exists("collection.json")


def test_hidden_files_do_not_make_a_folder_foreign(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert make_collection(tmp_path).table.rows == 0


def test_what_is_no_collection(place):
    with pytest.raises(CollectionError, match="is not a collection; `tagger tag SOURCE"):
        Collection.open(place)


def test_memory_is_no_place_for_a_collection():
    with pytest.raises(UsageError, match="memory://"):
        make_collection("memory://m/collection")


def test_settings_that_differ_from_the_rows_name_retag():
    config = make_config()
    config.require_tagging("here")
    config.require_tagging("here", threshold=0.1, top_k=3, taxonomy_sha256=TAXONOMY.sha256)
    for asked, text in (({"threshold": 0.2}, "threshold 0.1, not 0.2"), ({"top_k": 4}, "top_k 3, not 4")):
        with pytest.raises(CollectionError, match=f"{text}.*tagger retag"):
            config.require_tagging("here", **asked)
    with pytest.raises(CollectionError, match="another taxonomy"):
        config.require_tagging("here", taxonomy_sha256="f" * 64)


def test_the_serial_of_the_table_decides_which_settings_hold():
    coming = Tagging(0.5, 2, serial=4)
    config = replace(make_config(), next=coming)
    assert config.in_force(0) == make_config()
    assert config.in_force(4) == replace(make_config(), tagging=coming)


def test_an_altered_taxonomy_is_noticed(tmp_path):
    collection = make_collection(tmp_path)
    file = tmp_path / collection.config.tagging.taxonomy_file
    file.write_text(file.read_text().replace("tabby", "taby"))
    with pytest.raises(CollectionError, match=r"is not the taxonomy that collection.json names"):
        collection.taxonomy()
    file.unlink()
    with pytest.raises(CollectionError, match="cannot be read"):
        collection.taxonomy()


def test_a_config_restored_from_an_older_backup_is_noticed(tmp_path):
    collection = make_collection(tmp_path)
    config = Path(tmp_path / "collection.json")
    old = config.read_bytes()
    with collection.writer("r", "tagger retag") as writer:
        collection.announce(replace(collection.config.tagging, serial=1))
        writer.commit(serial=1)
        collection.settle()
    config.write_bytes(old)
    with pytest.raises(CollectionError, match="is not of its tags table"):
        Collection.open(str(tmp_path))


@pytest.mark.parametrize("name", ["spaces and ünïcode 🎈", "100%", "[x]*'&c=d+e", 'a~b`c|d^e<f>"g'])
def test_places_with_odd_names_hold_collections(place, name):
    collection = make_collection(f"{place}/{name}")
    add_rows(collection, make_rows(ids(0, 2)))
    assert len(contents(collection)) == 2
    names = [info.name for page in open_store(place).list() for info in page]
    assert all(found.startswith(name + "/") for found in names)


@pytest.mark.parametrize("name", ["a%2Fb", "a%41", "tab\t", "back\\slash", "\udcff"])
def test_places_that_a_delta_reader_would_look_for_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="may not hold %XX"):
        make_collection(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2100, f"link/{'x' * 300}"])
def test_places_that_the_file_system_cannot_name_are_refused(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path)
    for way in (make_collection, lambda uri: Collection.find(uri, make_config())):
        with pytest.raises(CollectionError, match=r"cannot be a collection: .*File name too long"):
            way(f"{tmp_path}/{name}")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.s3
@pytest.mark.parametrize("name", ["a%2Fb", "h#q", "w?", "a//b", "a/../b", "..", "."])
def test_prefixes_that_a_delta_reader_would_look_for_elsewhere_are_refused(s3_env, name):
    with pytest.raises(UsageError, match="may not hold %XX"):
        make_collection(f"s3://some-bucket/{name}")
