"""Recommendations for all users, on events SIMULATED from the tag tree: `python -m bench.recommend`.

No real customer is in these numbers. They say whether the parts fit together, not how much a shop would earn.

The images are look-alikes of real embeddings (see `bench.lookalike`); their tags come from the CNN's real
last layer, and the categories above them from the default taxonomy. For each seed:

- Every image has a popularity that has nothing to do with what it shows (Zipf, exponent 0.8, in random
  order). A tenth of the images is new: nothing happens to them in the first four fifths of the time.
- An interest is a tag or category that 0.5 to 20 % of the images have. Interests have a popularity, too
  (Zipf, exponent 0.6). A user has 1 to 3 of them, and in each a style, which is that of one of its images,
  drawn by popularity. Two images are alike in style as far as 64 random mixtures of their embeddings are,
  after as much noise was added to them, once for each image: the recommender sees the embeddings and none
  of the noise, so that it can know about style, but not all.
- Every interest has another one as its companion, drawn at random, as garden chairs go with sun cream:
  looks say nothing about it. Every image belongs to a set of 5 drawn at random from all images (a room, an
  outfit).
- A user does 8 to 40 things in 90 days. Each is of one kind: 45 % an image of an interest, the best by
  style of 5 drawn by popularity; 15 % one of the companion's images, by popularity; 15 % another image of
  the set of something done before; 25 % noise: any image, by popularity alone. Noise is only viewed; the
  others are views, clicks, likes, carts and purchases. A twentieth of the noise is disliked.

The last 3 images that a user had not touched before, apart from noise, are held out, and all events from
the first of them on; users with fewer than 5 events left do not count. Every method then names 10 images
that the user has not touched. Hit rate: users for whom one of the 10 is held out. nDCG: with a gain of 1
for each of these, of the best possible. Numbers are medians over the seeds.

"One interest" is the single average of all that a user likes, beside at most three groups of it (see
`tagger.search.interests`). That the simulated users have up to three interests is in favour of the groups.
The defaults of the product were chosen on worlds made by this same recipe, with other seeds: they suit such
worlds, and the margins of the blended rows flatter it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.lookalike import make, real_embeddings, write_collection
from bench.report import markdown_table, replace_block
from tagger.index import Index, index
from tagger.search.choosing import UserOptions
from tagger.search.users import recommend_users

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bench.lookalike import Real

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Lists = dict[str, list[str]]

DOCS: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- recommend: begin, written by `python -m bench.recommend --write-docs` -->"
END: Final = "<!-- recommend: end -->"

K: Final = 10
FIRST_SEED: Final = 100  # defaults were chosen with 0 to 4
HELD_OUT: Final = 3
LEAST_EVENTS: Final = 5
DAYS: Final = 90
NEW_FROM: Final = 0.8  # of the time
KINDS: Final = {"interest": 0.45, "companion": 0.15, "set": 0.15, "noise": 0.25}
_EVENTS: Final = (["view", "click", "like", "add_to_cart", "purchase"], [0.55, 0.2, 0.12, 0.08, 0.05])
_START: Final = 1_767_225_600  # 2026-01-01

METHODS: Final[dict[str, UserOptions]] = {
    "visual only": UserOptions(blend=0.0, diversity=0.0),
    "behaviour only": UserOptions(blend=1.0, diversity=0.0),
    "visual only, one interest": UserOptions(blend=0.0, diversity=0.0, interests=1),
    "blended, without diversity": UserOptions(diversity=0.0),
    "blended, without diversity, one interest": UserOptions(diversity=0.0, interests=1),
    "blended, as `tagger recommend` does it": UserOptions(),
}


@dataclass(frozen=True)
class World:
    """Simulated events.

    Attributes:
        events: What the recommender sees: user_id, image_id, event, timestamp.
        wanted: By user, the images held out.
        seen: By user, those that the recommender knows of.
    """

    events: pa.Table
    wanted: dict[str, set[str]]
    seen: dict[str, set[str]]


def simulate(images: Index, users: int, seed: int) -> World:
    """Simulate what `users` users do; see the text above."""
    rng = np.random.default_rng([seed, 1])
    slots = np.sort(images.ids.slots)
    names = images.ids.image_ids(slots)
    place = np.full(images.manifest.slots, -1)
    place[slots] = np.arange(len(slots))
    style = _style(images.vectors.take(slots), rng)
    popularity = _zipf(len(slots), 0.8, rng)
    is_new = rng.random(len(slots)) < 0.1
    interests = _interests(images, place, len(slots))
    liked_interest = _zipf(len(interests), 0.6, rng)
    companion = rng.permutation(len(interests))
    sets = rng.permutation(len(slots))
    set_of = np.empty(len(slots), np.int64)
    set_of[sets] = np.arange(len(slots)) // 5
    draws = [np.cumsum(popularity[members]) for members in interests]
    everything = np.cumsum(popularity)

    def draw(members: Ints | None, cumulated: Floats, n: int, when: float) -> Ints:
        found = np.searchsorted(cumulated, rng.random(4 * n) * cumulated[-1])
        found = found if members is None else members[found]
        return found[(when > NEW_FROM) | ~is_new[found]][:n]

    rows: dict[str, list[Any]] = {"user_id": [], "image_id": [], "event": [], "timestamp": []}
    wanted, seen = {}, {}
    for user in range(users):
        mine = rng.choice(len(interests), size=rng.integers(1, 4), replace=False, p=liked_interest)
        anchors = [int(draw(interests[one], draws[one], 1, 1.0)[0]) for one in mine]
        done: list[tuple[float, int, str]] = []
        for when in np.sort(rng.random(rng.integers(8, 41))):
            kind = rng.choice(list(KINDS), p=list(KINDS.values()))
            which = rng.integers(len(mine))
            if kind == "interest":
                found = draw(interests[mine[which]], draws[mine[which]], 5, when)
                found = found[np.argsort(-(style[found] @ style[anchors[which]]))]
            elif kind == "companion":
                other = companion[mine[which]]
                found = draw(interests[other], draws[other], 1, when)
            elif kind == "set" and done:
                before = done[rng.integers(len(done))][1]
                found = rng.permutation(sets[5 * set_of[before] : 5 * set_of[before] + 5])
                found = found[(found != before) & ((when > NEW_FROM) | ~is_new[found])]
            else:
                kind, found = "noise", draw(None, everything, 1, when)
            if len(found):
                done.append((float(when), int(found[0]), str(kind)))
        cut, targets = _hold_out(done)
        if len(targets) < HELD_OUT or cut < LEAST_EVENTS:
            cut, targets = len(done), set()  # what they did still shapes the signals
        user_id = f"{user:06d}"
        if targets:
            wanted[user_id] = {names[image] for image in targets}
            seen[user_id] = {names[image] for _, image, _ in done[:cut]}
        for when, image, kind in done[:cut]:
            event = str(rng.choice(_EVENTS[0], p=_EVENTS[1]))
            if kind == "noise":
                event = "dislike" if rng.random() < 0.05 else "view"
            for column, value in zip(
                rows.values(), (user_id, names[image], event, _START + int(when * DAYS * 86_400)), strict=True
            ):
                column.append(value)
    return World(pa.table(rows), wanted, seen)


def _hold_out(done: Sequence[tuple[float, int, str]]) -> tuple[int, set[int]]:
    """Return how many events stay, and the images that are held out."""
    first: dict[int, int] = {}
    for number, (_, image, _) in enumerate(done):
        first.setdefault(image, number)
    fresh = [number for image, number in first.items() if done[number][2] != "noise"]
    last = sorted(fresh)[-HELD_OUT:]
    return (last[0] if last else 0), {done[number][1] for number in last}


def _style(vectors: Floats, rng: np.random.Generator) -> Floats:
    mixed = (vectors - vectors.mean(axis=0)) @ rng.normal(size=(vectors.shape[1], 64)).astype(np.float32)
    mixed /= mixed.std(axis=0)
    mixed += rng.normal(size=mixed.shape).astype(np.float32)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def _zipf(n: int, exponent: float, rng: np.random.Generator) -> Floats:
    weights = rng.permutation(np.arange(1, n + 1) ** -exponent)
    return weights / weights.sum()


def _interests(images: Index, place: Ints, n: int) -> list[Ints]:
    words = sorted({*images.words.words("tag"), *images.words.words("category")})
    found = {}
    for word in words:
        members = place[np.array(images.vocabulary.images(word), np.int64)]
        if 0.005 * n <= len(members) <= 0.2 * n:
            found.setdefault(members.tobytes(), members)  # two words for the same images are one interest
    return list(found.values())


def popular(world: World) -> Lists:
    """Return for each user the images that most users touched, without theirs."""
    pairs = world.events.select(["user_id", "image_id"]).group_by(["user_id", "image_id"]).aggregate([])
    counts = (
        pairs.group_by("image_id")
        .aggregate([("user_id", "count")])
        .sort_by([("user_id_count", "descending"), ("image_id", "ascending")])
    )
    order = counts.column("image_id").to_pylist()
    return {user: _first(order, seen) for user, seen in world.seen.items()}


def randomly(world: World, names: Sequence[str], seed: int) -> Lists:
    """Return for each user images drawn at random, without theirs."""
    rng = np.random.default_rng([seed, 2])
    return {
        user: _first([names[n] for n in rng.integers(len(names), size=10 * K)], seen)
        for user, seen in world.seen.items()
    }


def _first(names: Sequence[str], seen: set[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if name not in seen and name not in found:
            found.append(name)
            if len(found) == K:
                break
    return found


def recommended(images: Index, events: Path, options: UserOptions) -> tuple[Lists, float]:
    """Return what the product gives, and users a second."""
    out = events.with_name("out.parquet")
    started = time.monotonic()
    done = recommend_users(images, events, out, k=K, options=options)
    seconds = time.monotonic() - started
    lists: Lists = defaultdict(list)
    table = pq.read_table(out, columns=["user_id", "image_id"])
    for user, image in zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True):
        lists[user].append(image)
    return lists, done.users / seconds


def judge(world: World, lists: Lists) -> dict[str, float]:
    """Return hit rate and nDCG at 10 over the users that count."""
    gains = 1 / np.log2(np.arange(2, K + 2))
    hits, ndcg = [], []
    for user, wanted in world.wanted.items():
        right = np.array([image in wanted for image in lists[user]] + [False] * (K - len(lists[user])))
        hits.append(right.any())
        ndcg.append(gains[right].sum() / gains[: len(wanted)].sum())
    return {"hit": float(np.mean(hits)), "ndcg": float(np.mean(ndcg)), "users": len(hits)}


def run(real: Real, *, images: int, users: int, seed: int, methods: dict[str, UserOptions]) -> dict[str, Any]:
    """Simulate one world and judge every method in it."""
    with tempfile.TemporaryDirectory(prefix="bench-recommend-") as folder:
        block = make(real, images, seed=seed)
        collection = write_collection(Path(folder) / "collection", block, seed=seed)
        index(collection)
        opened = Index.open(collection)
        world = simulate(opened, users, seed)
        events = Path(folder) / "events.parquet"
        pq.write_table(world.events, events)
        names = opened.ids.image_ids(opened.ids.slots)
        found = {
            "random": judge(world, randomly(world, names, seed)),
            "popularity": judge(world, popular(world)),
        }
        for name, options in methods.items():
            lists, rate = recommended(opened, events, options)
            found[name] = {**judge(world, lists), "users_per_s": rate}
        return {"events": len(world.events), "methods": found}


def render(results: Sequence[dict[str, Any]], sizes: str) -> str:
    """Return the table, medians over the seeds."""
    rows = []
    for name in results[0]["methods"]:
        runs = [result["methods"][name] for result in results]

        def middle(key: str, runs: list[dict[str, float]] = runs) -> float:
            return statistics.median(run[key] for run in runs)

        rate = f"{middle('users_per_s'):,.0f}" if "users_per_s" in runs[0] else ""
        spread = f"{min(run['ndcg'] for run in runs):.4f} to {max(run['ndcg'] for run in runs):.4f}"
        rows.append([name, f"{middle('hit'):.3f}", f"{middle('ndcg'):.4f}", spread, rate])
    table = markdown_table(["", "hit rate@10", "nDCG@10", "nDCG of the seeds", "users/s"], rows)
    return f"Simulated events, {sizes}.\n\n{table}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recommend", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one small world, to try the bench out")
    parser.add_argument("--images", type=int, default=5_000, help="[default: 5000]")
    parser.add_argument("--users", type=int, default=2_500, help="[default: 2500]")
    parser.add_argument("--seeds", type=int, default=5, help="[default: 5]")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/benchmarks.md")
    a = parser.parse_args()
    images, users, seeds = (2_000, 1_000, 1) if a.quick else (a.images, a.users, a.seeds)
    real = real_embeddings()
    results = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        results.append(run(real, images=images, users=users, seed=seed, methods=METHODS))
        print(f"seed {seed}: {results[-1]['events']:,} events", flush=True)
    judged = statistics.median(result["methods"]["random"]["users"] for result in results)
    sizes = f"{images:,} images, {users:,} users ({judged:,.0f} of them judged), {seeds} seeds, medians"
    text = f"Measured {dt.datetime.now(dt.UTC):%Y-%m-%d}. {render(results, sizes)}"
    print(f"\n{text}")
    if a.write_docs:
        DOCS.write_text(
            replace_block(DOCS.read_text(encoding="utf-8"), text, begin=BEGIN, end=END), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
