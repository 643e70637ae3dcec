"""Which image a name in a catalog means, and what is said of names that mean none."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_kit import SHOP, rows, shop
from index_kit import add

import tagger
from tagger.catalog import EnrichOptions, enrich
from tagger.catalog.roles import find_roles, in_stock
from tagger.collection import SCHEMA, Collection
from tagger.errors import UsageError

IMAGES = ["a.jpg", "x/same.jpg", "y/same.jpg", "deep/way/c d.jpg", "B.JPG", "semi;colon.jpg", "bad.jpg"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    made = rows(IMAGES, failed=["bad.jpg"])
    made[0]["image_id"] = "img-1"  # whose uri is another
    return shop(tmp_path_factory.mktemp("shop") / "c", made)


def joined(opened, tmp_path, lines, **options):
    """The images by row, and the names that mean none."""
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    out, lost = tmp_path / "out.parquet", tmp_path / "lost.csv"
    done = enrich(opened, tmp_path / "in.csv", out, unmatched=lost, options=EnrichOptions(**options))
    with lost.open(newline="") as file:
        return pq.read_table(out).column("image_ids").to_pylist(), list(csv.DictReader(file)), done


def test_the_rule(opened, tmp_path):
    names = {
        "img-1": ["img-1"],
        f"{SHOP}a.jpg": ["img-1"],
        "a.jpg": ["img-1"],
        "A.JPG": ["img-1"],
        "https://cdn.shop.example/files/a.jpg?v=123#top": ["img-1"],
        "https://cdn.shop.example/deep/way/c%20d.jpg": [f"{SHOP}deep/way/c d.jpg"],
        "C:\\photos\\way\\c d.jpg": [f"{SHOP}deep/way/c d.jpg"],
        "y/same.jpg": [f"{SHOP}y/same.jpg"],
        "./x/same.jpg": [f"{SHOP}x/same.jpg"],
        "b.jpg": [f"{SHOP}B.JPG"],
        "semi;colon.jpg": [f"{SHOP}semi;colon.jpg"],
        "a.jpg| b.jpg ;x/same.jpg": ["img-1", f"{SHOP}B.JPG", f"{SHOP}x/same.jpg"],
        "b.jpg,a.jpg": [f"{SHOP}B.JPG", "img-1"],
        "https://a.example/%FF/a.jpg": ["img-1"],
        "https://a.example/b.jpg?v=1,https://a.example/a.jpg?v=2": [f"{SHOP}B.JPG", "img-1"],
        '["b.jpg", "a.jpg"]': [f"{SHOP}B.JPG", "img-1"],
        "a.jpg,": ["img-1"],
        ";b.jpg|": [f"{SHOP}B.JPG"],
        " | ": [],
        "//cdn.example/a.jpg?v=1": ["img-1"],
        "/media/a.jpg?v=2": ["img-1"],
        "HTTPS://a.example/w_3,h_2/a.jpg|https://a.example/w_3,h_2/b.jpg": ["img-1", f"{SHOP}B.JPG"],
        "https://a.example/w_3,h_2/a.jpg, https://a.example/w_3,h_2/b.jpg,": ["img-1", f"{SHOP}B.JPG"],
        "": [],
        "same.jpg": [],
        "bad.jpg": [],
        "nothing.jpg": [],
        "a.jpg|gone.jpg": ["img-1"],
    }
    lines = ["sku\timage", *(f"{n}\t{name}" for n, name in enumerate(names))]
    found, lost, done = joined(opened, tmp_path, lines)
    assert dict(zip(names, found, strict=True)) == names
    assert [(row["name"], row["problem"], row["row"]) for row in lost] == [
        ("same.jpg", "ambiguous", "25"),
        ("bad.jpg", "failed", "26"),
        ("nothing.jpg", "missing", "27"),
        ("gone.jpg", "missing", "28"),
    ]
    assert lost[1]["detail"] == "corrupt: the file ends in the middle"
    assert done.joined == {"file name": 28, "image_id": 1, "uri": 1}
    assert done.unmatched == {"ambiguous": 1, "failed": 1, "missing": 2}
    assert (done.products, done.enriched, done.missing) == (28, 23, 5)


def test_several_rows_and_several_columns_are_one_product(opened, tmp_path):
    lines = [
        "Handle,Title,Image Src,Image 2,Variant Image",
        "cup,Cup,a.jpg,b.jpg,",
        "cup,,x/same.jpg,,a.jpg",
        "plate,Plate,a.jpg,,",
        ",,,,",
        ",no id,c d.jpg,,",
    ]
    found, _, done = joined(opened, tmp_path, lines)
    assert found == [
        ["img-1", f"{SHOP}B.JPG"],
        [f"{SHOP}x/same.jpg", "img-1"],
        ["img-1"],
        [],
        [f"{SHOP}deep/way/c d.jpg"],
    ]
    assert (done.products, done.rows, done.images) == (3, 5, 4)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[0]["tags"] == rows[1]["tags"]  # of all images of the product
    assert rows[3]["tags"] is None
    assert {one["product_id"] for one in rows[2]["similar_products"]} >= {"row 5"}  # in words of its own


def test_columns_and_separators_can_be_said(opened, tmp_path):
    lines = ["nr;what;bilder;image", "1;x;a.jpg / b.jpg;b.jpg"]
    options = {"id_column": "what", "image_columns": ("Bilder",), "separator": "/"}
    found, _, done = joined(opened, tmp_path, lines, **options)
    assert found == [["img-1", f"{SHOP}B.JPG"]]
    assert done.columns == "product ids in what; images in bilder; not found: categories, titles, stock"
    with pytest.raises(UsageError, match=r"--image-column: the catalog .* has no column 'Foto'; it has 'nr'"):
        joined(opened, tmp_path, lines, image_columns=("Foto",))
    with pytest.raises(UsageError, match=r"names a column of .* twice"):
        joined(opened, tmp_path, lines, image_columns=("bilder", "Bilder"))
    with pytest.raises(UsageError, match="there is no encoding 'klingon'"):
        joined(opened, tmp_path, lines, encoding="klingon")
    with pytest.raises(UsageError, match="has 2 columns 'id': name them apart"):
        joined(opened, tmp_path, ["id,id,image", "1,2,a.jpg"], id_column="id")
    with pytest.raises(UsageError, match=r"--sheet means nothing for the catalog .* which is a text file"):
        joined(opened, tmp_path, lines, sheet="One")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Artikelnr.;Titel;Bilddatei;Warengruppe;Lagerbestand", "stock in Lagerbestand"),
        ("item_no;Name;Image;Type;Availability", "product ids in item_no"),
        ("id;title;image_link;product_type;availability", "categories in product_type"),
        ("Handle;Title;Image Src;Type;Variant Inventory Qty", "stock in Variant Inventory Qty"),
    ],
)
def test_usual_names_of_columns_are_known(opened, tmp_path, header, told):
    _, _, done = joined(opened, tmp_path, [header, "1;Cup;a.jpg;Cups;3"])
    assert told in done.columns
    assert "not found" not in done.columns


WOO = ["ID", "Type", "SKU", "Name", "In stock?", "Stock", "Categories", "Images"]
MAGENTO = ["sku", "product_type", "categories", "qty", "is_in_stock", "base_image", "additional_images"]


@pytest.mark.parametrize(
    ("header", "category", "stock", "images"),
    [
        (WOO, "Categories", "In stock?", ["Images"]),
        (MAGENTO, "categories", "is_in_stock", ["base_image", "additional_images"]),
        (["id", "product_type", "qty", "image"], "product_type", "qty", ["image"]),
        (["id", "Type", "qty", "image", "categories", "category_suggestion"], "Type", "qty", ["image"]),
    ],
)
def test_columns_of_shops_have_their_roles(header, category, stock, images):
    roles = find_roles(header, where="the catalog")
    assert (header[roles.category], header[roles.stock]) == (category, stock)
    assert [header[n] for n in roles.images] == images


NOT_IN_STOCK = """\
0 in stock|0 pcs|Not in stock|no stock|0 Stück|0,00|0.0|schema.org/SoldOut|inactive|null
http://schema.org/Discontinued||-|Out_of_stock|temporarily out of stock|derzeit nicht verfügbar
Nicht lieferbar.|rupture de stock|agotado|Esaurito"""


def test_words_of_stock():
    words = NOT_IN_STOCK.replace("\n", "|").split("|")
    assert [word for word in words if in_stock(word)] == []
    words = "5 in stock|12 pcs|.5|2-3 days|in stock|preorder|https://schema.org/InStock|>10|lieferbar"
    assert [word for word in words.split("|") if not in_stock(word)] == []


def test_a_name_with_a_question_mark_is_tried_before_it_is_cut(tmp_path):
    opened = shop(tmp_path / "c", rows(["a.jpg", "a.jpg?v=2"]))
    lines = ["sku\timage", "1\ta.jpg?v=2", "2\t/m/a.jpg?v=3"]
    assert joined(opened, tmp_path, lines)[0] == [[f"{SHOP}a.jpg?v=2"], [f"{SHOP}a.jpg"]]


def test_columns_with_one_name_are_all_used(opened, tmp_path):
    found, _, _ = joined(opened, tmp_path, ["sku;image;image", "1;a.jpg;b.jpg"])
    assert found == [["img-1", f"{SHOP}B.JPG"]]


def test_a_catalog_of_another_collection_is_told_of(opened, tmp_path):
    _, _, done = joined(opened, tmp_path, ["sku;image", "1;x.jpg"])
    assert any("none has a picture of this collection" in remark for remark in done.remarks)


def test_images_tagged_after_the_index_are_told_apart(tmp_path):

    opened = shop(tmp_path / "c", rows(["a.jpg", "b.jpg"]))
    add(Collection.open(opened.uri), pa.Table.from_pylist(rows(["late.jpg"], seed=9), SCHEMA))
    _, lost, done = joined(tagger.open(opened.uri), tmp_path, ["sku,image", "1,late.jpg", "2,a.jpg"])
    assert done.unmatched == {"not indexed": 1}
    assert "tagger index" in lost[0]["detail"]
