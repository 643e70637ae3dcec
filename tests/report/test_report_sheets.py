"""Thumbnails: re-read, shrunk, bounded, and never a reason to fail."""

from __future__ import annotations

import base64
import io
import threading
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tagger.errors import ImageError, StoreUnavailable
from tagger.report.samples import Sample
from tagger.report.sheets import MAX_THUMBNAIL_BYTES, make_thumbnails
from tagger.storage import ImageReader, file_etag

if TYPE_CHECKING:
    from pathlib import Path


def _sample(uri: str, etag: str | None = None) -> Sample:
    return Sample(uri, uri, etag, 0.5)


def _picture(data_uri: str) -> Image.Image:
    head, _, body = data_uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_thumbnails_show_the_middle_of_the_picture(photo_bytes: dict[str, bytes]):
    data = photo_bytes["chelsea"]
    made = make_thumbnails([_sample("a"), _sample("a")], lambda _: data, size_px=160)
    thumbnail = np.asarray(_picture(made.by_uri["a"]).convert("RGB")).astype(float)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    expected = np.asarray(picture.crop((left, top, left + side, top + side)).resize((160, 160))).astype(float)
    assert thumbnail.shape == (160, 160, 3)
    assert np.abs(thumbnail - expected).mean() < 8  # WebP at its first quality


def test_what_cannot_be_read_is_named_and_the_others_are_made(
    tmp_path: Path, photo_bytes: dict[str, bytes], jpegs: dict[str, bytes]
):
    good, changed, torn = (tmp_path / name for name in ("good.jpg", "changed.jpg", "torn.jpg"))
    jpeg = next(iter(jpegs.values()))
    for path in (good, changed, torn):
        path.write_bytes(jpeg)
    etags = {path: file_etag(path.stat()) for path in (good, changed)}
    changed.write_bytes(photo_bytes["coffee"])
    torn.write_bytes(jpeg[: len(jpeg) // 2])
    samples = [_sample(f"file://{path}", etags.get(path)) for path in (good, changed, torn)]
    samples.append(_sample(f"file://{tmp_path}/gone.jpg"))
    reader = ImageReader()
    made = make_thumbnails(samples, lambda one: reader.read_image(one.uri, if_match=one.etag)[0])
    assert list(made.by_uri) == [samples[0].uri]
    assert set(made.missing) == {one.uri for one in samples[1:]}
    assert all(made.missing.values())


def test_noise_is_made_coarser_until_it_fits():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    made = make_thumbnails([_sample("noise")], lambda _: out.getvalue())
    assert len(base64.b64decode(made.by_uri["noise"].partition(",")[2])) <= MAX_THUMBNAIL_BYTES


def test_after_refused_credentials_nothing_more_is_asked():
    asked: list[str] = []
    lock = threading.Lock()

    def read(sample: Sample) -> bytes:
        with lock:
            asked.append(sample.uri)
        raise StoreUnavailable("the store refuses the credentials")

    samples = [_sample(f"s3://b/{i}") for i in range(100)]
    made = make_thumbnails(samples, read)
    assert made.by_uri == {}
    assert len(made.missing) == 100
    assert "the store refuses the credentials" in made.missing.values()
    assert len(asked) <= 32


def test_a_failing_image_is_no_reason_to_stop(photo_bytes: dict[str, bytes]):
    def read(sample: Sample) -> bytes:
        if sample.uri == "s3://b/0":
            raise ImageError("forbidden", "storage refuses this object")
        return photo_bytes["rocket"]

    made = make_thumbnails([_sample(f"s3://b/{i}") for i in range(20)], read)
    assert made.missing == {"s3://b/0": "storage refuses this object"}
    assert len(made.by_uri) == 19
