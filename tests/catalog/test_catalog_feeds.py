"""Feeds: every row against the published rules, which are written down here once more (read 2026-11-25).

Google: support.google.com/merchants/answer/160588 (files with tabs), 6324405 (id), 6324406 (product_type),
6324473 (custom labels). Shopify: help.shopify.com/en/manual/products/import-export/using-csv.
"""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from catalog_kit import rows, shop
from driving import tagger as command

from tagger.catalog import enrich
from tagger.errors import RunError, UsageError

FORMULA = re.compile(r"^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
GOOGLE = {
    "id": 50,
    "product_type": 750,
    "custom_label_0": 100,
    "custom_label_1": 100,
    "custom_label_2": 100,
    "custom_label_3": 100,
}
SHOPIFY = ["Handle", "Title", "Tags", "Image Src", "Image Position", "Image Alt Text"]


def check_google(path):
    data = path.read_bytes()
    assert not data.startswith(b"\xef\xbb\xbf")
    lines = data.decode("utf-8").split("\n")
    assert lines.pop() == ""
    header, *table = [line.split("\t") for line in lines]
    assert set(header) <= set(GOOGLE)
    assert header[0] == "id"
    found = []
    for cells in table:
        assert len(cells) == len(header)
        row = dict(zip(header, cells, strict=True))
        assert row["id"]
        for name, text in row.items():
            assert len(text) <= GOOGLE[name]
            assert text.isprintable()
            assert text == text.strip()
            assert '"' not in text
            assert name == "id" or not FORMULA.match(text)
        found.append(row)
    assert len({row["id"] for row in found}) == len(found)
    for name in header[2:]:
        assert len({row[name] for row in found} - {""}) <= 1000
    return found


def check_shopify(path):
    data = path.read_bytes()
    assert len(data) <= 15_000_000
    assert not data.startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8", newline="") as file:
        header, *table = list(csv.reader(file))
    assert header == SHOPIFY
    found = []
    for cells in table:
        row = dict(zip(header, cells, strict=True))
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["Handle"])
        assert len(row["Handle"]) <= 255
        if found and found[-1]["Handle"] == row["Handle"]:
            assert row["Title"] == row["Tags"] == ""
            assert int(row["Image Position"]) == int(found[-1]["Image Position"]) + 1
        else:
            assert row["Handle"] not in {one["Handle"] for one in found}
            assert row["Title"]
            assert row["Image Position"] in ("", "1")
        tags = [tag.strip() for tag in row["Tags"].split(",") if tag.strip()]
        assert len(tags) <= 250
        assert max(map(len, tags), default=0) <= 255
        assert len(row["Image Alt Text"]) <= 512
        assert (row["Image Src"] == "") == (row["Image Position"] == "")
        assert row["Image Src"] == "" or re.match(r"https?://\S+$", row["Image Src"])
        for name, text in row.items():
            assert text.isprintable()
            assert name in ("Handle", "Image Src") or not FORMULA.match(text)
        found.append(row)
    return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    made = rows([f"{n}.jpg" for n in range(8)])
    words = ["=cmd|' /C calc'!A0", "-minus", "x" * 300, 'a "quoted"\tword', "comma, here", "\uff1dfull", "@"]
    for row, word in zip(made, words, strict=False):
        scored = [(word, 0.9), ("tabby", 0.5)]
        row["tags"] = [{"tag": tag, "score": score, "source": "tiny"} for tag, score in scored]
        row["categories"] = [{"tag": "cat", "score": 0.8}]
        row["colors"] = [{"hex": "#ffffff", "name": "white", "fraction": 0.8}]
    made[1]["sharpness"] = 3.0
    return shop(tmp_path_factory.mktemp("shop") / "c", made)


