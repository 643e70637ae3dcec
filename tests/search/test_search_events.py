"""Events: what a file says, what each event counts, and the sentence for each file that cannot be used."""

from __future__ import annotations

import csv
import gzip

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from events_kit import DAY, IMAGES, START, make_index, reading, tastes_of, write_events

from tagger.errors import RunError, UsageError
from tagger.search.events import WEIGHTS, EventOptions

HEADER = "user_id,image_id,event,timestamp\n"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("events") / "collection")


def tastes(opened, path, **options):
    with reading(opened, path, **options) as events:
        return tastes_of(events)


def refusal(opened, path, **options):
    with pytest.raises(UsageError) as caught, reading(opened, path, **options):
        pass
    return str(caught.value)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_weights_are_sums_with_recency_from_the_users_newest_event(opened, tmp_path, ending):
    rows = [
        ("u", IMAGES[0], "view", START),
        ("u", IMAGES[0], "purchase", START + 30 * DAY),
        ("u", IMAGES[1], "like", START),
        ("v", IMAGES[1], "click", START - 300 * DAY),
    ]
    path = write_events(tmp_path / f"e{ending}", rows)
    zero, one = opened.slot(IMAGES[0]), opened.slot(IMAGES[1])
    assert tastes(opened, path) == {
        "u": {zero: pytest.approx(0.5 + 5), one: pytest.approx(1.5)},
        "v": {one: pytest.approx(2)},
    }
    # A half-life later, everything but the newest counts half again.
    assert tastes(opened, path, half_life_days=15)["u"][one] == pytest.approx(0.75)


def test_disliked_is_disliked_whatever_else_happened(opened, tmp_path):
    rows = [("u", IMAGES[0], name, START) for name in ("purchase", "return", "purchase")]
    assert tastes(opened, write_events(tmp_path / "e.csv", rows)) == {"u": {opened.slot(IMAGES[0]): -3}}


def test_a_like_of_ten_years_ago_is_still_one(opened, tmp_path):
    rows = [("u", IMAGES[0], "view", START - 3650 * DAY), ("u", IMAGES[1], "dislike", START - 3650 * DAY)]
    found = tastes(opened, write_events(tmp_path / "e.csv", [*rows, ("u", IMAGES[2], "view", START)]))
    assert found["u"][opened.slot(IMAGES[0])] > 0 > found["u"][opened.slot(IMAGES[1])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_of_any_shop(opened, tmp_path, delimiter, mark):
    lines = [
        " User_ID|IMAGE_ID|Event|Timestamp|note|note",
        f'007|{IMAGES[0]}|View|2026-01-01T00:00:00Z|"a\nb"|',
        "",
        f"07|{IMAGES[1]}|Add to cart|1767225600|x|y",
    ]
    path = tmp_path / "events.txt"
    path.write_text(mark + "\r\n".join(lines).replace("|", delimiter), encoding="utf-8", newline="")
    assert tastes(opened, path) == {"007": {opened.slot(IMAGES[0]): 1}, "07": {opened.slot(IMAGES[1]): 4}}


def test_gzipped_csv(opened, tmp_path):
    path = tmp_path / "e.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}u,{IMAGES[0]},view,1\n".encode()))
    assert tastes(opened, path) == {"u": {opened.slot(IMAGES[0]): 1}}


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T00:00:00Z",
        "2026-01-31T01:00:00+01:00",
        "2026-01-31 00:00",
        "2026-01-31",
        "20260131",
        str(START + 30 * DAY),
        f"{START + 30 * DAY}.0",
        str((START + 30 * DAY) * 1000),
    ],
)
def test_timestamps_that_mean_the_same(opened, tmp_path, text):
    rows = [("u", IMAGES[0], "view", "2026-01-01"), ("u", IMAGES[1], "view", text)]
    found = tastes(opened, write_events(tmp_path / "e.csv", rows))
    assert found["u"][opened.slot(IMAGES[0])] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([START, START + 30 * DAY]),
        pa.array([START * 1000, (START + 30 * DAY) * 1000], pa.timestamp("ms")),
        pa.array([START * 10**9, (START + 30 * DAY) * 10**9], pa.timestamp("ns", tz="Europe/Berlin")),
        pa.array([START // DAY, START // DAY + 30], pa.date32()),
        pa.array(["2026-01-01", "2026-01-31"]),
    ],
    ids=lambda column: str(column.type),
)
def test_timestamps_of_parquet(opened, tmp_path, column):
    table = pa.table(
        {
            "user_id": pa.array([7, 7]),
            "image_id": pa.array(IMAGES[:2]).dictionary_encode(),
            "event": ["view", "view"],
            "timestamp": column,
        }
    )
    pq.write_table(table, tmp_path / "e.parquet")
    assert tastes(opened, tmp_path / "e.parquet")["7"][opened.slot(IMAGES[0])] == pytest.approx(0.5)


