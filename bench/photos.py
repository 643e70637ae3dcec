"""One server and one set of images for everything the bench measures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tagger.testing import SeaweedFS, make_photos, put_photos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tagger.testing import Bucket

FOLDER_IMAGES = 1000


@dataclass(frozen=True)
class Photos:
    """Photos in a bucket: `a/` holds the first ones, `b/` what --large adds; folders of 1,000 below.

    Attributes:
        server: The running SeaweedFS.
        bucket: Holds the photos.
        results: Another bucket, for collections.
        images: How many are below `a/`.
        large: How many there are in the whole bucket, with those below `b/`.
        bytes_each: Mean size of a photo.
    """

    server: SeaweedFS
    bucket: Bucket
    results: Bucket
    images: int
    large: int
    bytes_each: int

    def source(self, images: int) -> str:
        """Return the prefix that holds exactly `images` photos, for `tagger tag` and the peers.

        Raises:
            ValueError: No prefix holds that many.
        """
        choices = {
            self.large: f"{self.bucket.uri}/",
            self.images: f"{self.bucket.uri}/a/",
            min(self.images, FOLDER_IMAGES): f"{self.bucket.uri}/a/000/",  # last: a flat folder suits all
        }
        if images not in choices:
            raise ValueError(f"there is no prefix with {images} photos, only {sorted(choices)}")
        return choices[images]

    def keys(self, images: int) -> list[str]:
        """Return the first keys below `a/`."""
        return [_key(i, f"photo_{i:07d}.jpg", self.images) for i in range(min(images, self.images))]


def _named(photos: Iterator[tuple[str, bytes]], first: int) -> Iterator[tuple[str, bytes]]:
    for i, (name, data) in enumerate(photos):
        yield _key(i, name, first), data


def _key(i: int, name: str, first: int) -> str:
    return f"{'a' if i < first else 'b'}/{i // FOLDER_IMAGES:03d}/{name}"


def put_all(server: SeaweedFS, *, images: int, large: int, say: bool = True) -> Photos:
    """Make the photos and upload them.

    Args:
        server: Running.
        images: How many go below `a/`.
        large: How many in all; equal to `images` without --large.
        say: Print how long it took.
    """
    began = time.monotonic()
    bucket = server.bucket("bench-photos")
    put_photos(bucket, _named(make_photos(large), images))
    if say:
        print(f"{large:,} photos made and uploaded in {time.monotonic() - began:.0f} s", flush=True)
    first = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="a/", MaxKeys=FOLDER_IMAGES)["Contents"]
    mean = sum(row["Size"] for row in first) // len(first)
    return Photos(server, bucket, server.bucket("bench-results"), images, large, mean)
