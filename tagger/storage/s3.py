"""Amazon S3 and its kin: boto3 finds credentials, region and endpoint, lists, and serves odd keys.

obstore, which is several times faster, moves the bytes; it gets its credentials from boto3's, refreshed.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from xml.etree import ElementTree as ET

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from botocore.parsers import ResponseParserError
from obstore.store import S3Store

from tagger.errors import UsageError
from tagger.settings import Settings, environment_fingerprint, load_settings
from tagger.storage.faults import Fault, Speaker, from_boto, place, unquoted
from tagger.storage.store import ObjectInfo, StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PAGE: Final = 1000
DEFAULT_REGION: Final = "us-east-1"
_REFRESH: Final = timedelta(minutes=5)
BOTO_ERRORS: Final = (BotoCoreError, ClientError, ResponseParserError, OSError)


class RequestFailed(Exception):
    """A request to S3 failed for good."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


class S3Connection:
    """The way to one S3 endpoint under one set of credentials; threads share it. Cannot be pickled.

    Args:
        options: Signed or not, requester pays or not.
        settings: Patience and timeouts.

    Raises:
        UsageError: The AWS settings name a profile or an endpoint that cannot be used.
    """

    def __init__(self, options: StorageOptions, settings: Settings) -> None:
        self.options = options
        self.settings = settings
        self._lock = threading.Lock()
        self._handles: dict[str, S3Store] = {}
        self._regions: dict[str, str] = {}
        try:
            self._session = boto3.session.Session(botocore_session=botocore.session.get_session())
            region = settings.aws_region or self._session.region_name
            self.client = self._make_client(region or DEFAULT_REGION)
            self._credentials = None if options.anonymous else self._session.get_credentials()
        except ProfileNotFound:
            raise UsageError("AWS_PROFILE names a profile that the AWS config files do not have") from None
        except ValueError:
            raise UsageError("AWS_ENDPOINT_URL is not an address: write http(s)://HOST:PORT") from None
        except BotoCoreError as error:
            raise UsageError(f"the AWS settings cannot be used: {type(error).__name__}") from None
        self.region = region
        self.endpoint = str(self.client.meta.endpoint_url)
        self.is_amazon = (
            (self.endpoint.split("/")[2]).split(":")[0].endswith((".amazonaws.com", ".amazonaws.com.cn"))
        )

    def __reduce__(self) -> Any:
        raise TypeError("an S3 connection holds credentials and is not pickled")

    def speaker(self, bucket: str) -> Speaker:
        """Return the one who words the errors of a bucket."""
        return Speaker(f"s3://{bucket}", place(self.endpoint), self._advice())

    def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of the boto3 client, again and again while that may help.

        Raises:
            RequestFailed: It failed for good, or for longer than the patience lasts.
        """
        return self.patiently(lambda: self.send(operation, **arguments))

    def send(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of the boto3 client once, and let its errors through."""
        if self.options.requester_pays:
            arguments["RequestPayer"] = "requester"
        return getattr(self.client, operation)(**arguments)

    def patiently(self, send: Callable[[], T]) -> T:
        """Call `send` until it succeeds, fails for good, or the patience ends.

        Raises:
            RequestFailed: With the last fault.
        """
        deadline = time.monotonic() + self.settings.patience_s
        delay_s, tries = 0.1, 0
        while True:
            tries += 1
            try:
                return send()
            except BOTO_ERRORS as error:
                fault = from_boto(error)
            if not fault.transient or time.monotonic() + delay_s > deadline:
                raise RequestFailed(Fault(fault.kind, fault.answer, retried=tries > 1)) from None
            time.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(delay_s * 2, 5.0)

    def page(self, bucket: str, prefix: str, start_after: str) -> tuple[list[ObjectInfo], bool]:
        """List up to a thousand keys after one; returns them with their raw keys, and whether more follow.

        Raises:
            RequestFailed: The listing failed for good.
        """
        arguments = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE, "EncodingType": "url"}
        if start_after:
            arguments["StartAfter"] = start_after
        while True:
            answer = self.call("list_objects_v2", **arguments)
            rows = answer.get("TaggerRows")
            if rows is None:
                rows = [
                    ObjectInfo(row["Key"], unquoted(row.get("ETag")), int(row["Size"]))
                    for row in answer.get("Contents", [])
                ]
            more = bool(answer.get("IsTruncated"))
            if rows or not more:
                return rows, more
            # A page may be empty and not the last, where many versions were deleted; it ends no listing.
            token = answer.get("NextContinuationToken")
            if not token:
                raise RequestFailed(Fault("broken", "a page without keys that does not say how to go on"))
            arguments["ContinuationToken"] = token

    def handle(self, bucket: str) -> S3Store:
        """Return obstore's store for a bucket, made once.

        Raises:
            RequestFailed: The credentials cannot be found.
        """
        with self._lock:
            if bucket not in self._handles:
                self._handles[bucket] = self._make_handle(bucket)
            return self._handles[bucket]

    def delta_options(self, bucket: str) -> dict[str, str]:
        """Return deltalake's storage options, with credentials that are fresh now."""
        options = {
            "AWS_REGION": self.bucket_region(bucket),
            "AWS_ENDPOINT_URL": self._bucket_endpoint(bucket),
            "AWS_ALLOW_HTTP": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
            "AWS_CONDITIONAL_PUT": "etag",
        }
        if self.options.requester_pays:
            options["AWS_REQUEST_PAYER"] = "true"
        if self.options.anonymous:
            options["AWS_SKIP_SIGNATURE"] = "true"
            return options
        frozen = self._frozen()
        options["AWS_ACCESS_KEY_ID"] = frozen.access_key
        options["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key
        if frozen.token:
            options["AWS_SESSION_TOKEN"] = frozen.token
        return options

    def bucket_region(self, bucket: str) -> str:
        """Return the region to sign for; Amazon's buckets are asked for theirs if none is configured."""
        if self.region or not self.is_amazon:
            return self.region or DEFAULT_REGION
        if bucket not in self._regions:
            self._regions[bucket] = self._ask_region(bucket)
        return self._regions[bucket]

    def _ask_region(self, bucket: str) -> str:
        # Amazon names the region in a header of every answer, refusals included.
        try:
            answer = self.client.head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
        except (BotoCoreError, OSError):
            answer = {}
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region") or DEFAULT_REGION)

    def _bucket_endpoint(self, bucket: str) -> str:
        if self.region or not self.is_amazon:
            return self.endpoint
        return f"https://s3.{self.bucket_region(bucket)}.amazonaws.com"

    def _frozen(self) -> Any:
        if self._credentials is None:
            raise RequestFailed(Fault("credentials"))
        try:
            return self._credentials.get_frozen_credentials()
        except BOTO_ERRORS as error:
            raise RequestFailed(Fault("credentials", from_boto(error).answer)) from None

    def _provide(self) -> Any:
        frozen = self._frozen()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            # boto3 renews long before the end; asking it often costs nothing.
            "expires_at": datetime.now(UTC) + _REFRESH,
        }

    def _make_handle(self, bucket: str) -> S3Store:
        endpoint = self._bucket_endpoint(bucket)
        timeout_s = self.settings.request_timeout_s
        arguments: dict[str, Any] = {"credential_provider": self._provide}
        if self.options.anonymous:
            arguments = {"skip_signature": True}
        if self.options.requester_pays:
            arguments["request_payer"] = True
        return S3Store(
            bucket,
            endpoint=endpoint,
            region=self.bucket_region(bucket),
            virtual_hosted_style_request=False,
            client_options=client_options(timeout_s, allow_http=endpoint.startswith("http://")),
            retry_config=retry_config(self.settings.patience_s),
            **arguments,
        )

    def _make_client(self, region: str) -> Any:
        timeout_s = self.settings.request_timeout_s
        config = Config(
            signature_version=UNSIGNED if self.options.anonymous else None,
            connect_timeout=min(10.0, timeout_s),
            read_timeout=timeout_s,
            max_pool_connections=32,
            retries={"total_max_attempts": 1},  # `patiently` tries again, by the same rule for every store
            # The newer checksum headers are unknown to many S3-compatible servers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = self._session.client("s3", region_name=region, config=config)
        if "amazonaws.com" not in client.meta.endpoint_url:
            config = config.merge(Config(s3={"addressing_style": "path"}))
            client = self._session.client("s3", region_name=region, config=config)
        client.meta.events.register("before-parse.s3.ListObjectsV2", _read_rows)
        return client

    def _advice(self) -> str:
        if self.options.anonymous:
            return "requests are unsigned (--anonymous); leave that out to use your credentials"
        if self._credentials is None:
            return (
                "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a "
                "profile with AWS_PROFILE, or use --anonymous for a public bucket"
            )
        method = str(getattr(self._credentials, "method", "") or "")
        if method == "env":
            return "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
        return f"check the AWS profile {self._session.profile_name!r} (credentials from {method})"


def client_options(timeout_s: float, *, allow_http: bool) -> Any:
    """Return obstore's client options: limits on silence, and on the whole of one request."""
    return {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=min(10.0, timeout_s)),
        "read_timeout": timedelta(seconds=timeout_s),
        "timeout": timedelta(seconds=5 * timeout_s),
    }


