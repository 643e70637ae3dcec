"""What went wrong at a store, told from the exceptions of obstore and boto3, and said without secrets.

The text of those exceptions is never passed on: it can hold signed addresses, tokens and whole answers.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from typing import Final, NoReturn
from urllib.parse import urlsplit

from tagger.errors import ImageError, SourceError, StoreUnavailable, TaggerError, UsageError


class AlreadyExists(TaggerError):
    """The object is there already, and was to be written only if absent."""


class PreconditionFailed(TaggerError):
    """The object is not the version that was to be replaced."""


@dataclass(frozen=True)
class Fault:
    """One failed request.

    Attributes:
        kind: not_found, no_bucket, changed, exists, forbidden, credentials, unreachable, timeout, broken (the
            connection ended early), server (5xx, throttling) or other.
        answer: Status and code of the answer, such as `403 AccessDenied`; empty if there was none.
        retried: The request was sent more than once, so an earlier one may have been applied.
    """

    kind: str
    answer: str = ""
    retried: bool = False

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in {"unreachable", "timeout", "broken", "server"}


# Answers that condemn the credentials rather than the one object.
CREDENTIAL_CODES: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "AuthFailure",
        "RequestTimeTooSkewed",
        "RequestExpired",
        "InvalidSecurity",
        "AccountProblem",
        "AuthenticationFailed",  # Azure
        "InvalidAuthenticationInfo",  # Azure
    }
)
_SERVER_CODES: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"}
    | {"InternalError", "TooManyRequests", "OperationAborted", "ConditionalRequestConflict", "ServerBusy"}
)
_NO_BUCKET_CODES: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"})
_CODE: Final = re.compile(r"<Code>\s*([A-Za-z0-9]{1,64})\s*</Code>")
_STATUS: Final = re.compile(r"\bstatus(?: code)?: (\d{3})\b")
_RETRIES: Final = re.compile(r"\bretries: [1-9]")
_ADDRESS: Final = re.compile(r"\buri: Some\(\s*\S+\s*\)")


def from_answer(status: int, code: str, *, retried: bool = False) -> Fault:
    """Name the fault of an answer by its HTTP status and the store's own code (empty if it sent none)."""
    answer = f"{status or ''} {code}".strip()
    if code in CREDENTIAL_CODES or status == 401:
        kind = "credentials"
    elif code in _NO_BUCKET_CODES:
        kind = "no_bucket"
    elif code == "RequestTimeout" or status in {408, 504}:
        kind = "timeout"
    elif code in _SERVER_CODES or status in {409, 429} or status >= 500:
        kind = "server"
    elif status == 412 or code == "PreconditionFailed":
        kind = "changed"
    elif status in {404, 410}:
        kind = "not_found"
    elif status == 403:
        kind = "forbidden"
    else:
        kind = "other"
    return Fault(kind, answer, retried)


def from_obstore(error: Exception, key: str = "") -> Fault:
    """Name the fault behind an exception of obstore.

    Args:
        error: The exception; only its class and text tell what happened.
        key: The key that was asked for. The text holds it, and it must not pass for a word of the store.
    """
    from obstore import exceptions as raised

    said, source = _without(key, str(error))
    retried = _RETRIES.search(source) is not None
    status = int(match.group(1)) if (match := _STATUS.search(said)) else 0
    code = match.group(1) if (match := _CODE.search(said)) else ""
    named = from_answer(status, code, retried=retried)
    if isinstance(error, raised.AlreadyExistsError):
        return replace(named, kind="exists")
    if isinstance(error, raised.PreconditionError):
        return replace(named, kind="changed")
    if isinstance(error, FileNotFoundError):
        return replace(named, kind="no_bucket" if code in _NO_BUCKET_CODES else "not_found")
    if isinstance(error, raised.UnauthenticatedError):
        return replace(named, kind="credentials")
    if isinstance(error, raised.PermissionDeniedError):
        return from_answer(status or 403, code, retried=retried)
    if status:
        return named
    for kind, words in _SOURCES.items():
        if any(word in source for word in words):
            return Fault(kind, retried=retried)
    return Fault("other", retried=retried)


# What obstore's error says of its source, where no answer came; the first that fits counts.
_SOURCES: Final = {
    "unreachable": ("kind: Connect", "ConnectError", "dns error"),
    "timeout": ("TimedOut", "kind: Timeout"),
    "broken": ("HttpError", "reqwest", "hyper", "NoContentRange"),
    "credentials": ("redential", "oken", "etadata"),
}


def _without(key: str, text: str) -> tuple[str, str]:
    """Return an error's sentence and its source, without key and address: names are only names."""
    said, _, source = text.partition("\n\nDebug source:")
    for name in (key, html.escape(key, quote=False), html.escape(key)):
        if name:
            said, source = said.replace(name, ""), source.replace(name, "")
    return said, _ADDRESS.sub("", source)


