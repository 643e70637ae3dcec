"""Catalogs with every awkward thing come back with their own columns unchanged, in every format."""

import codecs
import csv
import datetime as dt
import decimal
import gzip
import io
import json

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_kit import SHOP, rows, shop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagger.catalog import OURS, EnrichOptions, enrich
from tagger.errors import UsageError

HEADER = ["sku", "name", "image", "price", "note", "note", ""]
NOON = dt.datetime(2026, 2, 1, 12)  # noqa: DTZ001 - a workbook knows no zones
AWKWARD = [
    ["0007", "Tasse, blau", "a.jpg", "1,50", "=1+1", "two\nlines", "x"],
    ["0007", "Tasse; rot", "b.jpg", "01", '+49 30 "quoted"', "carriage\rreturn", ""],
    ["", "", "", "", "", "", ""],
    ["É-9", "Ünïcødé", "a.jpg|b.jpg", "-3", "@home", "\ttab", " space "],
    ["1e5", "x" * 10_000_000, "gone.jpg", "1.50", "NULL", "true", "\uff10\uff10"],
    ["nan", "\u2019", "", "", "''", "\\", "end"],
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return shop(tmp_path_factory.mktemp("shop") / "c", rows(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]))


def written(table, *, delimiter=",", line_end="\n", header=HEADER):
    out = io.StringIO(newline="")
    out.write(delimiter.join(header) + line_end)
    csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows(table)
    return out.getvalue()


def cells(path, *, delimiter=","):
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(1 << 28)
        return list(csv.reader(file, delimiter=delimiter))


@pytest.mark.parametrize(
    ("encoding", "delimiter", "line_end"),
    [
        ("utf-8", ",", "\n"),
        ("utf-8-sig", ";", "\r\n"),
        ("cp1252", ";", "\r\n"),
        ("utf-16", "\t", "\r\n"),
        ("utf-8", "|", "\n"),
    ],
)
def test_text_comes_back_cell_by_cell(small, tmp_path, encoding, delimiter, line_end):
    table = [list(row) for row in AWKWARD]
    if encoding == "cp1252":
        table[4][6] = "€"  # which Latin-1 lacks
    if delimiter == "|":
        table[3][2] = "a.jpg;b.jpg"
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(written(table, delimiter=delimiter, line_end=line_end).encode(encoding))
    done = enrich(small, source, out)
    found = cells(out, delimiter=delimiter)
    assert found[0][: len(HEADER)] == HEADER
    assert [row[: len(HEADER)] for row in found[1:]] == table
    assert found[0][len(HEADER) :] == OURS.names
    data = out.read_bytes()
    assert data.startswith(codecs.BOM_UTF8) == (encoding != "utf-8")
    assert data.split(b"\n", 1)[0].endswith(b"\r") == (line_end == "\r\n")
    assert (done.products, done.enriched, done.missing, done.rows) == (4, 2, 2, 6)
    assert done.unmatched == {"missing": 1}
    # As Parquet, too: text stays text.
    enrich(small, source, tmp_path / "out.parquet")
    back = pq.read_table(tmp_path / "out.parquet")
    assert back.schema.names[: len(HEADER)] == [
        "sku",
        "name",
        "image",
        "price",
        "note",
        "note (2)",
        "column 7",
    ]
    assert [list(row) for row in zip(*(back.column(n).to_pylist() for n in range(7)), strict=True)] == table