def test_unknown_and_incomplete_events_are_counted_and_their_users_kept(opened, tmp_path):
    rows = [
        ("u", "s3://elsewhere/1.jpg", "view", START),
        ("v", IMAGES[0], "view", START),
        ("", IMAGES[0], "view", START),
        ("v", "", "view", START),
    ]
    with reading(opened, write_events(tmp_path / "e.csv", rows)) as events:
        assert (events.events, events.users, events.unknown, events.incomplete) == (4, 2, 1, 2)
        assert tastes_of(events) == {"u": {}, "v": {opened.slot(IMAGES[0]): 1}}


def test_weights_by_name_and_by_column(opened, tmp_path):
    rows = [("u", IMAGES[0], "VIEW", START), ("u", IMAGES[1], "Zoom In", START)]
    found = tastes(opened, write_events(tmp_path / "e.csv", rows), weights={"view": 0, "zoom-in": 7})
    assert found["u"] == {opened.slot(IMAGES[0]): 0, opened.slot(IMAGES[1]): 7}
    columns = ("user_id", "image_id", "event", "timestamp", "weight")
    rows = [("u", IMAGES[0], "x", START, "-2.5"), ("u", IMAGES[1], "view", START, "")]
    found = tastes(opened, write_events(tmp_path / "e.csv", rows, columns))
    assert found["u"] == {opened.slot(IMAGES[0]): -2.5, opened.slot(IMAGES[1]): WEIGHTS["view"]}


def test_popularity_counts_a_user_once_and_forgets(opened, tmp_path):
    rows = [("bot", IMAGES[0], "purchase", START + 60 * DAY)] * 50
    rows += [(user, IMAGES[1], "purchase", START + 60 * DAY) for user in "abc"]
    rows += [(user, IMAGES[2], "purchase", START) for user in "defghijk"]
    rows += [(user, IMAGES[3], "dislike", START) for user in "lmnop"]
    with reading(opened, write_events(tmp_path / "e.csv", rows)) as events:
        slots, scores = events.popularity()
    assert opened.ids.image_ids(slots) == [IMAGES[1], IMAGES[2], IMAGES[0]]
    np.testing.assert_allclose(scores, [1, 8 / 4 / 3, 1 / 3], atol=1e-6)


def test_a_product_is_the_first_of_its_images_that_is_there(opened, tmp_path):
    products = write_events(
        tmp_path / "p.csv",
        [("shoe", "s3://gone.jpg"), ("shoe", IMAGES[5]), ("shoe", IMAGES[4]), ("hat", IMAGES[6])],
        ("product_id", "image_id"),
    )
    rows = [
        ("u", "", "shoe", "view", START),
        ("v", IMAGES[4], "", "view", START),
        ("w", "", "unknown", "view", START),
        ("w", IMAGES[9], "shoe", "view", START),
    ]
    path = write_events(tmp_path / "e.csv", rows, ("user_id", "image_id", "product_id", "event", "timestamp"))
    with reading(opened, path, products=products) as events:
        five = opened.slot(IMAGES[5])
        assert tastes_of(events) == {"u": {five: 1}, "v": {five: 1}, "w": {opened.slot(IMAGES[9]): 1}}
        assert events.unknown == 1
        assert events.recommendable.tolist() == sorted([five, opened.slot(IMAGES[6])])