def test_every_line_of_a_google_feed_keeps_the_rules(opened, tmp_path):
    ids = ["0007", "-12", "x" * 50, "y" * 51, "ü 8", "=1+1", 'q"', "last"]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "title", "image", "category"])
        for n, name in enumerate(ids):
            out.writerow([name, f"Title {n}", f"{n}.jpg", "Pets > Cats" if n % 2 else '=Home "&"\tGarden'])
        out.writerow(["gone", "x", "gone.jpg", ""])
    done = enrich(opened, tmp_path / "in.csv", tmp_path / "feed.tsv", format="google-merchant")
    found = check_google(tmp_path / "feed.tsv")
    assert [row["id"] for row in found] == [
        "0007",
        "-12",
        "x" * 50,
        "ü 8",
        "=1+1",
        "last",
    ]  # ids stay as they are
    assert done.left_out == {
        "id longer than 50 characters": 1,
        "id with control characters or quotes": 1,
        "no picture": 1,
    }
    assert found[0] | {"id": ""} == {
        "id": "",
        "product_type": "Home & Garden",
        "custom_label_0": "cmd|' /C calc'!A0",
        "custom_label_1": "cat",
        "custom_label_2": "white",
        "custom_label_3": "pictures ok",
    }
    assert found[1]["custom_label_3"] == "blurred"
    assert found[1]["product_type"] == "Pets > Cats"
    assert found[2]["custom_label_0"] == "x" * 100
    assert found[5]["custom_label_0"]  # without a word of its own: whatever it is, it keeps the rules


def test_words_of_products_are_in_the_first_of_their_rows_that_has_them(opened, tmp_path):
    levels = "x" * 746 + " > yyy > z"
    lines = ["id,title,image,category", "1,,0.jpg,", "1,Cup,1.jpg,Home>Mugs> Big >"]
    (tmp_path / "in.csv").write_text("\n".join([*lines, f"2,Plate,2.jpg,{levels}"]))
    enrich(opened, tmp_path / "in.csv", tmp_path / "feed.tsv", format="google-merchant")
    found = check_google(tmp_path / "feed.tsv")
    assert [row["product_type"] for row in found] == ["Home > Mugs > Big", "x" * 746]
    enrich(opened, tmp_path / "in.csv", tmp_path / "shop.csv", format="shopify")
    assert [row["Title"] for row in check_shopify(tmp_path / "shop.csv")] == ["Cup", "Plate"]


def test_links_for_shopify_are_addresses(opened, tmp_path):
    links = (
        "HTTPS://c.example/0.jpg|https://c.example/a b/1.jpg|https:///2.jpg|https://c.example/w_3,h_2/3.jpg"
    )
    (tmp_path / "in.csv").write_text(f'id,title,image\n1,Cup,"{links}"\n')
    enrich(opened, tmp_path / "in.csv", tmp_path / "shop.csv", format="shopify")
    with (tmp_path / "shop.csv").open(newline="") as file:
        assert [row["Image Src"] for row in csv.DictReader(file)] == [
            "HTTPS://c.example/0.jpg",
            "https://c.example/a%20b/1.jpg",
            "https://c.example/w_3,h_2/3.jpg",
        ]


def test_a_label_has_at_most_a_thousand_values(tmp_path):
    made = rows([f"{n}.jpg" for n in range(1100)])
    for n, row in enumerate(made):
        row["tags"] = [{"tag": f"word {n}", "score": 0.9, "source": "tiny"}]
    opened = shop(tmp_path / "c", made)
    lines = [f"{n},{n}.jpg" for n in range(1100)]
    (tmp_path / "in.csv").write_text("\n".join(["id,image", *lines]))
    enrich(opened, tmp_path / "in.csv", tmp_path / "feed.txt", format="google-merchant")
    found = check_google(tmp_path / "feed.txt")
    assert len(found) == 1100
    assert len({row["custom_label_0"] for row in found} - {""}) == 1000


def test_every_row_for_shopify_keeps_the_rules(opened, tmp_path):
    with (tmp_path / "in.csv").open("w", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["SKU", "Name", "Image"])
        out.writerow(["A 1", "=Cup", "https://cdn.example/0.jpg?v=1|https://cdn.example/2.jpg"])
        out.writerow(["a-1", "the same handle", "1.jpg"])
        out.writerow(["B/2", "Plate\r\nof two lines", "1.jpg"])
        out.writerow(["A 1", "", "https://cdn.example/5.jpg"])
        out.writerow(["???", "no handle", "3.jpg"])
        out.writerow(["C3", "", "3.jpg"])
        out.writerow(["D4", "x" * 300, "4.jpg|https://cdn.example/gone.jpg"])
        out.writerow(["E5", "no picture", ""])
    done = enrich(opened, tmp_path / "in.csv", tmp_path / "shop.csv", format="shopify")
    found = check_shopify(tmp_path / "shop.csv")
    assert Counter(row["Handle"] for row in found) == {"a-1": 3, "b-2": 1, "d4": 1}
    assert [row["Image Src"] for row in found[:3]] == [
        "https://cdn.example/0.jpg?v=1",
        "https://cdn.example/2.jpg",
        "https://cdn.example/5.jpg",
    ]
    assert found[0]["Title"] == "Cup"
    assert found[0]["Image Alt Text"] == "cmd|' /C calc'!A0, mainly white"
    assert found[3]["Title"] == "Plate of two lines"
    assert {"tabby", "cat", "minus"} <= set(found[3]["Tags"].split(", "))
    assert done.left_out == {
        "handle of another product": 1,
        "no id that a handle can be made of": 1,
        "no title": 1,
        "no picture": 1,
    }