def test_a_first_line_that_tells_excel_the_delimiter(small, tmp_path):
    (tmp_path / "in.csv").write_bytes(b"sep=;\r\nsku;image;note\r\n1;a.jpg;x,y\r\n")
    enrich(small, tmp_path / "in.csv", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_bytes().split(b"\r\n")
    assert lines[0] == b"sep=;"
    assert lines[1].startswith(b"sku;image;note;image_ids;")
    assert lines[2].startswith(b"1;a.jpg;x,y;s3://shop/a.jpg;")


@pytest.mark.parametrize(
    ("said", "encoding", "marked"),
    [
        ("utf-8", "utf-8-sig", True),
        ("UTF8", "utf-8-sig", True),
        ("UTF-8", "utf-8", False),
        ("utf8", "utf-8", False),
        ("utf-8-sig", "utf-8", False),
        ("utf-16", "utf-16", True),
        ("utf-16-le", "utf-16", True),  # with the mark of this machine
    ],
)
def test_a_mark_is_no_part_of_the_header_whatever_encoding_is_said(small, tmp_path, said, encoding, marked):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes("Handle,Title,Image Src\n1,\u00c9,a.jpg\n".encode(encoding))
    options = EnrichOptions(encoding=said)
    enrich(small, source, out, options=options)
    assert cells(out)[0][:3] == ["Handle", "Title", "Image Src"]
    assert out.read_bytes().startswith(codecs.BOM_UTF8) == marked
    enrich(
        small, source, out, format="shopify", options=options
    )  # which it is by the name of its first column
    assert out.read_text(encoding="utf-8").startswith("Handle,Title,Image Src,Tags,Image Alt Text\n")


@pytest.mark.parametrize("said", [None, "utf-16", "utf-8"])
def test_utf_32_is_refused_by_name(small, tmp_path, said):
    (tmp_path / "in.csv").write_bytes("sku,image\n1,a.jpg\n".encode("utf-32"))
    with pytest.raises(UsageError, match="is UTF-32"):
        enrich(small, tmp_path / "in.csv", tmp_path / "o.csv", options=EnrichOptions(encoding=said))


def test_the_line_end_is_that_behind_the_header(small, tmp_path):
    (tmp_path / "in.csv").write_bytes(b'sku;"Bild\nname";images\r\n1;x,y;a.jpg\r\n')
    enrich(small, tmp_path / "in.csv", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_bytes().split(b"\r\n")
    assert lines[0].startswith(b'sku;"Bild\nname";images;image_ids;')
    assert lines[1].startswith(b"1;x,y;a.jpg;s3://shop/a.jpg;")


def test_latin_1_and_gzip_and_short_rows(small, tmp_path):
    source = tmp_path / "in.csv.gz"
    text = "sku;image;note\n1;a.jpg;caf\u00e9 \u0081\n2;b.jpg\n\n3;c.jpg;x;;\n"
    source.write_bytes(gzip.compress(text.encode("latin-1"), mtime=0))
    done = enrich(small, source, tmp_path / "out.csv")
    assert "latin-1" in done.read_as
    found = [row[:3] for row in cells(tmp_path / "out.csv", delimiter=";")[1:]]
    assert found == [
        ["1", "a.jpg", "caf\u00e9 \u0081"],
        ["2", "b.jpg", ""],
        ["", "", ""],
        ["3", "c.jpg", "x"],
    ]


cell_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(cell_text, min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_comes_back(small, tmp_path, table, delimiter, line_end):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(
        written(table, delimiter=delimiter, line_end=line_end, header=["sku", "image", "note"]).encode()
    )
    enrich(small, source, out)
    assert [row[:3] for row in cells(out, delimiter=delimiter)[1:]] == table


def test_types_of_parquet_come_back(small, tmp_path):
    own = pa.table(
        {
            "id": pa.array([7, 8, None], pa.int16()),
            "images": pa.array([["a.jpg", f"{SHOP}b.jpg"], [], None], pa.list_(pa.string())),
            "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.00")], pa.decimal128(9, 2)),
            "since": pa.array([dt.date(2026, 1, 31), None, None]),
            "at": pa.array(
                [dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC), None, None], pa.timestamp("ns", "UTC")
            ),
            "raw": pa.array([b"\x00\xff", None, b""], pa.binary()),
            "nested": pa.array([{"a": [1]}, None, {"a": []}], pa.struct([("a", pa.list_(pa.int8()))])),
            "kind": pa.array(["x", None, "y"]).dictionary_encode(),
            "tags": ["mine", "=1+1", None],
        }
    )
    pq.write_table(own, tmp_path / "in.parquet")
    enrich(small, tmp_path / "in.parquet", tmp_path / "out.parquet")
    back = pq.read_table(tmp_path / "out.parquet")
    assert back.select(own.schema.names).cast(own.schema).equals(own)
    assert back.schema.names[len(own.schema) :] == [
        "tagger_tags" if name == "tags" else name for name in OURS.names
    ]
    assert back.column("image_ids").to_pylist() == [[f"{SHOP}a.jpg", f"{SHOP}b.jpg"], [], []]
    enrich(small, tmp_path / "in.parquet", tmp_path / "out.csv")
    first, second, third = cells(tmp_path / "out.csv")[1:]
    assert first[:4] == ["7", '["a.jpg", "s3://shop/b.jpg"]', "1.50", "2026-01-31"]
    assert third[2] == "-2.00"  # a number is no formula
    assert second[8] == "'=1+1"  # but this one was none so far
    enrich(small, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (line["id"], line["price"], line["nested"], line["raw"]) == (7, "1.50", {"a": [1]}, "AP8=")


def test_json_comes_back_as_it_was_written(small, tmp_path):
    lines = [
        '{"id": 12345678901234567890123, "image": "a.jpg", "price": 1.10, "x": {"y": [1, 2.0]}}',
        '  {"id":"0007","image":["b.jpg","c.jpg"],"a\\u0000b":null , "tags":"mine"}  ',
        "",
        "{}",
        '{"id": 1.0, "image": "a.jpg"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    done = enrich(small, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    out = (tmp_path / "out.jsonl").read_text().splitlines()
    whole = [line.strip() for line in lines if line]
    for line, before in zip(out, whole, strict=True):
        assert line.startswith(before.rstrip("} ") if before != "{}" else "{")
        json.loads(line)
    assert json.loads(out[1])["tagger_tags"] is not None
    assert json.loads(out[1])["image_ids"] == [f"{SHOP}b.jpg", f"{SHOP}c.jpg"]
    assert done.products == 3
    mixed = [{"id": "x1", "image": "a.jpg"}, {"id": 3, "image": ["b.jpg"]}, {"id": "x2", "image": None}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, mixed)))
    assert enrich(small, tmp_path / "mixed.jsonl", tmp_path / "mixed.csv").enriched == 2
    assert [row[0] for row in cells(tmp_path / "mixed.csv")[1:]] == ["x1", "3", "x2"]
    enrich(small, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    back = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert back[0]["id"] == "12345678901234567890123"
    assert back[0]["x"] == '{"y": [1, 2.0]}'


def test_what_python_has_no_value_for_is_carried_through(small, tmp_path):
    bad = pa.array([b"\xff1", b"\xfe1", b"ok"]).view(pa.binary()).cast(pa.string(), safe=False)
    far = pa.array([10**7, 1, None], pa.date32())
    images = pa.array([["a.jpg"], ["b.jpg"], ["c.jpg"]], pa.list_(pa.string()))
    names = pa.ListArray.from_arrays(
        [0, 1, 2, 3], pa.array([b"\xff", b"a.jpg", b"b.jpg"]).cast(pa.string(), False)
    )
    own = pa.table({"id": bad, "title": bad, "category": far, "image": images, "photo": names})
    pq.write_table(own, tmp_path / "in.parquet")
    for columns in (("image",), ("photo",)):
        options = EnrichOptions(image_columns=columns)
        for name in ("out.parquet", "out.csv", "out.jsonl"):
            assert enrich(small, tmp_path / "in.parquet", tmp_path / name, options=options).products == 3
    assert [row[0] for row in cells(tmp_path / "out.csv")[1:]] == ["\\xff1", "\\xfe1", "ok"]
    for kind, name in (("google-merchant", "o.tsv"), ("shopify", "o.csv")):
        enrich(small, tmp_path / "in.parquet", tmp_path / name, format=kind)
    assert pq.read_table(tmp_path / "out.parquet").column("id").combine_chunks().cast(pa.binary())[0].as_py()


def test_numbers_are_written_as_they_look(small, tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["id", "title", "image", "price"])
    book.active.append([1001, "A", "a.jpg", 20])
    book.active.append([1002.5, "B", "b.jpg", 19.9])
    book.save(tmp_path / "in.xlsx")
    (tmp_path / "in.jsonl").write_text(
        '{"id": 1001, "title": "A", "image": "a.jpg", "price": 20}\n'
        '{"id": 1002.5, "title": "B", "image": "b.jpg", "price": 19.9}\n'
    )
    for source in ("in.xlsx", "in.jsonl"):
        enrich(small, tmp_path / source, tmp_path / "out.csv")
        header, *found = cells(tmp_path / "out.csv")
        assert [(row[0], row[3]) for row in found] == [("1001", "20"), ("1002.5", "19.9")]
        assert [row[header.index("similar_products")] for row in found] == ["1002.5", "1001"]
    enrich(small, tmp_path / "in.xlsx", tmp_path / "out.jsonl")
    assert '"price":20,' in (tmp_path / "out.jsonl").read_text()


def test_infinite_numbers_are_text(small, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"id": 1, "image": "a.jpg", "price": 1e999}\n{"id": 2, "price": 3}\n')
    enrich(small, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("price").to_pylist() == ["Infinity", "3"]
    enrich(small, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert '"price": 1e999' in (tmp_path / "out.jsonl").read_text()


def test_what_a_workbook_cannot_give_is_told(small, tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["Handle", "Title", "Image Src", "Published", "Time", "Price", "Sum"])
    book.active.append(["a", "A", "a.jpg", True, dt.timedelta(hours=30), "#N/A", "=1+1"])
    book.active.append(["b", "B", "b.jpg", False, dt.timedelta(minutes=1), 2.5, 3])
    other = book.create_sheet("Other")
    other.append(["image"])
    other.append(["c.jpg"])
    book.save(tmp_path / "in.xlsx")
    done = enrich(small, tmp_path / "in.xlsx", tmp_path / "out.csv", format="shopify")
    assert [row[3:7] for row in cells(tmp_path / "out.csv")[1:]] == [
        ["true", "30:00:00", "", ""],
        ["false", "0:01:00", "2.5", "3"],
    ]
    assert [(n, "error such as #N/A" in remark) for remark, n in done.remarks.items()] == [(2, True)]
    options = EnrichOptions(sheet="Other")
    assert enrich(small, tmp_path / "in.xlsx", tmp_path / "out.csv", options=options).remarks == {}


def test_a_workbook_comes_back_with_its_types(small, tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["SKU", "Image", "Price", "Count", "Since", "Name"])
    sheet.append(["007", "a.jpg", 1.5, 3, dt.date(2026, 1, 31), "'=1+1"])
    sheet.append([None, None, None, None, None, None])
    sheet.append(["008", "b.jpg", 2, 4, NOON, "Ü"])
    other = book.create_sheet("Other")
    other.append(["image"])
    other.append(["c.jpg"])
    book.save(tmp_path / "in.xlsx")
    done = enrich(small, tmp_path / "in.xlsx", tmp_path / "out.parquet")
    back = pq.read_table(tmp_path / "out.parquet")
    assert back.schema.types[:5] == [pa.string(), pa.string(), pa.float64(), pa.int64(), pa.timestamp("us")]
    assert back.column("SKU").to_pylist() == ["007", None, "008"]
    assert back.column("Since").to_pylist()[2] == NOON
    assert (done.products, done.enriched) == (2, 2)
    enrich(small, tmp_path / "in.xlsx", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes().startswith(codecs.BOM_UTF8)
    assert cells(tmp_path / "out.csv")[1][:4] == ["007", "a.jpg", "1.5", "3"]
    enrich(small, tmp_path / "in.xlsx", tmp_path / "o.csv", options=EnrichOptions(sheet="Other"))
    assert cells(tmp_path / "o.csv")[1][1] == f"{SHOP}c.jpg"
    with pytest.raises(UsageError, match="no sheet 'Third'; it has 'Sheet', 'Other'"):
        enrich(small, tmp_path / "in.xlsx", tmp_path / "o.csv", options=EnrichOptions(sheet="Third"))


def test_our_cells_run_nowhere(tmp_path):
    made = rows(["=1+1.jpg", "b.jpg"])
    made[0]["image_id"] = "=1+1.jpg"
    made[0]["tags"] = [{"tag": "@home", "score": 0.9, "source": "tiny"}]
    opened = shop(tmp_path / "c", made)
    (tmp_path / "in.csv").write_text("sku,image\n=cmd,=1+1.jpg\n2,b.jpg\n")
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv")
    row = dict(zip(*cells(tmp_path / "out.csv")[:2], strict=True))
    assert (row["sku"], row["image"]) == ("=cmd", "=1+1.jpg")  # as they were in the catalog
    assert (row["image_ids"], row["tags"], row["alt_text"][:5]) == ("'=1+1.jpg", "'@home", "'@hom")
    other = dict(zip(cells(tmp_path / "out.csv")[0], cells(tmp_path / "out.csv")[2], strict=True))
    assert other["similar_products"] == "'=cmd"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("in.csv", b"", "is empty"),
        ("in.csv", b"sku,price\n1,2\n", "no column .* seems to name images"),
        ("in.csv", b'sku,image\n1,a.jpg,"x\n', "ends in line|damaged|has 3 cells"),
        ("in.csv", b"sku,image\n1,a.jpg,more\n", "line 2 has 3 cells, and the header has 2"),
        ("in.csv", b'sku,image\n1,a.jpg\n2,"b.jpg\n3,c.jpg\n', "damaged at line 4: .*must be doubled"),
        ("in.tsv", b'sku\timage\n1\t"a" cup.jpg\n', "damaged at line 2"),
        ("in.csv", b'sku,"image\n1,a.jpg\n', "damaged at line 1"),
        ("in.csv", b"sku,image\n" + b"1,a.jpg\n" * 10_000 + b"1,2,3\n", "line 10002 has 3 cells"),
        ("in.jsonl", b'{"image": "a.jpg"}\n[1]\n', "line 2 of the catalog .* is no JSON object"),
        ("in.jsonl", b'{"image": }\n', "line 1 of the catalog .* is no JSON"),
        ("in.jsonl", b"\n", "no line with a field"),
        ("in.parquet", b"PAR1 and no more PAR1", "damaged"),
        ("in.xlsx", b"PK\x03\x04 and no more", "no workbook that can be read"),
        ("in.csv.gz", gzip.compress(b"sku,image\n1,a.jpg\n" * 99, mtime=0)[:40], "damaged|cut off"),
        ("in.csv", "sku,image\n1,a.jpg\n".encode("utf-16")[:-1], "is not utf-16"),
    ],
)
def test_damaged_catalogs_are_told_of_and_nothing_is_written(small, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    out = tmp_path / "out.csv"
    out.write_text("of the run before")
    with pytest.raises(UsageError, match=said):
        enrich(small, tmp_path / name, out)
    assert out.read_text() == "of the run before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.csv"])
