# ruff: noqa: D102 - what the methods promise is written in Store
"""An S3 bucket behind the one door: obstore moves, boto3 lists and serves the keys obstore cannot express."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from tagger.storage.faults import Fault, Speaker, quoted, unquoted
from tagger.storage.objects import ObjectStore
from tagger.storage.s3 import RequestFailed, S3Connection
from tagger.storage.store import ObjectInfo, Objects, Page, StorageOptions, check_size

if TYPE_CHECKING:
    from collections.abc import Iterator


class S3Objects(ObjectStore):
    """Keys below a prefix of an S3 bucket.

    Args:
        bucket: Name of the bucket.
        prefix: Raw key prefix without a trailing slash, or empty.
        options: How it was opened.
        connection: The way to the endpoint.
    """

    def __init__(
        self, bucket: str, prefix: str, options: StorageOptions, *, connection: S3Connection
    ) -> None:
        speaker = connection.speaker(bucket)
        super().__init__(
            f"s3://{bucket}",
            prefix,
            options,
            speaker=speaker,
            handle=lambda: connection.handle(bucket),
            odd=S3OddKeys(bucket, connection, speaker),
            patience_s=connection.settings.patience_s,
        )
        self._bucket = bucket
        self._connection = connection

    def list(self, prefix: str = "") -> Iterator[Objects]:
        start_after, more = "", True
        while more:
            objects, more = self.page(prefix, start_after)
            if objects:
                yield objects
                start_after = objects[-1].name

    def page(self, prefix: str = "", start_after: str = "") -> Page:
        """List up to a thousand objects in the server's own order, after the name `start_after`.

        Returns:
            The objects, and whether more follow.

        Raises: as `list` does.
        """
        after = self._prefix + start_after if start_after else ""
        try:
            rows, more = self._connection.page(self._bucket, self._prefix + prefix, after)
        except RequestFailed as failed:
            self._speaker.raise_for_bucket(failed.fault)
        cut = len(self._prefix)
        return [ObjectInfo(row.name[cut:], row.etag, row.size_bytes) for row in rows] if cut else rows, more

    def check(self) -> None:
        try:
            self._connection.call("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except RequestFailed as failed:
            self._speaker.raise_for_bucket(failed.fault)

    def delta_options(self) -> dict[str, str]:
        try:
            return self._connection.delta_options(self._bucket)
        except RequestFailed as failed:
            self._speaker.raise_for_write(failed.fault, self._prefix)


class S3OddKeys:
    """Objects whose keys obstore cannot express, one boto3 request each.

    Args:
        bucket: Name of the bucket.
        connection: The way to the endpoint.
        speaker: Words the errors.
    """

    def __init__(self, bucket: str, connection: S3Connection, speaker: Speaker) -> None:
        self._bucket = bucket
        self._connection = connection
        self._speaker = speaker

    def fetch(
        self, key: str, *, if_match: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str | None]:
        arguments = {"Bucket": self._bucket, "Key": key}
        if if_match:
            arguments["IfMatch"] = quoted(if_match)

        def get() -> tuple[bytes, str | None]:
            answer = self._connection.send("get_object", **arguments)
            # Not `with body:`: that hands out the stream beneath, which does not check the length.
            with closing(answer["Body"]) as body:
                check_size(int(answer["ContentLength"]), max_bytes)
                return bytes(body.read()), unquoted(answer.get("ETag"))

        try:
            return self._connection.patiently(get)
        except RequestFailed as failed:
            self._speaker.raise_for_read(failed.fault)

    def head(self, key: str) -> ObjectInfo | None:
        try:
            answer = self._connection.call("head_object", Bucket=self._bucket, Key=key)
        except RequestFailed as failed:
            if failed.fault.kind == "not_found":
                return None
            self._speaker.raise_for_read(failed.fault)
        return ObjectInfo(key, unquoted(answer.get("ETag")), int(answer["ContentLength"]))

    def put(self, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "Body": data}
        if if_absent:
            arguments["IfNoneMatch"] = "*"
        elif if_match is not None:
            arguments["IfMatch"] = quoted(if_match)
        try:
            answer = self._connection.call("put_object", **arguments)
        except RequestFailed as failed:
            fault = failed.fault
            if fault.kind == "changed" and if_absent:
                fault = Fault("exists", fault.answer, fault.retried)
            self._speaker.raise_for_write(fault, key)
        return unquoted(answer.get("ETag")) or ""

    def delete(self, key: str) -> None:
        try:
            self._connection.call("delete_object", Bucket=self._bucket, Key=key)
        except RequestFailed as failed:
            self._speaker.raise_for_write(failed.fault, key)
