"""Similar products and suggested categories against brute force over all pictures."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_kit import DIM, rows, shop
from hypothesis import given, settings
from hypothesis import strategies as st
from index_kit import turned, vectors_of

from tagger.catalog import EnrichOptions, Rules, enrich

IMAGES = 60


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    names = [f"{n:02}.jpg" for n in range(IMAGES)]
    made = rows(names, vectors=vectors_of(IMAGES, dim=DIM, seed=3, clusters=4))
    for copy in (50, 51, 52):  # three pictures are there twice
        made[copy]["phash"] = made[copy - 50]["phash"]
        made[copy]["embedding"] = turned(made[copy - 50]["embedding"], 0.96, copy)
    return shop(tmp_path_factory.mktemp("shop") / "c", made)


def named(images):
    return [f"{n:02}.jpg" for n in images]


def brute(embeddings, catalog, product, k, rules):
    """The products whose nearest picture is nearest, one for each picture: by looking at everything."""
    picture = {n: n - 50 if n in (50, 51, 52) else n for n in range(IMAGES)}
    own = catalog[product]["images"]
    best = {}
    for image in range(IMAGES):
        if not own or picture[image] in {picture[one] for one in own}:
            continue
        best[image] = max(float(embeddings[image] @ embeddings[one]) for one in own)
    found, seen = [], set()
    for image in sorted(best, key=lambda one: -best[one]):
        if picture[image] in seen:
            continue
        for other, entry in enumerate(catalog):
            fits = entry["stock"] or not rules.in_stock
            if entry["images"] and image in entry["images"] and fits:
                same = entry["category"] == catalog[product]["category"]
                if (
                    catalog[product]["category"]
                    and rules.category != "any"
                    and same != (rules.category == "same")
                ):
                    continue
                seen.add(picture[image])
                if {picture[one] for one in entry["images"]} & {picture[one] for one in own}:
                    break  # the same thing again
                if other not in [one for one, _ in found]:
                    found.append((other, best[image]))
                break
    return found[:k]


product = st.fixed_dictionaries(
    {
        "images": st.lists(st.integers(0, IMAGES - 1), max_size=3, unique=True),
        "stock": st.booleans(),
        "category": st.sampled_from(["", "A", "B"]),
    }
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(product, min_size=1, max_size=40),
    st.integers(1, 12),
    st.builds(Rules, in_stock=st.booleans(), category=st.sampled_from(["any", "same", "other"])),
)
def test_similar_products_are_those_of_brute_force(opened, tmp_path_factory, catalog, k, rules):
    folder = tmp_path_factory.mktemp("similar")
    table = pa.table(
        {
            "id": [str(n) for n in range(len(catalog))],
            "images": pa.array(
                [[f"{n:02}.jpg" for n in one["images"]] for one in catalog], pa.list_(pa.string())
            ),
            "in_stock": [one["stock"] for one in catalog],
            "category": [one["category"] for one in catalog],
        }
    )
    pq.write_table(table, folder / "in.parquet")
    options = EnrichOptions(k=k, similar=rules)
    enrich(opened, folder / "in.parquet", folder / "out.parquet", options=options)
    index = opened.opened_index()
    embeddings = index.vectors.take(index.ids.slots)  # whose order is that of the names
    told = pq.read_table(folder / "out.parquet").column("similar_products").to_pylist()
    for n, answer in enumerate(told):
        expected = brute(embeddings, catalog, n, k, rules)
        if not catalog[n]["images"]:
            assert answer is None
            continue
        scores = [score for _, score in expected]
        assert [one["score"] for one in answer] == pytest.approx(np.clip(scores, 0, 1), abs=2e-4)
        assert [int(one["product_id"]) for one in answer] == [other for other, _ in expected]


def test_products_left_short_are_looked_up_again(tmp_path):
    """Those of the category are far away: behind 200 nearer pictures of another."""
    n = 300
    vectors = np.zeros((n, DIM), np.float32)
    vectors[:, 0] = 1
    vectors += 0.2 * vectors_of(n, dim=DIM, seed=4)
    vectors[280:] += 2 * vectors_of(20, dim=DIM, seed=5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    opened = shop(tmp_path / "c", rows([f"{i:03}.jpg" for i in range(n)], vectors=vectors))
    lines = [f"{i},{i:03}.jpg,{'rare' if i >= 280 or i == 0 else 'common'}" for i in range(n)]
    (tmp_path / "in.csv").write_text("\n".join(["id,image,category", *lines]))
    options = EnrichOptions(k=12, similar=Rules(category="same"))
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.parquet", options=options)
    answer = pq.read_table(tmp_path / "out.parquet").column("similar_products").to_pylist()[0]
    index = opened.opened_index()
    embeddings = index.vectors.take(index.ids.slots)
    expected = sorted(range(280, n), key=lambda i: -float(embeddings[0] @ embeddings[i]))[:12]
    assert [int(one["product_id"]) for one in answer] == expected


def test_categories_of_peers_are_suggested_where_they_agree(tmp_path):
    names = named(range(40))
    heap = [n % 3 == 0 for n in range(40)]
    vectors = 0.5 * vectors_of(40, dim=DIM, seed=7)
    vectors[np.arange(40), [0 if one else 1 for one in heap]] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    opened = shop(tmp_path / "c", rows(names, vectors=vectors))
    kinds = ["Tassen" if one else "Teller" for one in heap]
    swapped = [3, 11]
    for n in swapped:
        kinds[n] = "Teller" if kinds[n] == "Tassen" else "Tassen"
    kinds[5] = ""
    lines = [f"{n},{name},{kind}" for n, (name, kind) in enumerate(zip(names, kinds, strict=True))]
    (tmp_path / "in.csv").write_text("\n".join(["id,image,category", *lines]))
    done = enrich(opened, tmp_path / "in.csv", tmp_path / "out.parquet")
    told = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for n, row in enumerate(told):
        assert row["category_suggestion"] == ("Tassen" if heap[n] else "Teller")
        assert row["category_source"] == "peers"
        flags = [one["flag"] for one in row["quality_flags"]]
        assert ("looks_unlike_its_category" in flags) == (n in swapped), n
    assert done.flags["looks_unlike_its_category"] == 2
    assert told[3]["quality_flags"][0]["detail"].startswith(f"looks like {told[3]['category_suggestion']} (")


def test_without_categories_the_best_tag_with_its_parents_is_suggested(tmp_path):
    made = rows(["a.jpg", "b.jpg"])
    made[0]["tags"] = [{"tag": "tabby", "score": 0.8, "source": "tiny"}]
    made[1]["tags"] = made[1]["categories"] = []
    opened = shop(tmp_path / "c", made)
    (tmp_path / "in.csv").write_text("id,image\n1,a.jpg\n2,b.jpg\n")
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.parquet")
    first, second = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (first["category_suggestion"], first["category_score"], first["category_source"]) == (
        "cat > tabby",
        0.8,
        "tags",
    )
    assert second["category_suggestion"] is None


def catalogs(tmp_path, opened, table, **options):
    """The answers of a catalog of products and their images, by product id."""
    lines = [f"{name},{'|'.join(images)}" for name, images in table.items()]
    (tmp_path / "in.csv").write_text("\n".join(["sku,image", *lines]))
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.parquet", options=EnrichOptions(**options))
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    return {row["sku"]: row for row in rows}


def alike(row):
    return [one["product_id"] for one in row["similar_products"]]


def test_a_product_is_not_like_itself_however_many_pictures_it_has(tmp_path):
    names = named(range(14))
    made = rows(names, seed=11)
    made[10]["embedding"] = turned(made[0]["embedding"], 0.85, 1)
    opened = shop(tmp_path / "c", made)
    found = catalogs(tmp_path, opened, {"A": names[:11], "B": names[11:12], "C": names[12:13]})
    assert set(alike(found["A"])) == {"B", "C"}


def test_a_product_with_the_same_picture_is_not_similar_but_a_duplicate(tmp_path):
    names = named(range(6))
    made = rows(names, seed=12)
    made[2] |= {"embedding": turned(made[0]["embedding"], 0.99, 1), "phash": made[0]["phash"]}
    opened = shop(tmp_path / "c", made)
    table = {"C": names[:1], "B": [names[1], names[2]], "D": names[3:4]}  # of B the second is C's
    found = catalogs(tmp_path, opened, table)
    assert alike(found["C"]) == ["D"]
    assert alike(found["B"]) == ["D"]
    assert [one["detail"] for one in found["B"]["quality_flags"]] == ["C"]


def test_copies_of_copies_are_one_picture(tmp_path):
    names = named(range(8))
    made = rows(names, seed=13)
    first = np.asarray(made[0]["embedding"])
    middle, last = turned(first, 0.985, 1), None
    last = turned(middle, 0.985, 2)
    made[1]["embedding"], made[2]["embedding"] = (
        last,
        middle,
    )  # 0 and 1 are copies of 2, and hardly of each other
    opened = shop(tmp_path / "c", made)
    found = catalogs(tmp_path, opened, {f"P{n}": [name] for n, name in enumerate(names)})
    for product in ("P1", "P2"):
        assert [one["detail"] for one in found[product]["quality_flags"]] == ["P0"]
    for product in ("P0", "P1", "P2"):
        assert not {"P0", "P1", "P2"} & set(alike(found[product]))


def test_a_crowd_of_copies_leaves_room_for_others(tmp_path):
    n = 400
    names = [f"{i:03}.jpg" for i in range(n)]
    made = rows(names, seed=14)
    for i in range(370):
        made[i] |= {"embedding": made[0]["embedding"], "phash": made[0]["phash"]}
    opened = shop(tmp_path / "c", made)
    found = catalogs(tmp_path, opened, {f"P{i}": [name] for i, name in enumerate(names)}, k=10)
    for i in (0, 200, 369, 370, 399):
        assert len(alike(found[f"P{i}"])) == 10


def test_a_product_with_thousands_of_rows_costs_no_squares(tmp_path):
    names = named(range(4))
    opened = shop(tmp_path / "c", rows(names, seed=15))
    lines = [f"N/A,gone{i}.jpg" for i in range(6_000)]
    (tmp_path / "in.csv").write_text("\n".join(["sku,image", "1,00.jpg", *lines]))
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").stat().st_size < 6_000 * 6_000
