"""The products of an enriched catalog over HTTP, and decisions that outlive whatever happens to a server."""

from __future__ import annotations

import csv
import io
import signal
import threading

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from driving import tagger, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_kit import (
    HOSTILE,
    SHELVES,
    Server,
    enrich_shop,
    product_rows,
    put_photos,
    sample_photos,
    tag_photos,
)
from test_serve_api import problem

from tagger.catalog.enriched import EnrichedCatalog
from tagger.errors import RunError, UsageError
from tagger.serve import ServeOptions
from tagger.serve.decisions import Decision, Decisions
from tagger.serve.products import ProductFilter, Products
from tagger.settings import load_settings

ALL = 40
HEAD = "image_id,tag,value\n"


@pytest.fixture(scope="module")
def enriched(served):
    """The first row of each product, as Parquet has it."""
    found = {}
    for row in pq.read_table(served.catalog).to_pylist():
        found.setdefault(row["sku"], row)
    return found


def cells(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment")
    return list(csv.reader(io.StringIO(answer.text, newline="")))


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [one["product_id"] for one in answer.json()["products"]]


def decide(client, *given):
    body = {"decisions": [{"image_id": image, "tag": tag, "value": value} for image, tag, value in given]}
    return client.post("/v1/decisions", json=body)


@pytest.fixture
def undecided(client):
    """Takes back at the end what a test decided."""
    yield
    for image, tag, _ in cells(client.get("/v1/decisions"))[1:]:
        decide(client, (image, tag.removeprefix("'"), None))
    assert len(cells(client.get("/v1/decisions"))) == 1


# ---- products ---------------------------------------------------------------------------------------------


def test_pages_hold_every_product_once_in_the_order_of_the_catalog(client, enriched):
    paged, offset = [], 0
    while offset is not None:
        page = client.get("/v1/products", params={"k": 7, "offset": offset})
        paged += ids(page)
        offset = page.json()["next_offset"]
    assert paged == list(enriched)
    assert page.json()["total"] == len(paged) == ALL
    assert ids(client.get("/v1/products", params={"offset": ALL})) == []
    first = client.get("/v1/products", params={"k": 1}).json()["products"][0]
    row = enriched["P-chelsea"]
    assert first == {
        "product_id": "P-chelsea",
        "title": "Chelsea poster",
        "category": "Pets",
        "price": "10,90",
        "image_id": row["image_ids"][0],
        "images": 1,
        "suggestion": row["category_suggestion"],
        "flags": [],
        "decided": 0,
    }


def test_filters_agree_with_the_catalog_and_with_their_counts(client, enriched):
    whole = client.get("/v1/products", params={"k": 100}).json()
    flags = {key: {one["flag"] for one in row["quality_flags"]} for key, row in enriched.items()}
    assert {"too_small", "duplicate_of", "image_missing", "looks_unlike_its_category"} <= set(whole["flags"])
    assert whole["flagged"] == sum(map(bool, flags.values()))
    for flag, count in whole["flags"].items():
        wanted = [key for key, some in flags.items() if flag in some]
        answer = client.get("/v1/products", params={"flag": flag, "k": 100})
        assert ids(answer) == wanted
        assert answer.json()["total"] == count == len(wanted)
        assert answer.json()["flags"] == whole["flags"]  # as if no flag were asked for
    assert ids(client.get("/v1/products", params={"flag": "any", "k": 100})) == [k for k in flags if flags[k]]
    assert {one["category"] for one in whole["categories"]} == set(SHELVES)
    for one in whole["categories"]:
        answer = client.get("/v1/products", params={"category": one["category"], "k": 100})
        assert ids(answer) == [k for k, row in enriched.items() if row["category"] == one["category"]]
        assert answer.json()["total"] == one["count"]
        assert answer.json()["categories"] == whole["categories"]
    assert ids(client.get("/v1/products", params={"q": "POSTER  red"})) == ["P-red_panda"]
    assert ids(client.get("/v1/products", params={"q": "p-mug"})) == ["P-mug"]
    assert ids(client.get("/v1/products", params={"q": "%"})) == []
    both = client.get("/v1/products", params={"q": "chair", "flag": "too_small", "category": "Home"}).json()
    assert [one["product_id"] for one in both["products"]] == ["P-chair"]
    assert both["flags"] == {"too_small": 1, "duplicate_of": 1, "looks_unlike_its_category": 1}


def test_a_product_is_what_the_catalog_says_of_it(client, enriched, served):
    row = enriched["P-mug"]
    found = client.get("/v1/product", params={"id": "P-mug"}).json()
    for name in ("tags", "categories", "colors"):
        assert found[name] == row[name]
    assert found["flags"] == row["quality_flags"]
    alt = dict(zip(row["image_ids"], row["alt_text"], strict=True))
    assert {one["image_id"]: one["alt_text"] for one in found["images"]} == alt
    assert found["suggestion"]["category"] == row["category_suggestion"]
    assert found["suggestion"]["tag"] == row["category_suggestion"].split(" > ")[-1]
    alike = [(one["product_id"], one["score"]) for one in found["similar_products"]]
    assert alike == [(one["product_id"], one["score"]) for one in row["similar_products"]]
    together = [(one["product_id"], one["title"]) for one in found["recommended_with"]]
    assert together == [("P-coffee", "Coffee poster"), ("P-chair", "Chair poster")]
    titles = {one["product_id"]: (one["title"], one["image_id"]) for one in found["similar_products"]}
    assert all(titles[key] == (enriched[key]["title"], enriched[key]["image_ids"][0]) for key, _ in alike)
    own = {one["name"]: one["value"] for one in found["own"]}
    assert own == {"image": "chelsea.jpg|coffee.jpg", "sale price": "7.50"}
    for image in found["images"]:
        params = {"id": image["image_id"], "size": 64}
        assert client.get("/v1/image/thumbnail", params=params).status_code == 200
    two = client.get("/v1/product", params={"id": "P-two"}).json()  # in two rows
    assert [one["image_id"].rpartition("/")[2] for one in two["images"]] == ["panda.jpg", "koala.jpg"]
    assert two["title"] == "Pair of bears"
    gone = client.get("/v1/product", params={"id": "P-gone"}).json()
    assert (gone["images"], gone["tags"], gone["suggestion"]) == ([], [], None)
    assert gone["flags"][0]["image"] == "nowhere.jpg"
    assert client.get("/v1/product", params={"id": "=1+2"}).json()["title"] == HOSTILE
    assert "no product 'P-none'" in problem(client.get("/v1/product", params={"id": "P-none"}), 404)


def test_wrong_questions(client):
    for params in (
        {"k": 101},
        {"k": 0},
        {"offset": -1},
        {"flag": "ugly"},
        {"decided": "maybe"},
        {"q": "x" * 201},
    ):
        problem(client.get("/v1/products", params=params), 422)
    problem(client.get("/v1/product"), 422)
    problem(client.get("/v1/products/export", params={"flag": "ugly"}), 422)


# ---- decisions --------------------------------------------------------------------------------------------


def test_decisions_are_kept_counted_exported_and_taken_back(client, served, undecided):
    chelsea, coffee = served.addresses["chelsea.jpg"], served.addresses["coffee.jpg"]
    answer = decide(client, (chelsea, "cat", 0), (coffee, "=cup", 1), (chelsea, "cat", 1)).json()
    assert (answer["kept"], answer["decisions"]) == (2, 2)
    assert {one["value"] for one in answer["before"]} == {None}
    assert cells(client.get("/v1/decisions")) == [
        ["image_id", "tag", "value"],
        [chelsea, "cat", "1"],
        [coffee, "'=cup", "1"],
    ]
    assert client.get("/v1/collection").json()["catalog"]["decisions"] == 2
    mug = client.get("/v1/product", params={"id": "P-mug"}).json()["decisions"]
    assert {one["tag"]: (one["accepted"], one["rejected"]) for one in mug} == {"cat": (1, 0), "=cup": (1, 0)}
    assert ids(client.get("/v1/products", params={"decided": True})) == ["P-chelsea", "P-coffee", "P-mug"]
    left = client.get("/v1/products", params={"decided": False, "k": 100})
    assert len(ids(left)) == left.json()["total"] == ALL - 3
    answer = decide(client, (chelsea, "cat", 0), (coffee, "=cup", 1)).json()
    assert answer == {
        "kept": 1,
        "decisions": 2,
        "before": [{"image_id": chelsea, "tag": "cat", "value": 1}],
    }
    table = cells(client.get("/v1/products/export", params={"q": "cat"}))
    assert table[0] == ["product_id", "title", "accepted_tags", "rejected_tags", "flags"]
    by_id = {row[0]: row for row in table[1:]}
    assert by_id["P-mug"][2:4] == ["'=cup", "cat"]
    assert "duplicate_of: P-chelsea [chelsea.jpg]" in by_id["P-mug"][4]
    whole = cells(client.get("/v1/products/export"))
    assert len(whole) == 1 + ALL
    assert "'=1+2" in {row[0] for row in whole}
    undone = client.post("/v1/decisions", json={"decisions": answer["before"]}).json()
    assert undone["before"][0]["value"] == 0
    assert "tagger_decisions 2.0" in client.get("/metrics").text
    assert 'endpoint="decisions",status="200"' in client.get("/metrics").text


def test_wrong_decisions_are_refused_whole(client, served):
    chelsea = served.addresses["chelsea.jpg"]
    assert "no image" in problem(decide(client, (chelsea, "cat", 1), ("file:///nothing.jpg", "cat", 1)), 404)
    for image, tag, value in (
        (chelsea, "x" * 201, 1),
        (chelsea, "", 1),
        (chelsea, "  ", 1),
        (chelsea, "cat", 2),
        (chelsea, "cat", True),
        (chelsea, "cat", "1"),
        ("", "cat", 1),
        (7, "cat", 1),
    ):
        problem(decide(client, (image, tag, value)), 422)
    problem(decide(client, *[(chelsea, str(n), 1) for n in range(1001)]), 422)
    problem(decide(client), 422)
    problem(client.post("/v1/decisions", json={"decisions": [{"image_id": chelsea, "tag": "cat"}]}), 422)
    problem(client.post("/v1/decisions", content=b"{"), 415)
    foreign = {"origin": "http://evil.example"}
    problem(client.post("/v1/decisions", json={"decisions": []}, headers=foreign), 403)
    assert len(cells(client.get("/v1/decisions"))) == 1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A collection of a few photos, and its enriched catalog."""
    folder = tmp_path_factory.mktemp("small")
    photos = sample_photos(9)
    addresses = put_photos(folder / "photos", photos)
    tag_photos(folder / "collection", addresses, photos)
    catalog = enrich_shop(folder / "collection", folder / "shop", product_rows(photos))
    return folder / "collection", catalog, addresses


def test_a_server_that_is_killed_keeps_what_it_answered(small, tmp_path):
    place, catalog, addresses = small
    file = tmp_path / "decided.csv"
    options = ("--catalog", str(catalog), "--decisions", str(file), "--quiet")
    images = list(addresses.values())
    answered = []

    def decide_on(server):
        with server.client() as client:
            for n in range(100_000):
                asked = [(image, f"tag {n}", n % 2) for image in images]
                try:
                    assert decide(client, *asked).status_code == 200
                except httpx.HTTPError:
                    return
                answered.append(asked)

    with Server(place, *options) as server:
        assert (
            tagger("serve", place, "--port", "0", *options).require(2).sentence.count("another server") == 1
        )
        caller = threading.Thread(target=decide_on, args=(server,))
        caller.start()
        wait_for("some decisions", lambda: len(answered) > 20)
        server.process.kill()
        server.process.wait()
        caller.join(30)
    with file.open("ab") as torn:
        torn.write(f'{images[0]},"torn, in the mid'.encode())
    with Server(place, *options) as server, server.client() as client:
        kept = cells(client.get("/v1/decisions"))[1:]
        wanted = {(image, tag, str(value)) for asked in answered for image, tag, value in asked}
        assert wanted <= set(map(tuple, kept))
        assert len(kept) - len(wanted) <= len(images)  # one request may have been written, and not answered
        decide(client, (images[0], "after", 1))
        # A newer catalog in the place of this one is served, and the decisions stay.
        assert client.get("/v1/products").json()["total"] == 12
        enrich_shop(place, catalog.parent, product_rows(sample_photos(9))[:-1])
        wait_for("the new catalog", lambda: client.get("/v1/products").json()["total"] == 11, timeout=20)
        whole = catalog.read_bytes()
        catalog.with_name("torn").write_bytes(whole[:-50])
        catalog.with_name("torn").replace(catalog)
        wait_for("the refusal", lambda: "new catalog cannot be served" in server.log, timeout=20)
        assert client.get("/v1/product", params={"id": "P-mug"}).status_code == 200
        catalog.write_bytes(whole)
        assert server.stop(signal.SIGTERM) == 0
    assert file.read_text().endswith(",after,1\n")
    assert "torn" not in file.read_text()


def test_without_a_catalog_there_are_no_products(small):
    with Server(small[0], "--quiet") as server, server.client() as client:
        assert client.get("/v1/collection").json()["catalog"] is None
        for path in ("/v1/products", "/v1/product?id=x", "/v1/products/export", "/v1/decisions"):
            assert "--catalog" in problem(client.get(path), 404)
        assert "--catalog" in problem(decide(client, ("x", "y", 1)), 404)


def test_what_is_no_enriched_catalog_is_told(small, tmp_path):
    place, catalog, _ = small
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"sku": ["1"], "tags": ["red"]}), plain)
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"PAR1 no")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("name,age\nAda,36")
    for file, said in (
        (plain, "was not written by tagger enrich: run tagger enrich COLLECTION CATALOG --out"),
        (catalog.with_name("shop.csv"), "is no Parquet file: run tagger enrich"),
        (garbage, "is no Parquet file"),
        (tmp_path / "none.parquet", "cannot be opened"),
    ):
        with pytest.raises(UsageError, match=said):
            EnrichedCatalog(file)
    with pytest.raises(UsageError, match="needs --catalog"):
        ServeOptions(decisions=foreign)
    with pytest.raises(UsageError, match="decisions cannot be kept"):
        Decisions(tmp_path / "no" / "d.csv")
    command = ("serve", place, "--port", "0", "--catalog")
    assert "not written by tagger enrich" in tagger(*command, plain).require(2).sentence
    said = tagger(*command, catalog, "--decisions", foreign).require(2)
    assert "holds no decisions" in said.sentence
    assert foreign.read_text() == "name,age\nAda,36"


# ---- the file of decisions --------------------------------------------------------------------------------


def labels(decisions):
    text = "".join(decisions.label_file())
    return [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))][1:]


def reopened(path):
    decisions = Decisions(path)
    found = labels(decisions)
    decisions.close()
    return found


@pytest.mark.parametrize("tail", ["b", "b,t", "b,t,", '"b', '"b""', '"b\n', "b,t,2", "\0\0\0", "b,\udcff"])
def test_a_torn_line_is_cut_off(tmp_path, tail):
    file = tmp_path / "d.csv"
    file.write_bytes((HEAD + "a,t,1\n" + tail).encode(errors="surrogateescape"))
    assert reopened(file) == [("a", "t", "1")]
    assert file.read_text() == HEAD + "a,t,1\n"
    decisions = Decisions(file)
    decisions.keep([Decision("c", "t", 0)])
    decisions.close()
    assert reopened(file) == [("a", "t", "1"), ("c", "t", "0")]


@pytest.mark.parametrize("stray", ['b,5" nail,1', '"b"x,t,1', 'b,"5 nail,1'])
def test_a_stray_quote_deletes_no_decision(tmp_path, stray):
    file = tmp_path / "d.csv"
    text = HEAD + "a,t,1\n" + stray + "\n" + "".join(f"c{n},t,1\n" for n in range(50))
    file.write_text(text)
    if stray.startswith('b,5"'):  # a quote inside a cell is only a quote
        assert len(reopened(file)) == 52
        return
    with pytest.raises(UsageError, match="line 3 of"):
        reopened(file)
    assert file.read_text() == text


def test_a_decisions_file_that_another_program_saved_is_not_written_to(tmp_path):
    for change in ("replaced", "shortened", "removed"):
        file = tmp_path / f"{change}.csv"
        decisions = Decisions(file)
        decisions.keep([Decision("a", "t", 1)])
        if change == "replaced":
            (tmp_path / "new.csv").write_text(HEAD + "a,t,0\n")
            (tmp_path / "new.csv").replace(file)
        elif change == "shortened":
            file.write_text(HEAD)
        else:
            file.unlink()
        with pytest.raises(RunError, match="changed or replaced by another program"):
            decisions.keep([Decision("b", "t", 1)])
        assert decisions.of("b") == {}
        decisions.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("image_id,t", []),
        (
            HEAD + "a,t,1\nb,t,0",
            [("a", "t", "1"), ("b", "t", "0")],
        ),  # made by hand, without the last line end
        ("\ufeff" + HEAD.replace("\n", "\r\n") + "a,t,1\r\n\r\na,t,0\r\n", [("a", "t", "0")]),  # by Excel
        (HEAD + "a,t,1\na,t,\n", []),
        (HEAD + '"a\nb",t,1\n', [("a\nb", "t", "1")]),
    ],
)
def test_files_that_others_wrote_are_read(tmp_path, text, found):
    file = tmp_path / "d.csv"
    file.write_text(text, newline="")
    assert reopened(file) == found
    decisions = Decisions(file)
    decisions.keep([Decision("z", "t", 1)])
    decisions.close()
    assert reopened(file) == [*found, ("z", "t", "1")]


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", HEAD + "a,t,yes\n", HEAD + "a,t\n", "image_id;tag;value\n", "x"]
)
def test_other_files_are_refused_and_left_alone(tmp_path, text):
    file = tmp_path / "d.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match="--decisions"):
        Decisions(file)
    assert file.read_text() == text


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(
    ["=1+1", "'=1+1", '"', "a,b", "\r", "\n", "-1", "'"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, words, st.sampled_from([0, 1, None])), min_size=1, max_size=12))
def test_whatever_is_kept_comes_back(tmp_path, given_):
    file = tmp_path / "any.csv"
    file.unlink(missing_ok=True)
    model = {}
    decisions = Decisions(file)
    for image, tag, value in given_:
        before = decisions.keep([Decision(image, tag, value)])
        assert [one.value for one in before] == (
            [model.get((image, tag))] if model.get((image, tag)) != value else []
        )
        model[image, tag] = value
    decisions.close()
    again = Decisions(file)
    wanted = {key: value for key, value in model.items() if value is not None}
    assert {(image, tag): v for image in again.images() for tag, v in again.of(image).items()} == wanted
    assert len(again) == len(wanted)
    again.close()


def test_a_full_disk_keeps_what_was_there(tmp_path):
    file = tmp_path / "d.csv"
    decisions = Decisions(file)
    decisions.keep([Decision("a", "t", 1)])
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(RunError, match="free some space"):
            decisions.keep([Decision("b" * 100, "t", 1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert labels(decisions) == [("a", "t", "1")]
    decisions.keep([Decision("c", "t", 0)])
    decisions.close()
    assert reopened(file) == [("a", "t", "1"), ("c", "t", "0")]


# ---- the catalog ------------------------------------------------------------------------------------------


def test_the_columns_are_told_apart(small, tmp_path):
    """Of a catalog that was enriched before, has names of ours, and columns that its user named."""
    import tagger as package
    from tagger.catalog import EnrichOptions

    place, catalog, _ = small
    table = pq.read_table(catalog)
    renamed = table.rename_columns(["Sachnummer" if name == "sku" else name for name in table.schema.names])
    source, out = tmp_path / "again.parquet", tmp_path / "out.parquet"
    pq.write_table(renamed, source)
    options = EnrichOptions(id_column="Sachnummer", image_columns=("image",))
    package.enrich(package.open(str(place)), source, out, options=options)
    found = EnrichedCatalog(out)
    assert found.names[found.own] == "tagger_image_ids"
    assert found.names[found.roles.id] == "Sachnummer"
    assert found.names[found.price] == "sale price"
    products = Products(out, load_settings())
    assert products.product("P-mug")["title"] == "Mug with a cat"
    # Another program that saves the file forgets what enrich noted.
    pq.write_table(pq.read_table(out).replace_schema_metadata(None), out)
    found = EnrichedCatalog(out)
    assert found.roles.id is None
    assert found.names[found.roles.title] == "title"


@pytest.mark.parametrize("bad", ["title", "category", "note", "far"])
def test_columns_that_python_has_no_value_for_are_shown_as_text(small, tmp_path, bad):
    import tagger as package

    place, _, addresses = small
    table = pa.table({"sku": ["1", "2"], "image": list(addresses.values())[:2], "title": ["Cup", "Plate"]})
    values = pa.array([b"\xff cup", b"plate"]).cast(pa.string(), safe=False)
    if bad == "far":
        values = pa.array([10**7, 1], pa.date32())
    table = table.drop_columns([bad] if bad == "title" else []).append_column(bad, values)
    pq.write_table(table, tmp_path / "in.parquet")
    package.enrich(package.open(str(place)), tmp_path / "in.parquet", tmp_path / "out.parquet")
    products = Products(tmp_path / "out.parquet", load_settings())
    rows, _ = products.page(ProductFilter(), [], offset=0, k=9)
    assert [row["product_id"] for row in rows] == ["1", "2"]
    told = [products.product(key) for key in ("1", "2")]
    assert [len(one["images"]) for one in told] == [1, 1]
    shown = [one.get(bad) or {own["name"]: own["value"] for own in one["own"]}[bad] for one in told]
    assert shown == (["29349-01-26", "1970-01-02"] if bad == "far" else ["\\xff cup", "plate"])


def test_a_large_catalog_is_paged_quickly(small, tmp_path, record_property):
    """Rows of an enriched catalog, many times over."""
    import time

    import pyarrow.compute as pc

    times = 20_000
    table = pq.read_table(small[1])
    where = tmp_path / "large.parquet"
    with pq.ParquetWriter(where, table.schema) as writer:
        for n in range(0, times, 2000):
            block = pa.concat_tables([table] * 2000)
            numbers = pa.array([n + at // len(table) for at in range(len(block))]).cast(pa.string())
            keys = pc.binary_join_element_wise(block["sku"], pa.chunked_array([numbers]), "/")
            writer.write_table(block.set_column(0, "sku", keys))
    began = time.monotonic()
    products = Products(where, load_settings())
    built = time.monotonic() - began
    began = time.monotonic()
    rows, counts = products.page(ProductFilter(q="mug cat", flag="duplicate_of"), [], offset=9000, k=24)
    paged = time.monotonic() - began
    assert [row["product_id"] for row in rows] == [f"P-mug/{n}" for n in range(9000, 9024)]
    assert counts["total"] == times
    began = time.monotonic()
    assert products.product(f"P-mug/{times - 1}")["title"] == "Mug with a cat"
    one = time.monotonic() - began
    record_property(
        "measured",
        f"{products.count:,} products: read in {built:.1f} s, a page {paged * 1000:.0f} ms, "
        f"one {one * 1000:.0f} ms",
    )
    assert max(paged, one) < 1.0
