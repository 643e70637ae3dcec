"""One door to s3://, gs://, az://, file paths, and memory:// in unit tests.

Names are raw keys relative to a store. Errors are ours only, worded without secrets; nothing that holds a
credential is pickled or printed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tagger.errors import UsageError
from tagger.storage.faults import AlreadyExists, PreconditionFailed
from tagger.storage.local import LocalStore, file_etag
from tagger.storage.reader import ImageReader
from tagger.storage.store import ObjectInfo, StorageOptions, Store
from tagger.storage.uris import (
    canonical_uri,
    decode_path,
    encode_path,
    given_path,
    split_uri,
    survives_obstore,
)

if TYPE_CHECKING:
    from tagger.storage.faults import Speaker

__all__ = [
    "AlreadyExists",
    "ImageReader",
    "LocalStore",
    "ObjectInfo",
    "PreconditionFailed",
    "StorageOptions",
    "Store",
    "canonical_uri",
    "decode_path",
    "encode_path",
    "file_etag",
    "given_path",
    "open_store",
    "split_uri",
    "survives_obstore",
]

_memories: dict[str, Any] = {}
_memories_lock = threading.Lock()


def open_store(uri: str, options: StorageOptions = StorageOptions()) -> Store:  # noqa: B008 - frozen
    """Open a folder or key prefix; makes no request.

    Args:
        uri: `s3://`, `gs://` or `az://` BUCKET/PREFIX, `file://` or plain PATH, or `memory://NAME`, which
            lives as long as the process. Trailing slashes mean nothing.
        options: How to reach it.

    Raises:
        UsageError: The address or the settings for it cannot be used.
    """
    scheme, bucket, key = split_uri(uri)
    if scheme == "file":
        return LocalStore(uri, options)
    prefix = key.rstrip("/")
    # Imported here, so that work on local files needs neither boto3 nor obstore.
    if scheme == "s3":
        from tagger.storage.s3 import connect
        from tagger.storage.s3_objects import S3Objects

        return S3Objects(bucket, prefix, options, connection=connect(options))
    from tagger.settings import load_settings
    from tagger.storage.objects import ObjectStore

    handle, speaker = _memory(bucket) if scheme == "memory" else _cloud(scheme, bucket, options)
    patience_s = load_settings().patience_s
    return ObjectStore(
        f"{scheme}://{bucket}", prefix, options, speaker=speaker, handle=lambda: handle, patience_s=patience_s
    )


def _memory(name: str) -> tuple[Any, Speaker]:
    from obstore.store import MemoryStore

    from tagger.storage.faults import Speaker

    with _memories_lock:
        handle = _memories.setdefault(name, MemoryStore())
    return handle, Speaker(f"memory://{name}", "this process", "memory needs none")


def _cloud(scheme: str, bucket: str, options: StorageOptions) -> tuple[Any, Speaker]:
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore

    from tagger.settings import load_settings
    from tagger.storage.faults import Speaker
    from tagger.storage.s3 import client_options, retry_config

    settings = load_settings()
    # Both read their own standard variables; plain HTTP only where those name an emulator.
    arguments: dict[str, Any] = {
        "client_options": client_options(settings.request_timeout_s, allow_http=settings.allow_http),
        "retry_config": retry_config(settings.patience_s),
    }
    if options.anonymous:
        arguments["skip_signature"] = True
    try:
        if scheme == "gs":
            advice = "check GOOGLE_APPLICATION_CREDENTIALS, or the account this machine runs as"
            return GCSStore(bucket, **arguments), Speaker(f"gs://{bucket}", "Google Cloud Storage", advice)
        advice = "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the identity in use"
        return AzureStore(bucket, **arguments), Speaker(f"az://{bucket}", "Azure Blob Storage", advice)
    except (BaseError, ValueError, OSError):
        raise UsageError(f"{scheme}://{bucket} cannot be opened: {advice}") from None