EXPORT = """\
Handle,Title,Body (HTML),Tags,Option1 Value,Variant SKU,Image Src,Image Position,Image Alt Text,Status
cup,Cup,"<p>a,
b</p>","Tabby, Sale",S,007,https://cdn.example/0.jpg?v=9,1,,active
cup,,,,M,008,https://cdn.example/1.jpg,2,Already told,
cup,,,,L,009,,,,
plate,Plate,=1+1,,Default Title,010,https://cdn.example/gone.jpg,1,,draft
"""


def test_an_export_of_shopify_comes_back_with_two_columns_filled(opened, tmp_path):
    (tmp_path / "in.csv").write_text(EXPORT)
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv", format="shopify")
    before, after = (
        list(csv.DictReader((tmp_path / name).open(newline=""))) for name in ("in.csv", "out.csv")
    )
    same = [name for name in before[0] if name not in ("Tags", "Image Alt Text")]
    assert [[row[name] for name in same] for row in after] == [[row[name] for name in same] for row in before]
    assert list(after[0]) == list(before[0])
    assert after[0]["Tags"].startswith("Tabby, Sale, ")
    assert after[0]["Tags"].casefold().split(", ").count("tabby") == 1
    assert {"cat", "minus"} <= set(after[0]["Tags"].split(", "))
    assert [row["Tags"] for row in after[1:]] == ["", "", ""]  # of the product, in its first row
    assert after[0]["Image Alt Text"].endswith("mainly white")
    assert [row["Image Alt Text"] for row in after[1:]] == ["Already told", "", ""]


def test_tags_that_a_product_has_are_kept_and_no_more_than_250_are_there(opened, tmp_path):
    own = ", ".join(f"t{n}" for n in range(249))
    (tmp_path / "in.csv").write_text(
        f'URL handle,Title,Tags,Product image URL\ncup,Cup,"{own}",https://cdn.example/0.jpg\n'
    )
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv", format="shopify")
    (row,) = csv.DictReader((tmp_path / "out.csv").open(newline=""))
    assert row["Tags"].startswith(f"{own}, ")
    assert len(row["Tags"].split(", ")) == 250
    assert "Image alt text" in row  # in the words that the file has for the others


def test_a_file_for_shopify_that_is_too_large_is_several(opened, tmp_path):
    body = "x" * 40_000
    with (tmp_path / "in.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Handle", "Title", "Body (HTML)", "Image Src"])
        for n in range(200):
            out.writerow([f"p{n}", f"Product {n}", body, "https://cdn.example/0.jpg"])
            out.writerow([f"p{n}", "", body, "https://cdn.example/1.jpg"])
    done = enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv", format="shopify")
    assert [name.rpartition("/")[2] for name in done.files] == ["out.csv", "out-2.csv"]
    handles = []
    for name in done.files:
        with Path(name).open(newline="") as file:
            handles.append([row["Handle"] for row in csv.DictReader(file)])
        assert (tmp_path / name).stat().st_size <= 15_000_000
    assert not set(handles[0]) & set(handles[1])
    assert len(handles[0] + handles[1]) == 400


def test_a_further_file_replaces_nothing_that_is_read(opened, tmp_path):
    body = "x" * 40_000
    with (tmp_path / "out-2.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Handle", "Title", "Body (HTML)", "Image Src"])
        out.writerows([f"p{n}", f"Product {n}", body, "https://cdn.example/0.jpg"] for n in range(400))
    before = (tmp_path / "out-2.csv").read_bytes()
    with pytest.raises(UsageError, match="which is read or written, too: name another"):
        enrich(opened, tmp_path / "out-2.csv", tmp_path / "out.csv", format="shopify")
    assert (tmp_path / "out-2.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out-2.csv"]
    (tmp_path / "in.csv").write_text("sku,image,title\n1,0.jpg,Cup\n")
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="cannot be both"):
        enrich(opened, tmp_path / "in.csv", tmp_path / "o.csv", unmatched=tmp_path / "x" / ".." / "o.csv")
    done = enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv", format="shopify")
    assert any("out-2.csv, is there from before" in remark for remark in done.remarks)


