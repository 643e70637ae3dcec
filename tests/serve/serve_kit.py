"""A collection of real photos made in a second, and `tagger serve` as a process of its own."""

from __future__ import annotations

import csv
import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pyarrow as pa
from PIL import Image

import tagger
from tagger.catalog import EnrichOptions, FlagRules, Rules
from tagger.collection import SCHEMA, new_run_id, part_name, write_part
from tagger.engine.options import TagOptions
from tagger.engine.targets import open_targets, wishes
from tagger.index import index
from tagger.models import load
from tagger.settings import load_settings
from tagger.storage import StorageOptions
from tagger.tags import probabilities
from tagger.vision import DecodeLimits, Decoder

SAMPLES = Path(__file__).parents[2] / "tagger" / "samples"
READY_S = 60.0
TWO_THINGS = "cat_above_coffee.jpg"
HOSTILE = '"><img src=x onerror=alert(1)>.jpg'
_CLI = [sys.executable, "-P", "-c", "import sys; sys.argv[0] = 'tagger'; from tagger.cli import main; main()"]


def sample_photos(n=None):
    """Sample photos by name."""
    return {path.name: path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))[:n]}


def above(top, bottom, side=400):
    """One picture above another, as a JPEG."""
    whole = Image.new("RGB", (side, side))
    for data, y in ((top, 0), (bottom, side // 2)):
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        whole.paste(picture.resize((side, side // 2)), (0, y))
    out = io.BytesIO()
    whole.save(out, "JPEG", quality=92)
    return out.getvalue()


def put_photos(folder, photos):
    """Write files into a folder, and return their addresses by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    return {name: f"file://{folder}/{name}" for name in photos}


def tag_photos(place, addresses, photos, *, ids=None, make_index=True):
    """Make a collection, or add to it: what `tagger tag` would write, without a cluster.

    Args:
        place: Folder of the collection.
        addresses: uri by name.
        photos: Bytes by name.
        ids: image_id by name, where it is not the uri.
        make_index: Bring the index up to date, too.
    """
    options, storage, settings = TagOptions(), StorageOptions(), load_settings()
    target = open_targets(wishes(str(place), options, storage, settings), options, storage)[0]
    collection, prepared, taxonomy = target.collection, target.prepared, target.taxonomy
    names = list(photos)
    model = load(prepared, prepared.payload(), threads=settings.cpus, batch_size=1)
    with Decoder([prepared.framing], DecodeLimits()) as decoder:
        decoded = decoder.run(len(names), enumerate(photos[name] for name in names))
        outputs = model(decoded.pixels[0])
    tags, categories = taxonomy.assign(
        probabilities(outputs.logits, prepared.activation), source=prepared.name
    )
    run_id = new_run_id()
    store = collection.store
    rows = []
    for n, name in enumerate(names):
        facts = decoded.facts[n]
        stat = Path(addresses[name].removeprefix("file://")).stat() if "file://" in addresses[name] else None
        rows.append(
            {
                "image_id": (ids or addresses)[name],
                "uri": addresses[name],
                "etag": None,
                "size_bytes": stat.st_size if stat else len(photos[name]),
                "sha256": "0" * 64,
                "status": "tagged",
                "error": None,
                "error_detail": None,
                "width_px": facts.width_px,
                "height_px": facts.height_px,
                "format": facts.format,
                "tags": tags[n].as_py(),
                "categories": categories[n].as_py(),
                "colors": [dict(vars_of(color)) for color in facts.colors],
                "sharpness": facts.sharpness,
                "brightness": facts.brightness,
                "phash": facts.phash,
                "embedding": outputs.embedding[n],
                "embedding_norm": float(outputs.norm[n]),
                "model_id": prepared.model_id,
                "run_id": run_id,
                "tagged_at": int(time.time() * 1e6),
            }
        )
    part = write_part(store, pa.Table.from_pylist(rows, SCHEMA), part_name(run_id))
    with collection.writer(run_id, "tagger tag", ttl_s=3) as writer:
        writer.commit([part])
    if make_index:
        index(collection)
    return collection


SHELVES = {
    "Pets": "chelsea kitten cat_with_yarn german_shepherd spaniels",
    "Wildlife": "bison chameleon clownfish crab duck gibbon hens jaguars koala komodo_dragon lemurs macaw "
    "panda red_panda sheep",
    "Travel": "aqueduct castle mountains palace stream triumphal_arch rocket",
    "Home": "chair coffee frying_pan paintbrushes drum_and_wine flower hammer screwdriver",
}
"""Products of a small shop by category, each named like its sample photo."""


def product_rows(photos):
    """Rows of a catalog: a product a photo; a mug with two pictures, one in two rows, some with problems."""
    rows = [
        {"sku": f"P-{name}", "title": f"{name.replace('_', ' ').capitalize()} poster", "category": shelf}
        | {"image": f"{name}.jpg", "sale price": f"{10 + n},90", "note": "=1+1"}
        for shelf, names in SHELVES.items()
        for n, name in enumerate(names.split())
        if f"{name}.jpg" in photos
    ]
    base = {"category": "Home", "sale price": "7.50", "note": ""}
    mug = base | {"sku": "P-mug", "title": "Mug with a cat", "image": "chelsea.jpg|coffee.jpg"}
    two = base | {"sku": "P-two", "title": "Pair of bears", "category": "Wildlife"}
    return [
        *rows,
        mug,
        two | {"image": "panda.jpg"},
        two | {"image": "koala.jpg", "title": ""},
        base | {"sku": "P-gone", "title": "Nothing to see", "image": "nowhere.jpg"},
        base | {"sku": "=1+2", "title": HOSTILE, "image": "hammer.jpg"},
        base | {"sku": "P-wrong", "title": "Garden chair", "image": "sheep.jpg"},
    ]


def enrich_shop(collection, folder, rows, name="shop.parquet"):
    """Write a catalog, let tagger enrich it, and return where that is."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "shop.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "events.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "product_id", "event", "timestamp"])
        for user, bought in enumerate([("P-mug", "P-coffee"), ("P-mug", "P-coffee", "P-chair"), ("P-two",)]):
            writer.writerows([f"u{user}", product, "purchase", "2026-11-01"] for product in bought)
    options = EnrichOptions(
        similar=Rules(peer_cosine=0.0),
        flags=FlagRules(min_peers=3, most_own_share=0.3, min_side_px=300),
        events=folder / "events.csv",
    )
    tagger.enrich(tagger.open(str(collection)), folder / "shop.csv", folder / name, options=options)
    return folder / name


def vars_of(color):
    """Fields of a colour."""
    return {"hex": color.hex, "name": color.name, "fraction": color.fraction}


class Server:
    """`tagger serve` in a process of its own; a context manager that ends it.

    Attributes:
        url: Its address.
        ready_s: How long it took from start to ready.
    """

    def __init__(self, place, *options, env=None, cpus=None):
        self._command = [*_CLI, "serve", str(place), "--port", "0", "--json", *options]
        if cpus is not None:
            self._command = ["taskset", "-c", cpus, *self._command]
        self._env = env or {}

    def __enter__(self):
        began = time.monotonic()
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **self._env},
        )
        line = self._first_line(began + READY_S)
        self.url = json.loads(line)["url"]
        self.ready_s = time.monotonic() - began
        self.port = int(self.url.rpartition(":")[2])
        return self

    def _first_line(self, deadline):
        readable, _, _ = select.select([self.process.stdout], [], [], deadline - time.monotonic())
        line = self.process.stdout.readline() if readable else b""
        if not line.strip() or b'"url"' not in line:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not get ready: {line!r}\n{self.log}")
        return line

    @property
    def log(self):
        """What it wrote to stderr so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def client(self, **options):
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def memory_bytes(self):
        """Resident memory that is its own: mapped files are the kernel's to drop."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")

    def stop(self, number=signal.SIGTERM):
        """End it and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._log.close()
