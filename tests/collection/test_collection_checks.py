import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_kit import (
    DIM,
    FaultyProxy,
    add_rows,
    contents,
    ids,
    make_collection,
    make_config,
    make_rows,
    put_rows,
)

from tagger.collection import SCHEMA, Collection, Part, Tagging, TagsTable, check, part_name, retag
from tagger.collection.check_rows import RowRules
from tagger.errors import ImageError, StoreUnavailable, UsageError
from tagger.storage import LocalStore
from tagger.tags import Entry, Taxonomy

GOOD = {"listed": 10, "skipped": 3, "planned": 6, "deferred": 1, "tagged": 5, "failed": 1}


def test_a_collection_that_keeps_its_promises(place):
    collection = make_collection(place)
    run = collection.record("run-a")
    run.start({"source": "s3://photos"})
    add_rows(collection, make_rows(ids(0, 5), failed=ids(0, 1)))
    add_rows(collection, make_rows(ids(5, 6)))
    run.finish("done", GOOD)
    result = check(Collection.open(place))
    assert result.to_json() == {
        "ok": True,
        "rows": 6,
        "tagged": 5,
        "failed": 1,
        "findings": [],
        "notes": [],
    }


def test_an_empty_collection_is_fine(place):
    make_collection(place)
    result = check(Collection.open(place))
    assert (result.ok, result.rows) == (True, 0)


def smuggle(collection, rows):
    """Put rows into the table that `write_part` would refuse."""
    name = part_name("run-a")
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    data = sink.getvalue().to_pybytes()
    collection.store.put(f"tags/{name}", data)
    part = Part(name, len(data), rows.num_rows, json.dumps({"numRecords": rows.num_rows}))
    with collection.writer("run-a", "test", ttl_s=3) as writer:
        writer.commit([part])
    return part


def changed(column, value, *, failed=False):
    """Three rows of which the middle one has `value` in `column`."""
    rows = make_rows(ids(0, 3), failed=ids(1, 2) if failed else ())
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    items = rows.to_pylist()
    items[1][column] = value(items[1][column]) if callable(value) else value
    return pa.Table.from_pylist(items, schema=loose)


def tag(name, score, source="tiny"):
    return {"tag": name, "score": score, "source": source}


def category(name, score):
    return {"tag": name, "score": score}


UNIT = [1.0] + [0.0] * (DIM - 1)


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("status", "done", "status is neither"),
        ("image_id", "", "image_id or uri is empty"),
        ("uri", "", "image_id or uri is empty"),
        ("error", "corrupt", "error is set exactly when"),
        ("error_detail", "why", "has an error_detail"),
        ("sha256", None, "sha256 is null although"),
        ("sha256", "ABC", "sha256 is not of its form"),
        ("phash", "12", "phash is not of its form"),
        ("width_px", 0, "width_px is not positive"),
        ("height_px", None, "height_px is null although"),
        ("size_bytes", -1, "size_bytes is negative"),
        ("format", None, "format is null although"),
        ("sharpness", float("nan"), "sharpness is not finite"),
        ("brightness", float("inf"), "brightness is not finite"),
        ("model_id", "other", "model_id is not the collection's"),
        ("tags", None, "tags is null although"),
        ("tags", [tag("a", 0.2), tag("b", 0.3)], "tags are not best first"),
        ("tags", [tag("a", 1.5)], "tags hold a score outside"),
        ("tags", [tag("a", float("nan"))], "tags hold a score outside"),
        ("tags", [tag("a", None)], "tags hold a score outside"),
        ("tags", [tag(None, 0.5)], "tags hold a null"),
        ("tags", [tag("a", 0.5), tag("a", 0.4)], "tags name something twice"),
        ("categories", [{"tag": "a", "score": -0.1}], "categories hold a score outside"),
        ("categories", [{"tag": "a", "score": 0.2}, {"tag": "a", "score": 0.2}], "categories name something"),
        ("colors", [{"hex": "#000000", "name": "black", "fraction": 2.0}], "colors hold a fraction outside"),
        ("embedding", None, "embedding is null exactly"),
        ("embedding", UNIT[:-1], f"embedding has not {DIM} values"),
        ("embedding", [0.1] * DIM, "embedding is not of length 1"),
        ("embedding", [0.0] * DIM, "embedding is not of length 1"),
        ("embedding", [float("nan"), *UNIT[1:]], "embedding or its norm is not finite"),
        ("embedding", [float(np.float32(0.99991)), *UNIT[1:]], "embedding is not rounded to float16"),
        ("embedding_norm", -1.0, "embedding or its norm is not finite"),
        ("embedding_norm", None, "embedding_norm goes with"),
    ],
)
def test_a_broken_row_is_found(tmp_path, column, value, finding):
    collection = make_collection(tmp_path)
    smuggle(collection, changed(column, value))
    result = check(collection)
    assert any(finding in found for found in result.findings), result.findings
    assert any("1 row, for example" in found for found in result.findings)
    example = "" if column == "image_id" else ids(1, 2)[0]
    assert any(found.endswith(f"for example {example}") for found in result.findings)
    assert result.rows == 3


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("error", None, "error is set exactly when"),
        ("error", "bad_luck", "error is an unknown code"),
        ("error_detail", None, "a failed image says why"),
        ("embedding", UNIT, "embedding is null exactly"),
        ("embedding_norm", 1.0, "embedding_norm goes with"),
        ("tags", [tag("a", 0.5)], "tags are given to a failed image"),
        ("categories", [{"tag": "a", "score": 0.5}], "categories are given to a failed image"),
    ],
)
def test_a_broken_failure_is_found(tmp_path, column, value, finding):
    collection = make_collection(tmp_path)
    smuggle(collection, changed(column, value, failed=True))
    assert any(finding in found for found in check(collection).findings)