def retry_config(patience_s: float) -> Any:
    """Return obstore's retry settings: a request is repeated for about `patience_s` seconds."""
    return {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=patience_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }


_connections: dict[tuple[StorageOptions, str], S3Connection] = {}
_connections_lock = threading.Lock()


def connect(options: StorageOptions) -> S3Connection:
    """Return the connection for these options, made once as long as the environment stays the same.

    Raises:
        UsageError: The AWS settings cannot be used.
    """
    key = (options, environment_fingerprint())
    with _connections_lock:
        if key not in _connections:
            if len(_connections) >= 16:  # only tests change the environment that often
                _connections.pop(next(iter(_connections)))
            _connections[key] = S3Connection(options, load_settings())
        return _connections[key]


def _read_rows(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read the rows of a listing ourselves, and leave the rest to botocore, which needs five times as long.

    botocore parses every date and goes through its model for every field. Registered for `before-parse`.
    """
    if response_dict.get("status_code") != 200:
        return
    from urllib.parse import unquote_plus

    try:
        root = ET.fromstring(response_dict["body"])  # noqa: S314 - expat resolves no external entity
    except ET.ParseError:
        return  # botocore words the error
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    contents = root.findall(f"{space}Contents")
    encoded = root.findtext(f"{space}EncodingType") == "url"
    rows = []
    for row in contents:
        key = row.findtext(f"{space}Key") or ""
        etag = row.findtext(f"{space}ETag")
        size = row.findtext(f"{space}Size") or "0"
        rows.append(ObjectInfo(unquote_plus(key) if encoded else key, unquoted(etag), int(size)))
    customized_response_dict["TaggerRows"] = rows
    rest = ET.Element(root.tag)
    rest.extend(node for node in root if node.tag != f"{space}Contents")
    response_dict["body"] = ET.tostring(rest)