def test_a_catalog_that_changes_while_it_is_read(opened, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("id,image\n1,0.jpg\n2,1.jpg\n")

    def change(line):
        if "products in" in line:
            source.write_text("id,image\n2,1.jpg\n1,0.jpg\n3,2.jpg\n")

    with pytest.raises(RunError, match="was changed while it was read"):
        enrich(opened, source, tmp_path / "out.csv", say=change)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_what_a_feed_needs_is_told_before_any_work(opened, tmp_path):
    (tmp_path / "in.csv").write_text("image\n0.jpg\n")
    with pytest.raises(UsageError, match=r"needs the ids of the products.*--id-column"):
        enrich(opened, tmp_path / "in.csv", tmp_path / "out.tsv", format="google-merchant")
    with pytest.raises(UsageError, match=r"needs the ids of the products.*--id-column"):
        enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv", format="shopify")
    (tmp_path / "in.csv").write_text("id,image\n1,0.jpg\n")
    with pytest.raises(UsageError, match=r"needs the titles of the products.*--title-column"):
        enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv", format="shopify")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_command(opened, tmp_path):
    (tmp_path / "in.csv").write_text("id;image;category\n1;0.jpg;A\n2;gone.jpg;B\n")
    out = tmp_path / "out.csv"
    done = command("enrich", opened.uri, tmp_path / "in.csv", "--out", out, "--json").require(0)
    assert {name: done.json[name] for name in ("products", "enriched", "missing", "out")} == {
        "products": 2,
        "enriched": 1,
        "missing": 1,
        "out": str(out),
    }
    said = command("enrich", opened.uri, tmp_path / "in.csv", "--out", out, "--quiet").require(0)
    assert said.stderr == ""
    assert "missing: row 2, product 2: gone.jpg (no image of the collection has this name)" in said.stdout
    assert (
        "cells apart by semicolon; product ids in id; images in image; categories in category" in said.stdout
    )
    for words, text in (
        ((tmp_path / "in.csv", "--out", tmp_path / "in.csv"), "it would replace"),
        ((tmp_path / "in.csv", "--out", tmp_path / "x.pdf"), "tells no format"),
        ((tmp_path / "none.csv", "--out", out), "cannot be opened"),
        ((tmp_path / "in.csv", "--out", "s3://b/out.csv"), "--out must be a file on this machine"),
        ((tmp_path / "in.csv", "--out", out, "--unmatched", out), "cannot be both"),
        ((tmp_path / "in.csv", "--out", out, "-k", "-1"), "k must be from 1 to 100"),
        ((tmp_path / "in.csv", "--out", out, "--taxonomy", tmp_path / "t.tsv"), "t.tsv"),
        ((tmp_path / "in.csv", "--out", out, "-k", "0"), "k must be from 1 to 100"),
        ((tmp_path / "in.csv", "--out", out, "--min-side", "-4"), "min_side_px must be at least 0, got -4"),
        ((tmp_path / "in.csv", "--out", out, "--in-stock"), "name one with --stock-column"),
        ((tmp_path / "in.csv", "--out", tmp_path / "x.parquet", "--format", "csv"), "it is csv, name it so"),
        ((tmp_path / "in.csv", "--out", tmp_path / "x.csv", "--format", "google-merchant"), "name it so"),
        ((tmp_path / "in.csv", "--out", tmp_path / "x.tsv", "--format", "shopify"), "name it so"),
        ((tmp_path / "in.csv", "--out", tmp_path / "x.csv.gz", "--format", "csv"), "name it so"),
        ((tmp_path / "in.csv", "--out", out, "--min-likeness", "nan"), "min_cosine must be from -1 to 1"),
        ((tmp_path / "in.csv", "--out", out, "--min-likeness", "1.5"), "min_cosine must be from -1 to 1"),
        ((tmp_path / "in.csv", "--out", out, "--image-column", "Bild"), "no column 'Bild'"),
    ):
        failed = command("enrich", opened.uri, *words).require(2)
        assert text in failed.stderr