def test_a_picture_without_any_feature_may_have_zeros(tmp_path):
    collection = make_collection(tmp_path)
    rows = changed("embedding", [0.0] * DIM)
    norms = rows.column("embedding_norm").to_pylist()
    norms[1] = 0.0
    rows = rows.set_column(
        rows.schema.get_field_index("embedding_norm"), "embedding_norm", pa.array(norms, pa.float32())
    )
    smuggle(collection, rows)
    assert check(collection).findings == []


def test_rules_hold_on_slices_of_batches():
    rows = pa.concat_tables(
        [
            make_rows(ids(0, 50), failed=ids(0, 50)[::3]),
            changed("tags", [tag("a", 0.2), tag("b", 0.3)]).cast(SCHEMA),
        ]
    )
    batch = rows.combine_chunks().to_batches()[0]
    rules = RowRules(make_config())
    for start in range(0, batch.num_rows, 7):
        rules.apply(batch.slice(start, 7))
    assert rules.findings() == [f"tags are not best first: 1 row, for example {ids(1, 2)[0]}"]
    assert (rules.rows, rules.tagged, rules.failed) == (53, 36, 17)


# Own thresholds above and below the default of 0.1, and words that are not shown.
WORDS = Taxonomy(
    tags=(
        Entry("tabby", ("cat",)),
        Entry("lynx", ("cat",), threshold=0.4),
        Entry("daisy", ("flower",), threshold=0.05),
        Entry("bridge"),
        Entry("void", ("nothing",), hidden=True),
    ),
    nodes=(Entry("cat"), Entry("flower", threshold=0.2), Entry("nothing", hidden=True)),
)
TAGGING = Tagging.of(WORDS, threshold=0.1, top_k=3)

SOURCE = "tags have a source that is neither the model nor a taught head"
TOO_MANY = "the model gave more than 3 tags"
NOT_SHOWN = "tags hold a word that the taxonomy does not show"
TOO_LOW = "tags are scored below their threshold"
NOT_SHOWN_ABOVE = "categories hold a word that the taxonomy does not show"
TOO_LOW_ABOVE = "categories are scored below their threshold"


