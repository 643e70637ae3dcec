"""`retag` needs the collection and nothing else: not the model, its weights or its name."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tagger.collection import Collection, Config, Tagging, part_name, write_part
from tagger.collection.schema import SCHEMA
from tagger.engine.retag import retag
from tagger.errors import CollectionError
from tagger.models.head import Head, head_to_bytes
from tagger.tags import load_taxonomy

LABELS = ("apple", "pear")
HEAD = head_to_bytes(Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)))


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """One picture of a pear, tagged by a checkpoint that nobody has any more."""
    taxonomy = load_taxonomy(None, LABELS, None)
    config = Config(
        model_id="0" * 64,
        model="mine",
        dim=2,
        labels=LABELS,
        activation="softmax",
        tagging=Tagging.of(taxonomy, threshold=0.99, top_k=1),
        head_sha256=hashlib.sha256(HEAD).hexdigest(),
    )
    made = Collection.create_or_open(
        str(tmp_path / "collection"), config, taxonomy=taxonomy, head=lambda: HEAD
    )
    row = dict.fromkeys(SCHEMA.names) | {
        "image_id": "file:///pear.jpg",
        "uri": "file:///pear.jpg",
        "status": "tagged",
        "tags": [],
        "categories": [],
        "embedding": [0.0, 1.0],
        "embedding_norm": 3.0,
        "model_id": "0" * 64,
        "run_id": "run-a",
        "tagged_at": 1_700_000_000_000_000,
    }
    part = write_part(made.store, pa.Table.from_pylist([row], SCHEMA), part_name("run-a"))
    with made.writer("run-a", "tag") as writer:
        writer.commit([part])
    return made


def test_a_checkpoint_that_is_gone_is_not_missed(collection: Collection) -> None:
    retag(collection.uri, threshold=0.5)
    (row,) = Collection.open(collection.uri).tags(["tags"]).read_all().to_pylist()
    assert [(tag["tag"], tag["source"]) for tag in row["tags"]] == [("pear", "mine")]
    assert row["tags"][0]["score"] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)


def test_an_altered_last_layer_is_refused(collection: Collection) -> None:
    path = Path(collection.uri.removeprefix("file://")) / (collection.config.head_file or "")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CollectionError, match="is not the model's last layer"):
        retag(collection.uri, threshold=0.5)
    path.unlink()
    with pytest.raises(CollectionError, match="cannot be read"):
        retag(collection.uri, threshold=0.5)


def test_a_collection_without_it_says_so(collection: Collection) -> None:
    path = Path(collection.uri.removeprefix("file://")) / "collection.json"
    document = json.loads(path.read_text())
    document["head"]["sha256"] = None
    path.write_text(json.dumps(document))
    with pytest.raises(CollectionError, match="does not keep its model's last layer"):
        retag(collection.uri, threshold=0.5)
