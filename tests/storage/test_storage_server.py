"""The test server itself: it must check signatures, survive a crash, and leave nothing behind."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from tagger.testing import PHOTO_PX, SeaweedFS, make_photos, put_photos

pytestmark = pytest.mark.s3


def test_refuses_a_wrong_secret(s3, bucket):
    stranger = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.access_key,
        aws_secret_access_key="wrong",
    )
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied"):
        stranger.put_object(Bucket=bucket.name, Key="a", Body=b"1")


def test_objects_survive_a_kill(tmp_path):
    with SeaweedFS(tmp_path) as server:
        bucket = server.bucket("kept")
        bucket.put("a.jpg", b"1" * 100_000)
        endpoint = server.endpoint
        server.kill()
        server.start()
        assert server.endpoint == endpoint
        assert bucket.get("a.jpg") == b"1" * 100_000


def test_dies_with_a_killed_parent(tmp_path):
    program = (
        "import sys, time; from tagger.testing import SeaweedFS\n"
        f"s = SeaweedFS({str(tmp_path)!r}).start(); print(s.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    server_pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(server_pid):
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.02)


def test_photos_are_distinct_and_reproducible(bucket):
    photos = list(make_photos(305, seed=7))
    assert photos == list(make_photos(305, seed=7))
    assert len({hashlib.sha256(data).digest() for _, data in photos}) == 305
    assert photos[0][1] != next(make_photos(1, seed=8))[1]
    keys = put_photos(bucket, photos[:20], prefix="p/")
    assert bucket.keys() == keys == [f"p/photo_{i:07d}.jpg" for i in range(20)]
    assert bucket.get(keys[3]) == photos[3][1]


def test_put_photos_keeps_every_one_over_its_slices(bucket):
    small = [(f"{i:04d}", b"%d" % i) for i in range(1100)]
    assert put_photos(bucket, iter(small)) == bucket.keys() == [name for name, _ in small]


def test_photos_are_whole_jpegs(jpegs):
    import io

    from PIL import Image

    for data in jpegs.values():
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("JPEG", PHOTO_PX)
            picture.load()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie waits only for its reaper.
    with Path(f"/proc/{pid}/stat").open() as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