def make_words(place, **changes):
    config = make_config(**{"tagging": TAGGING, **changes})
    return Collection.create_or_open(str(place), config, taxonomy=WORDS)


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("tags", [tag("tabby", 0.5), tag("lynx", 0.5), tag("daisy", 0.4), tag("bridge", 0.3)], TOO_MANY),
        ("tags", [tag("tabby", 0.0999)], TOO_LOW),
        ("tags", [tag("lynx", 0.3999)], TOO_LOW),
        ("tags", [tag("daisy", 0.0499)], TOO_LOW),
        ("tags", [tag("house", 0.5)], NOT_SHOWN),
        ("tags", [tag("void", 0.5)], NOT_SHOWN),
        ("tags", [tag("cat", 0.5)], NOT_SHOWN),
        ("tags", [tag("tabby", 0.5, "big")], SOURCE),
        ("tags", [tag("tabby", 0.5, None)], SOURCE),
        ("categories", [category("cat", 0.4999)], TOO_LOW_ABOVE),
        ("categories", [category("flower", 0.1999)], TOO_LOW_ABOVE),
        ("categories", [category("pet", 0.9)], NOT_SHOWN_ABOVE),
        ("categories", [category("nothing", 0.9)], NOT_SHOWN_ABOVE),
        ("categories", [category("tabby", 0.9)], NOT_SHOWN_ABOVE),
    ],
)
def test_words_that_these_settings_do_not_give_are_found(tmp_path, column, value, finding):
    collection = make_words(tmp_path)
    smuggle(collection, changed(column, value))
    assert check(collection).findings == [f"{finding}: 1 row, for example {ids(1, 2)[0]}"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("tags", []),
        ("tags", [tag("bridge", 0.1)]),
        ("tags", [tag("lynx", 0.4), tag("tabby", 0.1), tag("daisy", 0.05)]),
        ("categories", [category("cat", 0.5), category("flower", 0.2)]),
        # A head has its own words and thresholds, and does not take the model's places.
        ("tags", [tag("lynx", 0.5), tag("tabby", 0.4), tag("daisy", 0.3), tag("logo", 0.01, "logos")]),
        ("tags", [tag("tabby", 0.4), tag("tabby", 0.05, "logos"), tag("void", 0.0, "logos")]),
    ],
)
def test_words_that_these_settings_give_are_no_finding(place, column, value):
    collection = make_words(place)
    collection.store.put("heads/logos/head.json", b"{}")
    smuggle(collection, changed(column, value))
    assert check(collection).findings == []


def test_more_categories_than_are_ever_given(tmp_path):
    names = [f"c{i:02}" for i in range(17)]
    many = Taxonomy((Entry("tabby", tuple(names)),), tuple(Entry(name) for name in names))
    config = make_config(tagging=Tagging.of(many, threshold=0.1, top_k=3))
    collection = Collection.create_or_open(str(tmp_path), config, taxonomy=many)
    rows = [changed("categories", [category(name, 0.5) for name in names[:n]]) for n in (16, 17)]
    for n, table in enumerate(rows):
        kept = make_rows(ids(3 * n, 3 * n + 3))
        loose = table.set_column(0, "image_id", kept.column("image_id"))
        items = loose.to_pylist()
        items[0]["categories"] = items[2]["categories"] = []
        smuggle(collection, pa.Table.from_pylist(items, schema=table.schema))
    assert check(collection).findings == [
        f"the model gave more than 16 categories: 1 row, for example {ids(4, 5)[0]}"
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.00004, 0.1, 0.15, 0.3, 0.7, 1.0])
def test_whatever_tag_writes_is_no_finding(threshold):
    rng = np.random.default_rng(11)
    n = 400
    # Half of the scores lie within a tick of some threshold, where rounding decides.
    near = rng.choice([threshold, 0.4, 0.05, 0.1], (n, 5)) + rng.uniform(-1e-4, 1e-4, (n, 5))
    wild = rng.dirichlet(np.ones(5) / 2, n)
    values = np.clip(np.where(rng.random((n, 5)) < 0.5, near, wild), 0, 1).astype(np.float32)
    tagging = Tagging.of(WORDS, threshold=threshold, top_k=3)
    table = make_rows(ids(0, n))
    for activation in ("softmax", "sigmoid"):
        columns = WORDS.assign(values, source="tiny", threshold=threshold, top_k=3, activation=activation)
        for name, column in zip(("tags", "categories"), columns, strict=True):
            field = SCHEMA.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, column.cast(field.type))
        rules = RowRules(make_config(tagging=tagging), WORDS)
        for batch in table.to_batches(max_chunksize=90):
            rules.apply(batch)
        assert rules.findings() == []


