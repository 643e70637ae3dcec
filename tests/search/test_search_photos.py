"""Real photos through the real decoder and model: what is folded as one picture, and what is not."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_kit import add
from PIL import Image, ImageOps

from tagger.collection import SCHEMA, Collection, Config, Tagging
from tagger.errors import UsageError
from tagger.index import Index, index
from tagger.models import find_model, prepare
from tagger.search import Collection as Searchable
from tagger.search.fold import same_picture
from tagger.search.picture import PictureReader
from tagger.settings import load_settings
from tagger.tags import load_taxonomy
from tagger.testing import photo_files
from tagger.vision import DecodeLimits, Decoder

PHOTOS = 24


def jpeg(picture, quality=90):
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def inset(picture, share):
    w, h = picture.size
    return picture.crop((int(w * share), int(h * share), w - int(w * share), h - int(h * share)))


VARIANTS = {
    "as it is": jpeg,
    "the same bytes": jpeg,
    "encoded again": lambda picture: jpeg(picture, 60),
    "half the size": lambda picture: jpeg(picture.resize((picture.width // 2, picture.height // 2))),
    "2 % cut off": lambda picture: jpeg(inset(picture, 0.02)),
    "10 % cut off": lambda picture: jpeg(inset(picture, 0.1)),
    "mirrored": lambda picture: jpeg(ImageOps.mirror(picture)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every photo in every variant, with the rows that `tagger tag` would have written of it."""
    settings = load_settings()
    prepared = prepare(find_model("efficientnet_lite0"), cache_dir=settings.cache_dir)
    taxonomy = load_taxonomy(None, prepared.labels, prepared.wnids)
    config = Config(
        model_id=prepared.model_id,
        model=prepared.name,
        dim=prepared.dim,
        labels=prepared.labels,
        activation=prepared.activation,
        tagging=Tagging.of(taxonomy, threshold=0.1, top_k=3),
        wnids=prepared.wnids,
    )
    place = tmp_path_factory.mktemp("photos") / "c"
    collection = Collection.create_or_open(str(place), config, taxonomy=taxonomy)
    rows = []
    names = sorted(photo_files())[:PHOTOS]
    with PictureReader(config) as reader, Decoder([prepared.framing], DecodeLimits()) as decoder:
        for name in names:
            picture = Image.open(photo_files()[name]).convert("RGB")
            for variant, make in VARIANTS.items():
                data = make(picture)
                facts = decoder.run(1, [(0, data)]).facts[0]
                rows.append(
                    {
                        **{field.name: None for field in SCHEMA},
                        "image_id": f"{name}: {variant}",
                        "uri": name,
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "status": "tagged",
                        "width_px": facts.width_px,
                        "height_px": facts.height_px,
                        "phash": facts.phash,
                        "tags": [],
                        "categories": [],
                        "colors": [],
                        "embedding": reader.embedding(data),
                        "embedding_norm": 1.0,
                        "model_id": config.model_id,
                        "run_id": "run",
                        "tagged_at": 0,
                    }
                )
    add(collection, pa.Table.from_pylist(rows, SCHEMA))
    index(collection)
    return Index.open(collection), names, collection.uri


def test_what_counts_as_one_picture(made, record_property):
    opened, names, _ = made
    slots = np.array([[opened.slot(f"{name}: {variant}") for variant in VARIANTS] for name in names])
    one = same_picture(opened, slots[:, 0], slots.reshape(-1)).reshape(len(names), len(names), len(VARIANTS))
    own = one[np.arange(len(names)), np.arange(len(names))]
    others = one[~np.eye(len(names), dtype=bool)]
    shares = dict(zip(VARIANTS, own.mean(axis=0).tolist(), strict=True))
    record_property(
        "measured",
        ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        + f"; other photos {others.mean():.3f} of {others.size:,}",
    )
    assert shares["the same bytes"] == 1
    assert shares["encoded again"] >= 0.95
    assert shares["half the size"] >= 0.95
    assert not others.any()


def test_the_same_file_is_the_same_embedding(made):
    """A query picture is seen as the collection's own pictures were."""
    _, names, uri = made
    data = jpeg(Image.open(photo_files()[names[0]]).convert("RGB"))
    best = Searchable.open(uri).search(image=data, k=3).matches
    assert {match.image_id for match in best[:2]} == {f"{names[0]}: as it is", f"{names[0]}: the same bytes"}
    assert best[0].score == pytest.approx(1, abs=1e-3)


def test_incoming_images_are_compared_before_tagging(made, tmp_path):
    """Verdicts by kind; a broken file costs one row; the rules are those of `duplicates`."""
    _, names, uri = made
    folder = tmp_path / "incoming"
    folder.mkdir()
    first, second, third = (Image.open(photo_files()[name]).convert("RGB") for name in names[:3])
    (folder / "a.jpg").write_bytes(jpeg(first))
    (folder / "b.jpg").write_bytes(jpeg(second, 55))
    (folder / "c.jpg").write_bytes(
        jpeg(third.convert("L").convert("RGB"))
    )  # which looks different to the CNN
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 3)).astype(np.uint8)
    (folder / "d.jpg").write_bytes(jpeg(Image.fromarray(noise)))
    (folder / "e.jpg").write_bytes(b"no picture")
    opened = Searchable.open(uri)
    found = opened.compare(str(folder), tmp_path / "out.parquet")
    told = pq.read_table(tmp_path / "out.parquet").to_pylist()
    rows = {row["image_id"].rpartition("/")[2]: row for row in told}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "a.jpg": "bytes",
        "b.jpg": "picture",
        "c.jpg": "near",
        "d.jpg": "new",
        "e.jpg": "failed",
    }
    assert [rows[f"{n}.jpg"]["match"].partition(":")[0] for n in "abc"] == names[:3]
    assert rows["d.jpg"]["match"] is None
    assert rows["e.jpg"]["detail"].startswith("unsupported_format")
    assert (found.images, found.new, found.failed) == (5, 1, 1)
    assert found.known == {"bytes": 1, "picture": 1, "near": 1}
    only = opened.compare(str(folder), kind="bytes")
    assert (only.known["bytes"], only.new) == (1, 3)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{folder / 'a.jpg'}\n")
    with pytest.raises(UsageError, match="which it would replace"):
        opened.compare(str(manifest), manifest)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no image"):
        opened.compare(str(empty))