BAD = {
    "": "is empty: its first line must name its columns",
    "user_id,image_id,timestamp\n": "has no column event: it needs user_id, image_id or product_id,",
    "user_id,event,timestamp\n": "has neither a column image_id nor product_id",
    "user_id,user_id,image_id,event,timestamp\n": "has two columns named user_id: rename one of them",
    "User_id,user_id,image_id,event,timestamp\n": "has two columns named user_id",
    f"{HEADER}u,a,view,gestern\n": "line 2 of the events file",
    f'{HEADER}u,"a\nb",view,1\n\nu,a,view,\n': "line 5 of the events file",
    f"{HEADER}u,a,view,inf\n": "has the timestamp 'inf': write ISO 8601",
    f"{HEADER}u,a,view,1e300\n": "has the timestamp '1e300'",
    f"{HEADER}u,a,looked,1\n": "line 2 of the events file",
    f"{HEADER}u,a,Looked,1\nu,a,view,x\n": "has the event 'Looked', which has no weight; known are view,",
    f"{HEADER}u,a,,1\n": "has the event ''",
    f"{HEADER}u,a,view\n": "has 3 fields, and the header 4: quote fields that hold the separator",
    f"{HEADER}u,a,view,1\nu,a,view,1,2\n": "line 3 of the events file",
    "user_id,product_id,event,timestamp\nu,a,view,1\n": "line 2 of the events file",
    "user_id,product_id,event,timestamp\n,a,view,1\n": "names a product and no image: give the images",
    "user_id,image_id,event,timestamp,weight\nu,a,view,1,heavy\n": "has the weight 'heavy': write a number",
    "user_id,image_id,event,timestamp,weight\nu,a,view,1,nan\n": "has the weight 'nan'",
    "user_id,image_id,event,timestamp,weight\nu,a,view,1,1e7\n": "has the weight '1e7'",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_csv(opened, tmp_path, text):
    path = tmp_path / "e.csv"
    path.write_text(text, encoding="utf-8")
    message = refusal(opened, path)
    assert BAD[text] in message
    assert "\n" not in message
    assert str(path) in message


@pytest.mark.parametrize(
    "data", [b"PAR1 and no more", b"\x1f\x8b no gzip", gzip.compress(HEADER.encode() * 2)[:-9]]
)
def test_damaged_files(opened, tmp_path, data):
    path = tmp_path / "e.csv"
    path.write_bytes(data)
    assert "is neither CSV in UTF-8 nor Parquet, or is damaged" in refusal(opened, path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("data", "line"),
    [
        (HEADER.encode() + b"u,\xff,view,1\n", 2),
        (HEADER.encode() + f"u,{IMAGES[0]},view,1\n".encode() * 9000 + b"M\xfcller,a,view,1\n", 9002),
        (HEADER.encode() + b"u,a,view,1\nu,a,view,1\xc3", 3),
        (b"\xff\xfeu\x00", 1),
    ],
)
def test_what_is_not_utf8_names_its_line(opened, tmp_path, data, line, packed):
    path = tmp_path / "e.csv"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert (
        refusal(opened, path) == f"line {line} of the events file {path} is not UTF-8: save the file as UTF-8"
    )


def test_a_long_cell_and_one_of_another_encoding_before_a_bad_row(opened, tmp_path):
    path = tmp_path / "e.csv"
    long, odd = b"x" * 200_000, b"caf\xe9"
    path.write_bytes(
        b"user_id,image_id,event,timestamp,note\nu,a,view,1," + long + b"\n"
        b"u,a,view,1,\n" * 2000 + b"u,a,view,1," + odd + b"\nu,a,view,gestern,\n"
    )
    before = csv.field_size_limit()
    assert "has the timestamp 'gestern'" in refusal(opened, path)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_a_header_alone(opened, tmp_path, ending):
    path = tmp_path / "e.csv"
    path.write_text(HEADER.strip() + ending, encoding="utf-8", newline="")
    with reading(opened, path) as events:
        assert (events.events, events.users) == (0, 0)


@pytest.mark.parametrize(
    "time",
    [
        "290000-01-01",
        "-99999-01-01",
        "5000-01-01 (BC)",
        "1899-12-31",
        "2200-01-01",
        "99999999999",
        "infinity",
    ],
)
def test_years_that_are_a_slip(opened, tmp_path, time):
    rows = [("u", IMAGES[0], "view", START), ("u", IMAGES[0], "view", time)]
    path = write_events(tmp_path / "e.csv", rows)
    message = refusal(opened, path)
    assert message.startswith(f"line 3 of the events file {path} has the timestamp {time!r}: write ISO 8601")
    assert message.endswith("of the years 1900 to 2199")


def test_a_timestamp_of_parquet_that_is_a_slip(opened, tmp_path):
    table = pa.table(
        {
            "user_id": ["u"],
            "image_id": ["a"],
            "event": ["view"],
            "timestamp": pa.array([2**62], pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "e.parquet")
    assert f"has the timestamp '{2**62} microseconds since 1970'" in refusal(opened, tmp_path / "e.parquet")


def test_whatever_duckdb_raises_is_a_sentence(opened, tmp_path):
    with reading(opened, write_events(tmp_path / "e.csv", [])) as events:
        with (
            pytest.raises(UsageError, match=r"e\.csv cannot be counted: .*look for values"),
            events.explained(),
        ):
            events.database.execute("SELECT 9223372036854775807 + range FROM range(2)").fetchall()
        with pytest.raises(RunError, match="there is no room to work in"), events.explained():
            raise duckdb.OutOfMemoryException("full")


def test_no_file(opened, tmp_path):
    assert "cannot be opened (No such file" in refusal(opened, tmp_path / "none.csv")
    assert "give the path of a CSV or Parquet file" in refusal(opened, tmp_path)
    # A pattern is a name like any other.
    write_events(tmp_path / "e1.csv", [("u", IMAGES[0], "view", START)])
    assert "cannot be opened" in refusal(opened, tmp_path / "e*.csv")


def test_bad_products(opened, tmp_path):
    path = write_events(tmp_path / "e.csv", [])
    products = write_events(tmp_path / "p.csv", [], ("product_id", "picture"))
    message = refusal(opened, path, products=products)
    assert message == f"the products file {products} has no column image_id: it needs product_id and image_id"


def test_bad_parquet(opened, tmp_path):
    path = write_events(tmp_path / "e.parquet", [("u", IMAGES[0], "view", "x")])
    assert refusal(opened, path).startswith(f"row 1 of the events file {path} has the timestamp 'x'")
    table = pa.table({"user_id": [1.0], "image_id": ["a"], "event": ["view"], "timestamp": [1]})
    pq.write_table(table, path)
    assert "has numbers of type double as user_id: write the ids as text" in refusal(opened, path)


@pytest.mark.parametrize(
    "options",
    [
        {"half_life_days": 0},
        {"half_life_days": float("nan")},
        {"weights": {"view": float("inf")}},
        {"weights": {1: 1}},
    ],
)
def test_bad_options(options):
    with pytest.raises(UsageError, match="must be"):
        EventOptions(**options)


def test_text_from_the_file_is_only_text(opened, tmp_path):
    rows = [("'; DROP TABLE users; --", "x') OR 1=1 --", "view", START), ('"', IMAGES[0], "view", START)]
    found = tastes(opened, write_events(tmp_path / "e'; --.csv", rows))
    assert found == {"'; DROP TABLE users; --": {}, '"': {opened.slot(IMAGES[0]): 1}}