def broken_words(row, heads):
    """What one row breaks, entry by entry."""
    shown = {entry.name: entry for entry in (*WORDS.tags, *WORDS.nodes) if not entry.hidden}
    tags, categories = row["tags"] or [], row["categories"] or []
    mine = [item for item in tags if item["source"] == "tiny"]
    if any(item["source"] not in ("tiny", *heads) for item in tags):
        yield SOURCE
    if len(mine) > 3:
        yield TOO_MANY
    kinds = ((mine, WORDS.names, 0.1, NOT_SHOWN, TOO_LOW),)
    kinds += ((categories, WORDS.categories, 0.5, NOT_SHOWN_ABOVE, TOO_LOW_ABOVE),)
    for items, names, default, not_shown, too_low in kinds:
        known = [item for item in items if item["tag"] in names and item["tag"] in shown]
        if len(known) < len(items):
            yield not_shown
        least = [shown[item["tag"]].threshold or default for item in known]
        if any(item["score"] < np.float32(low) for item, low in zip(known, least, strict=True)):
            yield too_low


def test_the_rules_of_words_find_what_a_loop_over_rows_finds():
    rng = np.random.default_rng(5)
    names = [*WORDS.names, *WORDS.categories, "house"]
    rows = make_rows(ids(0, 300), failed=ids(0, 300)[::7]).to_pylist()
    for row in rows:
        if row["status"] == "failed":
            continue
        scores = [np.sort(rng.uniform(0.01, 0.9, rng.integers(0, 7)))[::-1].tolist() for _ in range(2)]
        word = [rng.permutation(names)[: len(some)].tolist() for some in scores]
        source = rng.choice(["tiny", "logos", "big"], len(word[0]), p=[0.8, 0.15, 0.05]).tolist()
        row["tags"] = [tag(*item) for item in zip(word[0], scores[0], source, strict=True)]
        row["categories"] = [category(*item) for item in zip(word[1], scores[1], strict=True)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    expected = {}
    for row in table.to_pylist():
        for rule in broken_words(row, ["logos"]):
            expected.setdefault(rule, []).append(row["image_id"])
    rules = RowRules(make_config(tagging=TAGGING), WORDS, ["logos"])
    for batch in table.to_batches(max_chunksize=41):
        rules.apply(batch)
    assert len(expected) == 6
    assert sorted(rules.findings()) == sorted(
        f"{rule}: {len(found)} rows, for example {found[0]}" for rule, found in expected.items()
    )


def test_without_a_taxonomy_any_word_may_be_there(tmp_path):
    collection = make_collection(tmp_path, tagging=Tagging(0.1, 3))
    smuggle(collection, changed("tags", [tag("house", 0.1), tag("void", 0.0999)]))
    assert check(collection).findings == [f"{TOO_LOW}: 1 row, for example {ids(1, 2)[0]}"]


def test_rows_of_another_taxonomy_are_found(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 5)))
    old = add_rows(collection, make_rows(ids(5, 10), failed=ids(5, 6)))
    other = make_rows(ids(5, 10), failed=ids(5, 6)).to_pylist()
    for row in other[1:]:
        row["tags"] = [tag("house cat", 0.75)]
    with collection.writer("run-r", "tagger retag") as writer:  # half of a retag
        new = put_rows(collection, pa.Table.from_pylist(other, schema=SCHEMA))
        writer.swap({old.path: new}, operation="retag")
    assert check(Collection.open(place)).findings == [f"{NOT_SHOWN}: 4 rows, for example {ids(6, 7)[0]}"]


def test_settings_changed_since_the_collection_was_opened_are_those_that_count(place):
    opened = make_collection(place)
    add_rows(opened, make_rows(ids(0, 5)))
    other = Taxonomy((Entry("a"), Entry("b"), Entry("c"), Entry("d")), ())
    retag(
        Collection.open(place),
        lambda vectors, _norms: np.zeros((len(vectors), 4), np.float32),
        taxonomy=other,
        threshold=0.05,
        top_k=4,
    )
    assert opened.config.tagging.top_k == 3
    result = check(opened)
    assert (result.findings, result.rows) == ([], 5)