def from_boto(error: Exception) -> Fault:
    """Name the fault behind an exception of boto3 or botocore."""
    from botocore import exceptions as raised

    if isinstance(error, raised.ClientError):
        meta = error.response.get("ResponseMetadata", {})
        code = str(error.response.get("Error", {}).get("Code", ""))
        # Answers without a body carry the status in place of a code.
        return from_answer(int(meta.get("HTTPStatusCode") or 0), "" if code.isdigit() else code)
    credential_errors = (
        raised.NoCredentialsError,
        raised.PartialCredentialsError,
        raised.CredentialRetrievalError,
        raised.TokenRetrievalError,
        raised.NoAuthTokenError,
        raised.SSOError,
        raised.MetadataRetrievalError,
        raised.UnknownCredentialError,
        raised.ProfileNotFound,
    )
    if isinstance(error, credential_errors):
        return Fault("credentials")
    if isinstance(
        error, (raised.ReadTimeoutError, raised.IncompleteReadError, raised.ResponseStreamingError)
    ):
        return Fault("timeout" if isinstance(error, raised.ReadTimeoutError) else "broken")
    if isinstance(error, raised.ParamValidationError):
        return Fault("no_bucket", "not a bucket name")
    if isinstance(error, (raised.ConnectionError, raised.HTTPClientError, OSError)):
        # Refused, unknown host, connect timeout, a proxy or TLS that does not work.
        return Fault("broken" if isinstance(error, raised.ConnectionClosedError) else "unreachable")
    return Fault("other")


def quoted(etag: str) -> str:
    """Return an etag as HTTP wants it, in quotes."""
    return etag if etag.startswith(('"', 'W/"')) else f'"{etag}"'


def unquoted(etag: str | None) -> str | None:
    """Return an etag without the quotes of HTTP."""
    return etag.strip('"') if etag else None


def place(address: str) -> str:
    """Return an address without user, password, query and fragment, fit for a message."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}"


@dataclass(frozen=True)
class Speaker:
    """Turns faults of one store into exceptions of ours.

    Attributes:
        bucket_uri: Such as `s3://photos`.
        address: Where requests go, for messages; without secrets.
        credentials: Where the credentials come from and what to check, for messages; without secrets.
    """

    bucket_uri: str
    address: str
    credentials: str

    def _refused(self, fault: Fault) -> str:
        if not fault.answer:  # nothing was sent, or the store did not say more
            return f"{self.bucket_uri} cannot be reached without valid credentials: {self.credentials}"
        return f"{self.bucket_uri} refuses the credentials ({fault.answer}): {self.credentials}"

    def _silent(self) -> str:
        return (
            f"no answer from {self.address} for {self.bucket_uri}: check the network and the endpoint address"
        )

    def raise_for_read(self, fault: Fault) -> NoReturn:
        """Raise what a failed read of one object means: its own error, or the store's.

        Raises:
            ImageError: Only this object is concerned.
            StoreUnavailable: No object can be read.
        """
        if fault.kind == "credentials":
            raise StoreUnavailable(self._refused(fault)) from None
        if fault.kind == "unreachable":
            raise StoreUnavailable(self._silent()) from None
        answer = f" ({fault.answer})" if fault.answer else ""
        code, detail = {
            "not_found": ("not_found", "no object has this key any more"),
            "no_bucket": ("not_found", f"there is no bucket {self.bucket_uri}"),
            "changed": (
                "changed",
                "the object is not the one that was listed; the next run takes the new one",
            ),
            "forbidden": ("forbidden", f"the store does not let these credentials read the object{answer}"),
            "timeout": ("timeout", "the store did not answer in time"),
            "broken": ("read_error", "the connection ended before the whole object had come"),
        }.get(fault.kind, ("read_error", f"the store failed to serve the object{answer}"))
        raise ImageError(code, detail) from None

    def raise_for_write(self, fault: Fault, key: str) -> NoReturn:
        """Raise what a failed write means.

        Raises:
            AlreadyExists: It was to be written only if absent.
            PreconditionFailed: It is not the version that was to be replaced.
            StoreUnavailable: Anything else.
        """
        name = f"{self.bucket_uri}/{key}"
        answer = f" ({fault.answer})" if fault.answer else ""
        if fault.kind == "exists":
            raise AlreadyExists(f"{name} exists already") from None
        if fault.kind == "changed":
            raise PreconditionFailed(f"{name} was changed by somebody else") from None
        if fault.kind == "credentials":
            raise StoreUnavailable(self._refused(fault)) from None
        if fault.kind in {"unreachable", "timeout", "broken"}:
            raise StoreUnavailable(self._silent()) from None
        if fault.kind == "no_bucket":
            raise StoreUnavailable(f"there is no bucket {self.bucket_uri}") from None
        if fault.kind == "forbidden":
            raise StoreUnavailable(
                f"{self.bucket_uri} may not be written with these credentials{answer}: {self.credentials}"
            ) from None
        raise StoreUnavailable(f"{self.bucket_uri} failed to store {key}{answer}") from None

    def raise_for_bucket(self, fault: Fault) -> NoReturn:
        """Raise what a failed listing or check of a bucket means.

        Raises:
            SourceError: There is no such bucket.
            UsageError: The credentials are missing, refused, or may not list.
            StoreUnavailable: The store does not answer, or fails.
        """
        answer = f" ({fault.answer})" if fault.answer else ""
        if fault.kind in {"no_bucket", "not_found"}:
            raise SourceError(f"there is no bucket {self.bucket_uri} at {self.address}{answer}") from None
        if fault.kind == "credentials":
            raise UsageError(self._refused(fault)) from None
        if fault.kind == "forbidden":
            raise UsageError(f"{self.bucket_uri} may not be listed{answer}: {self.credentials}") from None
        if fault.transient:
            reason = self._silent() if not fault.answer else f"{self.bucket_uri} keeps failing{answer}"
            raise StoreUnavailable(reason) from None
        raise StoreUnavailable(f"{self.bucket_uri} cannot be listed{answer}") from None
