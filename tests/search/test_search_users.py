"""Recommendations for all users: promises for any events, and lists that plain Python gives, too."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from events_kit import DAY, DIM, IMAGES, START, ids, make_index, reading, tastes_of, vectors_of, write_events
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.errors import QueryError, UsageError
from tagger.search import choosing
from tagger.search.choosing import UserOptions
from tagger.search.events import EventOptions, Tastes
from tagger.search.interests import split_interests
from tagger.search.recommending import profile
from tagger.search.together import Together
from tagger.search.users import SCHEMA, recommend_users
from tagger.settings import load_settings

AXES = np.eye(DIM)
PLAIN = UserOptions(diversity=0.0, fold=False)

ATTEMPTS = settings(max_examples=10, deadline=None)

events_of_users = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cem", "dee"]),
        st.sampled_from([*IMAGES[:12], "s3://elsewhere.jpg"]),
        st.sampled_from(["view", "like", "purchase", "dislike"]),
        st.integers(START, START + 90 * DAY),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("users") / "collection")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def lists_of(opened, place, rows, *, k=5, **options):
    """{user_id: rows of the output}, and what was said about it."""
    path = write_events(place / "e.parquet", rows)
    done = recommend_users(opened, path, place / "out.parquet", k=k, **options)
    table = pq.read_table(place / "out.parquet")
    assert table.schema.equals(SCHEMA)
    found = defaultdict(list)
    for row in table.to_pylist():
        found[row["user_id"]].append(row)
    assert list(found) == sorted(found)
    return found, done


@given(
    events_of_users,
    st.sampled_from([1, 5, 40]),
    st.sampled_from([{}, {"tags_any": ["lynx"]}, {"tags_none": ["lynx"]}]),
    st.sampled_from([UserOptions(), PLAIN, UserOptions(blend=0.0), UserOptions(blend=1.0, candidates=3)]),
)
@ATTEMPTS
def test_promises(opened, place, rows, k, asked, options):  # noqa: PLR0917 - hypothesis names them
    found, done = lists_of(opened, place, rows, k=k, filter=asked, options=options)
    lynxes = set(IMAGES[::3])
    may = {"tags_any": lynxes, "tags_none": set(IMAGES) - lynxes}[next(iter(asked))] if asked else set(IMAGES)
    assert done.events == len(rows)
    assert done.unknown == sum(row[1] not in IMAGES for row in rows)
    assert done.users == len({row[0] for row in rows})
    cold = 0
    for user in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == user and row[1] in IMAGES]
        disliked = {row[1] for row in mine if row[2] == "dislike"}
        liked = {row[1] for row in mine} - disliked
        images = [row["image_id"] for row in found[user]]
        assert len(set(images)) == len(images) == min(k, len(may - liked - disliked))
        assert set(images) <= may - liked - disliked
        assert [row["rank"] for row in found[user]] == list(range(1, len(images) + 1))
        assert all(0 <= row["score"] <= 1 for row in found[user])
        reasons = {row["because"] for row in found[user]}
        assert reasons <= liked if liked else reasons <= {None}
        cold += not liked
    assert (done.cold, done.rows) == (cold, sum(map(len, found.values())))


def likeness(candidates, liked, disliked, weights):
    """Of each candidate to the interest that it is most like."""
    order = np.lexsort((np.arange(len(liked)), -weights))
    liked, weights = liked[order], weights[order]
    group = split_interests(liked, weights, 3)
    shares = [weights[group == one].sum() for one in range(group.max() + 1)]
    found = []
    for one, share in enumerate(shares):
        cosine = candidates @ profile(liked[group == one], disliked, weights[group == one])[0]
        scaled = (cosine - cosine.min()) / (cosine.max() - cosine.min())
        found.append(scaled * (share / max(shares)) ** 0.5)
    return np.max(found, axis=0)


@given(events_of_users, st.sampled_from([0.0, 0.6, 1.0]))
@ATTEMPTS
def test_lists_without_diversity_and_folding(opened, place, rows, blend):
    found, _ = lists_of(opened, place, rows, k=30, options=replace(PLAIN, blend=blend))
    vectors = vectors_of(opened)
    with reading(opened, place / "e.parquet") as events:
        tastes, popular = tastes_of(events), events.popularity()
        together = Together.of(events.database, opened.manifest.slots)
    order = np.sort(opened.ids.slots).tolist()
    for user, seen in tastes.items():
        liked = [slot for slot, weight in seen.items() if weight > 0]
        fresh = [slot for slot in order if slot not in seen]
        if liked:
            weights = np.array([seen[slot] for slot in liked], np.float32)
            disliked = [slot for slot, weight in seen.items() if weight < 0]
            looks = likeness(vectors[fresh], vectors[liked], vectors[disliked], weights)
            strength = weights @ together.between(np.array(liked), np.array(fresh))
            share = blend if strength.any() else 0.0
            scores = (1 - share) * looks + share * strength / max(strength.max(), 1e-12)
        else:
            known = dict(zip(popular[0].tolist(), popular[1].tolist(), strict=True))
            scores = np.array([known.get(slot, 0.0) for slot in fresh])
        got = [row["score"] for row in found[user]]
        np.testing.assert_allclose(got, sorted(scores, reverse=True), atol=2e-5)
        of_image = dict(zip(opened.ids.image_ids(np.array(fresh)), scores, strict=True))
        np.testing.assert_allclose(got, [of_image[row["image_id"]] for row in found[user]], atol=2e-5)


def test_the_same_file_gives_the_same_bytes_whatever_its_order(opened, tmp_path):
    rng = np.random.default_rng(3)
    names = ["view", "like", "purchase", "dislike"]
    rows = [
        (
            f"{rng.integers(40):03d}",
            IMAGES[rng.integers(25)],
            names[rng.integers(4)],
            START + int(rng.integers(90 * DAY)),
        )
        for _ in range(600)
    ]
    for ending in (".csv", ".parquet"):
        written = []
        for number in range(3):
            path = write_events(tmp_path / "e.csv", rows if number < 2 else rows[::-1])
            recommend_users(opened, path, tmp_path / f"out{ending}")
            written.append((tmp_path / f"out{ending}").read_bytes())
        assert written[0] == written[1] == written[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.csv", "out.csv", "out.parquet"]


def test_what_is_disliked_pushes_away(opened, place):
    vectors = vectors_of(opened)
    liked, disliked = IMAGES[0], IMAGES[1]
    rows = [("ann", liked, "like", START), ("bob", liked, "like", START), ("bob", disliked, "dislike", START)]
    found, _ = lists_of(opened, place, rows, k=28, options=replace(PLAIN, blend=0.0))

    def likeness(user):
        slots = [opened.slot(row["image_id"]) for row in found[user][:5]]
        return float((vectors[slots] @ vectors[opened.slot(disliked)]).mean())

    assert likeness("bob") < likeness("ann")


def test_because_names_the_reason_of_either_kind(opened, place):
    vectors = vectors_of(opened)
    # Everybody who likes 0 likes 9, too; ann also likes 1, which looks more like 9 than 0 does or not.
    rows = [(f"u{number}", IMAGES[image], "like", START) for number in range(9) for image in (0, 9)]
    rows += [("ann", IMAGES[0], "like", START), ("ann", IMAGES[1], "like", START)]
    behaviour, _ = lists_of(opened, place, rows, options=replace(PLAIN, blend=1.0))
    assert (behaviour["ann"][0]["image_id"], behaviour["ann"][0]["because"]) == (IMAGES[9], IMAGES[0])
    looks, _ = lists_of(opened, place, rows, options=replace(PLAIN, blend=0.0))
    for row in looks["ann"]:
        liked = [opened.slot(IMAGES[0]), opened.slot(IMAGES[1])]
        nearest = liked[int(np.argmax(vectors[liked] @ vectors[opened.slot(row["image_id"])]))]
        assert opened.slot(row["because"]) == nearest


def test_one_picture_is_recommended_once_and_not_if_it_is_liked(tmp_path):
    same = [(IMAGES[0], IMAGES[1]), (IMAGES[2], IMAGES[3]), (IMAGES[2], IMAGES[4])]
    opened = make_index(tmp_path / "collection", same=same)
    rows = [("ann", IMAGES[0], "like", START), ("cold", "s3://elsewhere.jpg", "like", START)]
    found, _ = lists_of(opened, tmp_path, rows, k=30)
    images = [row["image_id"] for row in found["ann"]]
    assert IMAGES[1] not in images
    assert len(set(images) & set(IMAGES[2:5])) == 1
    assert len(images) == 30 - 2 - 2
    assert len(set(IMAGES[2:5]) & {row["image_id"] for row in found["cold"]}) == 1
    plain, _ = lists_of(opened, tmp_path, rows, k=30, options=replace(UserOptions(), fold=False))
    assert len(plain["ann"]) == 29


@pytest.mark.parametrize("event", ["dislike", "purchase", "view"])
@pytest.mark.parametrize("warm", [True, False])
def test_no_copy_of_what_somebody_knows(tmp_path, event, warm):
    opened = make_index(tmp_path / "collection", same=[(IMAGES[1], IMAGES[2])])
    rows = [("ann", IMAGES[1], event, START)]
    rows += [("ann", IMAGES[0], "like", START + 1)] if warm else []
    rows += [("bob", IMAGES[2], "like", START)]  # it is popular
    options = UserOptions(events=EventOptions(weights={"view": 0}))
    found, _ = lists_of(opened, tmp_path, rows, k=30, options=options)
    assert IMAGES[2] not in {row["image_id"] for row in found["ann"]}
    assert len(found["ann"]) == 30 - 2 - warm


def test_a_copy_of_the_second_of_two_liked_copies(tmp_path):
    # 10 degrees apart is one picture, 20 are two: the third shows the second, and not the first.
    turned = [
        np.cos(np.radians(angle)) * AXES[0] + np.sin(np.radians(angle)) * AXES[1] for angle in (0, 10, 20)
    ]
    opened = make_index(tmp_path / "collection", embeddings=zip(IMAGES, turned, strict=False))
    rows = [("ann", image, "like", START) for image in IMAGES[:2]]
    found, _ = lists_of(opened, tmp_path, rows, k=30)
    assert len(found["ann"]) == 27
    assert IMAGES[2] not in {row["image_id"] for row in found["ann"]}


def test_only_as_many_seen_images_as_are_bounded_are_compared(opened):
    rows = [("ann", image, "view", START + number) for number, image in enumerate(IMAGES[:9])]
    slots = np.sort([opened.slot(image) for image in IMAGES[:9]])
    newest = np.array([START + IMAGES.index(one) for one in opened.ids.image_ids(slots)])
    tastes = Tastes(["ann"], np.zeros(9, np.int64), slots, np.zeros(9, np.float32), newest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_MOST_KNOWN", 3)
        (person,) = choosing._people(tastes)
    assert set(opened.ids.image_ids(person.known)) == {row[1] for row in rows[-3:]}


@pytest.mark.parametrize("copies", [3, 120, 160])
def test_whoever_likes_a_placeholder_gets_what_is_none(tmp_path, copies):
    many = ids(0, 170)
    opened = make_index(tmp_path / "collection", many, same=[(many[0], one) for one in many[1:copies]])
    rows = [("ann", many[0], "like", START), ("cold", many[0], "dislike", START)]
    for options in (UserOptions(), UserOptions(candidates=1)):
        found, _ = lists_of(opened, tmp_path, rows, k=10, options=options)
        for user in ("ann", "cold"):
            assert len({row["image_id"] for row in found[user]} - set(many[:copies])) == 10


def test_looking_deep_takes_memory_for_one_block_and_few_users(opened, place, monkeypatch):
    rows = [(user, image, "view", START) for user in "abcde" for image in IMAGES[:20]]
    options = UserOptions(candidates=1)
    before, _ = lists_of(opened, place, rows, k=10, options=options)
    served, compared = [], []
    serve, unfolded = choosing.Chooser._serve, choosing.Chooser._unfolded

    def watched_serve(self, people, depth):
        served.append(len(people) * depth)
        return serve(self, people, depth)

    def watched_unfolded(self, slots, *others):
        compared.append(len(slots))
        return unfolded(self, slots, *others)

    monkeypatch.setattr(choosing.Chooser, "_serve", watched_serve)
    monkeypatch.setattr(choosing.Chooser, "_unfolded", watched_unfolded)
    monkeypatch.setattr(choosing, "_AT_ONCE", 60)
    monkeypatch.setattr(choosing, "_MOST_FOLDED", 4)
    assert lists_of(opened, place, rows, k=10, options=options)[0] == before
    assert len(served) > 1
    assert max(served) <= 60
    assert max(compared) <= 4


def test_opposite_likes_leave_the_greatest(tmp_path):
    opened = make_index(tmp_path / "collection", embeddings=[(IMAGES[0], AXES[0]), (IMAGES[1], -AXES[0])])
    rows = [(user, image, "like", START) for user in ("ann", "bob") for image in IMAGES[:2]]
    rows += [("cem", IMAGES[0], "like", START)]
    found, _ = lists_of(opened, tmp_path, rows, options=replace(PLAIN, blend=0.0))
    assert {user: len(some) for user, some in found.items()} == {"ann": 5, "bob": 5, "cem": 5}
    greatest = IMAGES[min((0, 1), key=lambda one: opened.slot(IMAGES[one]))]
    nearest, _ = lists_of(
        opened, tmp_path, [("dee", greatest, "like", START)], options=replace(PLAIN, blend=0.0)
    )
    images = [row["image_id"] for row in nearest["dee"] if row["image_id"] not in IMAGES[:2]]
    assert [row["image_id"] for row in found["ann"]][: len(images)] == images


def test_diversity_spreads_a_list(opened, place):
    vectors = vectors_of(opened)
    rows = [("ann", IMAGES[0], "like", START)]

    def likeness(diversity):
        found, _ = lists_of(opened, place, rows, options=UserOptions(diversity=diversity))
        shown = vectors[[opened.slot(row["image_id"]) for row in found["ann"]]]
        return float((shown @ shown.T).mean())

    assert likeness(0.6) < likeness(0.0)


def test_whoever_has_seen_all_that_is_near_still_gets_k(opened, place, monkeypatch):
    rows = [("ann", image, "view", START) for image in IMAGES[:20]]
    found, _ = lists_of(opened, place, rows, k=5, options=UserOptions(candidates=1))
    assert len(found["ann"]) == 5
    monkeypatch.setattr(choosing, "_KEPT_BYTES", 0)  # vectors that are read when they are needed
    assert lists_of(opened, place, rows, k=5, options=UserOptions(candidates=1))[0] == found


def test_users_without_a_liked_image_get_what_is_popular(opened, place):
    rows = [(f"u{number}", IMAGES[7], "view", START) for number in range(3)]
    rows += [(f"u{number}", IMAGES[8], "view", START) for number in range(2)]
    rows += [("cold", "s3://elsewhere.jpg", "like", START), ("sad", IMAGES[7], "dislike", START)]
    found, done = lists_of(opened, place, rows, k=3)
    shown = {user: [(row["image_id"], row["because"]) for row in found[user]] for user in ("cold", "sad")}
    assert shown["cold"][:2] == [(IMAGES[7], None), (IMAGES[8], None)]
    assert shown["sad"][0] == (IMAGES[8], None)
    assert len(shown["cold"]) == len(shown["sad"]) == 3
    assert [row["score"] for row in found["cold"]] == pytest.approx([1, 2 / 3, 0], abs=1e-6)
    assert done.cold == 2


def test_with_products_only_the_first_image_of_each_is_recommended(opened, tmp_path):
    images = {"a": IMAGES[0:2], "b": IMAGES[2:5], "c": IMAGES[5:6], "d": IMAGES[6:9]}
    products = write_events(
        tmp_path / "p.parquet",
        [(name, image) for name, some in images.items() for image in some],
        ("product_id", "image_id"),
    )
    columns = ("user_id", "product_id", "event", "timestamp")
    path = write_events(tmp_path / "e.csv", [("ann", "a", "purchase", START)], columns)
    recommend_users(opened, path, tmp_path / "out.parquet", products=products)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row["image_id"] for row in found} == {IMAGES[2], IMAGES[5], IMAGES[6]}
    assert {row["because"] for row in found} == {IMAGES[0]}


def test_csv_cells_are_no_formulas_and_other_ids_are_as_they_are(tmp_path):
    odd = ["=1+1.jpg", "a,b\n.jpg", "00012", "-5", '"x"', "'q"]
    opened = make_index(tmp_path / "collection", odd)
    rows = [("+49", "=1+1.jpg", "like", START), ("007", "a,b\n.jpg", "like", START)]
    path = write_events(tmp_path / "e.csv", rows)
    recommend_users(opened, path, tmp_path / "out.csv", options=PLAIN)
    recommend_users(opened, path, tmp_path / "out.parquet", options=PLAIN)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.reader(file))
    exact = [
        [str(row[name]) for name in SCHEMA.names]
        for row in pq.read_table(tmp_path / "out.parquet").to_pylist()
    ]
    assert cells[0] == SCHEMA.names
    for row, right in zip(cells[1:], exact, strict=True):
        for name, cell, value in zip(SCHEMA.names, row, right, strict=True):
            if name == "score":
                assert float(cell) == pytest.approx(float(value), abs=1e-6)
            else:
                assert cell == (f"'{value}" if value[0] in "=+-@\t\r" else value)


def test_csv_can_be_read_back_whatever_the_ids(tmp_path):
    odd = ["a\rb.jpg", "\r.jpg", "c\r\nd.jpg", "e\nf.jpg", "plain.jpg"]
    opened = make_index(tmp_path / "collection", odd)
    path = write_events(tmp_path / "e.parquet", [("x\ry", "plain.jpg", "like", START)])
    recommend_users(opened, path, tmp_path / "out.csv", options=PLAIN)
    table = pv.read_csv(
        tmp_path / "out.csv",
        parse_options=pv.ParseOptions(newlines_in_values=True),
        convert_options=pv.ConvertOptions(column_types={"image_id": pa.string()}),
    )
    assert set(table.column("image_id").to_pylist()) == {"a\rb.jpg", "'\r.jpg", "c\r\nd.jpg", "e\nf.jpg"}
    assert set(table.column("user_id").to_pylist()) == {"x\ry"}
    assert b"plain.jpg\n" in (tmp_path / "out.csv").read_bytes()


def test_an_image_without_any_feature_is_like_none(tmp_path):
    opened = make_index(tmp_path / "collection", blank=IMAGES[0])
    rows = [
        ("ann", IMAGES[0], "like", START),
        ("bob", IMAGES[0], "like", START),
        ("bob", IMAGES[1], "like", START),
    ]
    found, _ = lists_of(opened, tmp_path, rows)
    assert [len(found[user]) for user in ("ann", "bob")] == [5, 5]


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_interests_are_numbered_without_a_gap(n, most, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    group = split_interests(vectors, rng.random(n).astype(np.float32) + 0.1, most)
    assert sorted(set(group.tolist())) == list(range(group.max() + 1))
    assert group.max() < max(1, min(most, n // 3))


def test_interests_are_what_looks_alike():
    rng = np.random.default_rng(1)
    vectors = (np.eye(8)[np.arange(12) % 3] + 0.1 * rng.normal(size=(12, 8))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    group = split_interests(vectors, np.ones(12, np.float32), 3)
    assert len(set(zip(group.tolist(), (np.arange(12) % 3).tolist(), strict=True))) == 3
    assert set(split_interests(vectors, np.ones(12, np.float32), 1).tolist()) == {0}


@pytest.mark.parametrize("k", [0, 1001, True, "3"])
def test_bad_k(opened, tmp_path, k):
    with pytest.raises(UsageError, match="k must be a whole number from 1 to 1,000"):
        recommend_users(opened, tmp_path / "e.csv", tmp_path / "out.csv", k=k)


def test_bad_places_and_options_write_nothing_and_keep_the_old_file(
    opened, tmp_path, tmp_path_factory, monkeypatch
):
    # A cache of its own: in that of the session other tests are reading events at the same time.
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path_factory.mktemp("cache")))
    good = write_events(tmp_path / "good.csv", [("ann", IMAGES[0], "view", START)])
    bad = write_events(tmp_path / "bad.csv", [("ann", IMAGES[0], "what", START)])
    out = tmp_path / "out.csv"
    out.write_text("old")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UsageError, match="which has no weight"):
        recommend_users(opened, bad, out)
    with pytest.raises(UsageError, match=r"must end in \.parquet or \.csv"):
        recommend_users(opened, good, tmp_path / "out.xlsx")
    with pytest.raises(UsageError, match="nothing can be written to"):
        recommend_users(opened, good, tmp_path / "nowhere" / "out.csv")
    with pytest.raises(QueryError, match="no tag or category 'dog'"):
        recommend_users(opened, good, out, filter={"tags_any": ["dog"]})
    with pytest.raises(UsageError, match="blend must be in"):
        UserOptions(blend=1.5)
    with pytest.raises(UsageError, match="candidates must be at least 1"):
        UserOptions(candidates=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert out.read_text() == "old"
    assert not [path for path in (load_settings().cache_dir / "spill").iterdir() if "events" in path.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interests": "3"}, "interests must be a whole number, got '3'"),
        ({"candidates": 1.5}, "candidates must be a whole number, got 1.5"),
        ({"candidates": True}, "candidates must be a whole number, got True"),
        ({"diversity": True}, r"diversity must be in \[0, 1\], got True"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        UserOptions(**options)


def test_paths_that_no_file_has(opened, tmp_path):
    good = write_events(tmp_path / "good.csv", [("ann", IMAGES[0], "view", START)])
    with pytest.raises(UsageError, match="cannot be written: File name too long; name another file"):
        recommend_users(opened, good, tmp_path / f"{'x' * 252}.csv")
    recommend_users(opened, good, tmp_path / f"{'x' * 251}.csv")  # 255 bytes
    for bad in ("a\0b.csv", "a\ud800b.csv"):
        with pytest.raises(UsageError, match=r"out is .* which no file can be named"):
            recommend_users(opened, good, tmp_path / bad)
        with pytest.raises(UsageError, match=r"events is .* which no file can be named"):
            recommend_users(opened, tmp_path / bad, tmp_path / "out.csv")
        with pytest.raises(UsageError, match=r"products is .* which no file can be named"):
            recommend_users(opened, good, tmp_path / "out.csv", products=tmp_path / bad)
    assert not (tmp_path / "out.csv").exists()


def test_the_output_is_no_input(opened, tmp_path):
    good = write_events(tmp_path / "good.csv", [("ann", IMAGES[0], "view", START)])
    products = write_events(tmp_path / "p.csv", [("shoe", IMAGES[0])], ("product_id", "image_id"))
    (tmp_path / "link.csv").symlink_to(good)
    before = good.read_bytes(), products.read_bytes()
    for out, what in (("good.csv", "events"), ("link.csv", "events"), ("p.csv", "products")):
        with pytest.raises(UsageError, match=f"is the {what} file, which it would replace: name another"):
            recommend_users(opened, good, tmp_path / out, products=products)
    assert (good.read_bytes(), products.read_bytes()) == before


def test_no_events_make_an_empty_file(opened, tmp_path):
    path = write_events(tmp_path / "e.csv", [])
    done = recommend_users(opened, path, tmp_path / "out.parquet")
    assert (done.users, done.rows) == (0, 0)
    assert pq.read_table(tmp_path / "out.parquet").schema.equals(SCHEMA)


def test_a_filter_that_admits_nothing_leaves_users_without_rows(opened, place):
    rows = [("ann", IMAGES[0], "view", START), ("cold", "s3://elsewhere.jpg", "view", START)]
    found, done = lists_of(opened, place, rows, filter={"tags_all": ["lynx", "tabby"]})
    assert (dict(found), done.users, done.rows) == ({}, 2, 0)