def test_doubled_ids_are_found(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 10)))
    add_rows(collection, make_rows(ids(8, 15)))
    result = check(collection)
    assert result.findings == [
        f"2 image_ids have more than one row: {ids(8, 9)[0]} (2 rows), {ids(9, 10)[0]} (2 rows)"
    ]
    assert result.rows == 17


def test_missing_and_broken_parts_are_found_and_the_rest_is_read(place):
    collection = make_collection(place)
    parts = [add_rows(collection, make_rows(ids(10 * i, 10 * i + 10))) for i in range(5)]
    store = collection.store
    keys = [f"tags/{part.path}" for part in parts]
    store.delete(keys[:1])
    store.put(keys[1], store.read(keys[1]) + b"more")
    store.put(keys[2], bytes(parts[2].size_bytes))
    middle = bytearray(store.read(keys[3]))
    middle[200:300] = bytes(100)
    store.put(keys[3], bytes(middle))
    result = check(Collection.open(place))
    assert not result.ok
    text = "\n".join(result.findings)
    assert f"part {parts[0].path} is missing, with 10 rows" in text
    assert (
        f"part {parts[1].path} has {parts[1].size_bytes + 4} bytes, the log says {parts[1].size_bytes}"
        in text
    )
    assert f"{parts[2].path} is not a readable Parquet file" in text
    assert f"{parts[3].path} cannot be read" in text
    assert result.rows >= 10  # the part that is whole


def test_a_log_that_counts_wrong_is_found(tmp_path):
    collection = make_collection(tmp_path)
    part = put_rows(collection, make_rows(ids(0, 3)))
    with collection.writer("run-a", "test") as writer:
        writer.commit([Part(part.path, part.size_bytes, 4, '{"numRecords":4}')])
    assert f"part {part.path} has 3 rows, the log says 4" in check(collection).findings


@pytest.mark.parametrize(
    ("counts", "finding"),
    [
        ({"listed": 11}, "listed 11 images and accounts for 10"),
        ({"tagged": 4}, "planned 6 images, and tagged or failed 5"),
        ({"planned": 2, "listed": 6, "tagged": 2, "failed": 0}, "planned 2 images, and 6 rows name it"),
    ],
)
def test_runs_that_do_not_add_up_are_found(tmp_path, counts, finding):
    collection = make_collection(tmp_path)
    add_rows(collection, make_rows(ids(0, 6), failed=ids(0, 1)))
    record = collection.record("run-a")
    record.finish("done", GOOD | counts)
    assert any(finding in found for found in check(collection).findings)
    record.finish("failed", GOOD | counts)
    assert check(collection).findings == []  # only runs that ended well promise anything


def test_files_of_killed_runs_are_no_finding(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 3)))
    put_rows(collection, make_rows(ids(3, 6)))
    result = check(collection)
    assert result.ok
    assert "1 files in tags/" in result.notes[0]


def test_an_altered_taxonomy_is_a_finding(tmp_path):
    collection = make_collection(tmp_path)
    (tmp_path / collection.config.tagging.taxonomy_file).write_text("{}")
    add_rows(collection, make_rows(ids(0, 3)))
    (finding,) = check(collection).findings  # and nothing about words, which nobody knows now
    assert "is not the taxonomy" in finding


class FailingStore(LocalStore):
    """A folder of which one object fails, in one way, from some access on."""

    def __init__(self, root, method, begins, error, *, after=0):
        super().__init__(root)
        self.method, self.begins, self.error, self.after = method, begins, error, after
        self.failed = []

    def _meet(self, method, name):
        if method == self.method and name.startswith(self.begins):
            self.after -= 1
            if self.after < 0:
                self.failed.append(name)
                raise self.error

    def head(self, name):
        self._meet("head", name)
        return super().head(name)

    def fetch(self, name, **options):
        self._meet("fetch", name)
        return super().fetch(name, **options)

    def read_range(self, name, start, length):
        self._meet("read_range", name)
        return super().read_range(name, start, length)

    def list(self, prefix=""):
        self._meet("list", prefix)
        return super().list(prefix)


