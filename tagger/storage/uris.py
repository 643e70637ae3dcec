"""Names of things: how a URI is cut into scheme, bucket and raw key, and how file names become text.

A URI here is never percent-encoded or normalised: `s3://bucket/` is followed by the raw key, whatever it
holds. Only a local file name can be something that is not text, and only there `%XX` stands for a byte.
"""

from __future__ import annotations

import os
import re
from typing import Final

from tagger.errors import UsageError

OBJECT_SCHEMES: Final = ("s3", "gs", "az", "memory")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_BYTE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def split_uri(uri: str) -> tuple[str, str, str]:
    r"""Cut a URI or plain path into scheme, bucket and key.

    Everything after the bucket's `/` is the key, untouched. A plain path is a file path; files have no
    bucket, and their key is the path as given.

    >>> split_uri("s3://shop/a//b%2F.jpg")
    ('s3', 'shop', 'a//b%2F.jpg')
    >>> split_uri("file:///photos/a.jpg")
    ('file', '', '/photos/a.jpg')
    >>> split_uri("photos/a.jpg")
    ('file', '', 'photos/a.jpg')

    Raises:
        UsageError: The scheme is unknown, or the bucket is missing.
    """
    match = _SCHEME.match(uri)
    if match is None:
        return "file", "", uri
    scheme, rest = match.group(1).lower(), uri[match.end() :]
    if scheme == "file":
        return "file", "", rest
    if scheme not in OBJECT_SCHEMES:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "file"))
        raise UsageError(f"unknown address {scheme}://: use one of {known} or a path")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise UsageError(f"{scheme}:// needs a bucket: {scheme}://BUCKET/PREFIX")
    return scheme, bucket, key


def canonical_uri(uri: str) -> str:
    """Return the address of a folder or prefix as `Store.uri` gives it, without a trailing slash.

    >>> canonical_uri("s3://shop/photos/"), canonical_uri("/")
    ('s3://shop/photos', 'file://')

    Raises:
        UsageError: The scheme is unknown, or the bucket is missing.
    """
    scheme, bucket, key = split_uri(uri)
    if scheme == "file":
        return "file://" + encode_path(os.path.realpath(given_path(uri))).rstrip("/")
    prefix = key.rstrip("/")
    return f"{scheme}://{bucket}/{prefix}" if prefix else f"{scheme}://{bucket}"


def encode_path(path: bytes) -> str:
    r"""Return a file path as text, so that `decode_path` gives the same bytes back.

    Bytes that are not UTF-8 become %XX. A `%` that stands before two hexadecimal digits becomes %25, because
    it would be read as such a byte; any other `%` stays, so nearly every name is its own text.

    >>> encode_path("caf\u00e9 100%.jpg".encode()), encode_path(b"\xff.jpg"), encode_path(b"%41.jpg")
    ('café 100%.jpg', '%FF.jpg', '%2541.jpg')
    """
    escaped = _BYTE.sub(rb"%25\1", path)
    text = escaped.decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in text)


def decode_path(text: str) -> bytes:
    r"""Return the bytes of a file path written by `encode_path`.

    >>> decode_path("%FF.jpg"), decode_path("%2541.jpg"), decode_path("100%.jpg")
    (b'\xff.jpg', b'%41.jpg', b'100%.jpg')
    """
    # surrogateescape, because Python itself hands out such names (sys.argv, os.listdir) with lone surrogates.
    return _BYTE.sub(lambda m: bytes([int(m.group(1), 16)]), text.encode("utf-8", "surrogateescape"))


def given_path(text: str) -> bytes:
    """Return the bytes of a path a person gave: a plain path as it is, a `file://` URI by `decode_path`.

    Raises:
        UsageError: It is empty, as a shell variable that is not set; the working folder is written `.`.
    """
    if not text:
        raise UsageError("an address is empty: name a folder, a file or a bucket")
    if text[:7].lower() == "file://":
        return decode_path(text[7:]) or b"/"  # "file://" is how the canonical form writes the root
    return os.fsencode(text)


def survives_obstore(key: str) -> bool:
    """Tell whether obstore asks the store for exactly this key.

    It drops a leading and a trailing `/`, and refuses empty, `.` and `..` components and control characters;
    such keys go through boto3. Checked against obstore itself in tests.
    """
    if _CONTROL.search(key):
        return False
    return all(part not in {"", ".", ".."} for part in key.split("/"))
