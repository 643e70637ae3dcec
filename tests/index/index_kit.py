"""Collections to index, made column by column, and the NumPy oracle that answers are compared with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from collection_kit import MODEL_ID, TAXONOMY, ids, make_collection, put_rows

from tagger.collection import SCHEMA, Collection, Config, Tagging
from tagger.index import Index, index

COLORS = ("red", "green", "blue")


def vectors_of(n, *, dim, seed, clusters=0):
    """`n` unit vectors as the table rounds them; in `clusters` heaps of few dimensions, or anywhere."""
    rng = np.random.default_rng([seed, n, dim])
    if clusters:
        shared = np.random.default_rng([seed, dim])  # the same heaps for every n
        centres = shared.normal(size=(clusters, dim))
        axes = shared.normal(size=(6, dim))
        vectors = centres[rng.integers(clusters, size=n)] + 0.6 * rng.normal(size=(n, 6)) @ axes
        vectors += 0.2 * rng.normal(size=(n, dim))
    else:
        vectors = rng.normal(size=(n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def turned(vector, cosine, seed):
    """A vector with this cosine to another."""
    rng = np.random.default_rng(seed)
    vector = np.asarray(vector, np.float64)
    other = rng.normal(size=len(vector))
    other -= other @ vector * vector
    other /= np.linalg.norm(other)
    return (cosine * vector + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def rows_of(image_ids, vectors, *, seed=0, failed=(), mark="x"):
    """Rows with these embeddings, and words, colours, sizes and hashes that the seed and the id decide."""
    image_ids = list(image_ids)
    n = len(image_ids)
    failed = set(failed)
    rng = np.random.default_rng([seed, n])
    words = ["tabby", "lynx", "daisy", "bridge"]
    rows = []
    for i in range(n):
        bad = image_ids[i] in failed
        chosen = rng.permutation(4)[: rng.integers(0, 3)]
        scores = np.sort(rng.integers(1500, 10_000, size=len(chosen)))[::-1] / 10_000
        tags = [{"tag": words[w], "score": s, "source": "tiny"} for w, s in zip(chosen, scores, strict=True)]
        parents = {"tabby": "cat", "lynx": "cat", "daisy": "flower"}
        sums = {}
        for tag in tags:
            if tag["tag"] in parents:
                name = parents[tag["tag"]]
                sums[name] = min(1.0, sums.get(name, 0.0) + tag["score"])
        categories = [{"tag": name, "score": score} for name, score in sums.items() if score >= 0.5]
        color = {
            "hex": "#102030",
            "name": COLORS[rng.integers(3)],
            "fraction": float(rng.integers(1, 9)) / 10,
        }
        rows.append(
            {
                "image_id": image_ids[i],
                "uri": image_ids[i],
                "etag": mark,
                "size_bytes": 100,
                "sha256": None if bad else rng.bytes(32).hex(),
                "status": "failed" if bad else "tagged",
                "error": "corrupt" if bad else None,
                "error_detail": "the file ends in the middle" if bad else None,
                "width_px": None if bad else int(rng.integers(1, 2000)),
                "height_px": None if bad else int(rng.integers(1, 2000)),
                "format": None if bad else "jpeg",
                "tags": None if bad else tags,
                "categories": None if bad else categories,
                "colors": None if bad else [color],
                "sharpness": None if bad else 1.5,
                "brightness": None if bad else 0.5,
                "phash": None if bad else rng.bytes(8).hex(),
                "embedding": None if bad else vectors[i],
                "embedding_norm": None if bad else 1.0,
                "model_id": MODEL_ID,
                "run_id": "run-a",
                "tagged_at": 1_700_000_000_000_000,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def collection_of(place, tables, *, dim):
    """A collection with one part a table."""
    config = Config(
        model_id=MODEL_ID,
        model="tiny",
        dim=dim,
        labels=TAXONOMY.names,
        activation="softmax",
        tagging=Tagging.of(TAXONOMY, threshold=0.1, top_k=3),
    )
    collection = Collection.create_or_open(str(place), config, taxonomy=TAXONOMY)
    add(collection, *tables)
    return collection


def add(collection, *tables, replaced=None, run_id="run-a"):
    """Commit rows, one part a table, in place of those that `replaced` names by part."""
    parts = [put_rows(collection, table, run_id) for table in tables]
    with collection.writer(run_id, "tagger tag", ttl_s=3) as writer:
        writer.commit(parts, replaced=replaced)
    return parts


def replace(collection, table, run_id="run-b"):
    """Commit rows in place of those of the same images."""
    wanted = set(table.column("image_id").to_pylist())
    replaced = {}
    for batch in collection.table.scan(["image_id"], part_column=True):
        for row in batch.to_pylist():
            if row["image_id"] in wanted:
                replaced.setdefault(row["part"], set()).add(row["image_id"])
    return add(collection, table, replaced=replaced, run_id=run_id)


def remove(collection, image_ids):
    """Commit that images are gone."""
    with collection.writer("run-c", "tagger prune", ttl_s=3) as writer:
        assert writer.remove_ids(image_ids) == len(set(image_ids))


def everything(_row):
    return True


class Oracle:
    """Brute force in NumPy over the table itself."""

    def __init__(self, collection):
        collection = Collection.open(collection.uri)
        rows = collection.tags().read_all().to_pylist()
        self.rows = {row["image_id"]: row for row in rows if row["status"] == "tagged"}
        self.ids = sorted(self.rows)
        embeddings = [self.rows[one]["embedding"] for one in self.ids]
        self.vectors = np.array(embeddings, np.float32).reshape(len(self.ids), -1)

    def nearest(self, query, k=None, keep=everything):
        """(image_id, score) best first of the images that `keep` keeps."""
        scores = np.clip(self.vectors @ np.asarray(query, np.float32).reshape(-1), 0, 1)
        raw = self.vectors @ np.asarray(query, np.float32).reshape(-1)
        order = np.argsort(-raw, kind="stable")
        found = [(self.ids[i], float(scores[i])) for i in order if keep(self.rows[self.ids[i]])]
        return found if k is None else found[:k]

    def word_score(self, row, word):
        """The best score of a word or a descendant, 0 without."""
        wanted = {word, *TAXONOMY.descendants(word)}
        found = [*(row["tags"] or ()), *(row["categories"] or ())]
        return max((one["score"] for one in found if one["tag"] in wanted), default=0.0)


def recall(index, oracle, queries, k=10, keep=everything, **asked):
    """Share of the exact neighbours that the index finds."""
    from tagger.index import Filter

    hits = total = 0
    for query in queries:
        truth = {image_id for image_id, _ in oracle.nearest(query, k, keep)}
        _, slots = index.ranking(query.reshape(1, -1), Filter(**asked)).first(k)
        hits += len(truth & set(index.ids.image_ids(slots[:k])))
        total += len(truth)
    return hits / total


def slots_of(opened, image_ids):
    """The slots of images that are in the index."""
    return np.array([opened.slot(image_id) for image_id in image_ids], np.int64)


def names(start, stop):
    return ids(start, stop)


__all__ = [
    "Index",
    "Oracle",
    "add",
    "collection_of",
    "index",
    "make_collection",
    "names",
    "recall",
    "remove",
    "replace",
    "rows_of",
    "slots_of",
    "vectors_of",
]