def failing(tmp_path, *fault, **options):
    """A collection of three parts and a record in such a store."""
    collection = make_collection(tmp_path)
    for i in range(3):
        add_rows(collection, make_rows(ids(10 * i, 10 * i + 10)))
    collection.record("run-a").start({})
    store = FailingStore(str(tmp_path), *fault, **options)
    return Collection(store, collection.config, TagsTable.open(store))


REACHED = [
    ("fetch", "taxonomy/", 0),
    ("list", "heads/", 0),
    ("head", "tags/", 0),
    ("head", "tags/", 1),
    ("read_range", "tags/", 0),
    ("read_range", "tags/", 3),  # the first footer, when all rows are read
    ("read_range", "tags/", 4),  # rows
    ("fetch", "runs/", 0),
    ("list", "runs/", 0),
    ("list", "tags/", 0),
]


@pytest.mark.parametrize(("method", "begins", "after"), REACHED)
def test_a_store_that_does_not_answer_ends_the_check_at_once(tmp_path, method, begins, after):
    silent = StoreUnavailable("no answer from http://store for s3://photos")
    collection = failing(tmp_path, method, begins, silent, after=after)
    with pytest.raises(StoreUnavailable, match="no answer from"):
        check(collection)
    assert len(set(collection.store.failed)) == 1


@pytest.mark.parametrize(("method", "begins", "after"), [one for one in REACHED if one[0] != "list"])
@pytest.mark.parametrize("code", ["timeout", "read_error", "forbidden"])
def test_what_the_store_does_not_serve_is_not_called_broken(tmp_path, method, begins, after, code):
    collection = failing(tmp_path, method, begins, ImageError(code, "the store is tired"), after=after)
    with pytest.raises(
        StoreUnavailable, match=rf"/{begins.rstrip('/')}.* is not served .*: the store is tired"
    ):
        check(collection)
    assert len(set(collection.store.failed)) == 1


@pytest.mark.parametrize("begins", ["runs/", "heads/", "tags/"])
def test_refused_credentials_end_the_check(tmp_path, begins):
    with pytest.raises(UsageError, match="refuses the credentials"):
        check(failing(tmp_path, "list", begins, UsageError("s3://photos refuses the credentials")))


@pytest.mark.parametrize("after", [0, 3, 4])
def test_a_part_that_goes_away_meanwhile_is_a_finding(tmp_path, after):
    gone = ImageError("not_found", "no object has this key any more")
    result = check(failing(tmp_path, "read_range", "tags/", gone, after=after))
    assert "cannot be read (not_found)" in result.findings[0]


@pytest.mark.s3
@pytest.mark.parametrize("status", [503, 403])
def test_a_bucket_that_stops_serving_is_waited_for_once(bucket, s3, monkeypatch, status):
    refused = {"on": False}

    def fault(method, path, headers):
        return status if refused["on"] and path.partition("?")[0].endswith(".parquet") else ""

    monkeypatch.setenv("TAGGER_PATIENCE_S", "1")
    with FaultyProxy(s3, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        collection = make_collection(bucket.uri + "/c")
        for i in range(3):
            add_rows(collection, make_rows(ids(10 * i, 10 * i + 10)))
        refused["on"] = True
        with pytest.raises(StoreUnavailable, match=f"is not served.*{status}") as caught:
            check(Collection.open(collection.uri))
        assert s3.secret_key not in str(caught.value)
        assert len({path for _, path, action in proxy.seen if action == status}) == 1


def test_failures_are_listed_with_their_reasons(place):
    collection = make_collection(place)
    add_rows(collection, make_rows(ids(0, 5), failed=ids(1, 3)))
    add_rows(collection, make_rows(ids(5, 7)))
    rows = Collection.open(place).failures().read_all()
    assert rows.column_names == ["image_id", "error", "error_detail"]
    assert rows.to_pylist() == [
        {"image_id": image_id, "error": "corrupt", "error_detail": "the file ends in the middle"}
        for image_id in ids(1, 3)
    ]
    assert len(contents(collection)) == 7


def test_no_failures(place):
    assert make_collection(place).failures().read_all().num_rows == 0
