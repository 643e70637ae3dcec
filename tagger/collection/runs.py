"""runs/<run_id>/run.json: what a run was asked to do, what it did, and with which versions."""

from __future__ import annotations

import json
import platform
import re
import secrets
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Literal

from tagger.errors import ImageError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tagger.storage import Store

RUNS_FOLDER: Final = "runs"
RUN_NAME: Final = "run.json"

State = Literal["running", "done", "failed", "interrupted"]

_PACKAGES: Final = (
    *(
        "tagger",
        "deltalake",
        "duckdb",
        "numpy",
        "obstore",
        "openvino",
        "pillow",
        "pyarrow",
        "ray",
        "simplejpeg",
    ),
    *("timm", "torch"),
)
_SECRET: Final = re.compile(r"secret|password|passwd|token|api_?key|access_?key|credential", re.IGNORECASE)
_SIGNED: Final = re.compile(
    r"(?<=://)[^/@\s]+@|\?[^\s]*(?:signature|sig|token|credential)=[^\s]*", re.IGNORECASE
)
_MAX_BYTES: Final = 16 * 1024 * 1024


def new_run_id() -> str:
    """Return a name for a run: sorts by start, and no two are equal."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


class RunRecord:
    """The record of one run in a collection.

    Args:
        store: The collection's root.
        run_id: From `new_run_id`.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self.run_id = run_id
        self._document: dict[str, Any] = {"run_id": run_id}

    @property
    def name(self) -> str:
        """Where the record lies in the collection."""
        return f"{RUNS_FOLDER}/{self.run_id}/{RUN_NAME}"

    def start(self, settings: Mapping[str, Any]) -> None:
        """Write the record of a run that begins.

        Args:
            settings: The resolved settings. Values of keys that sound like secrets are left out.
        """
        self._document = {
            "run_id": self.run_id,
            "state": "running",
            "started_at": _now(),
            "settings": without_secrets(settings),
            "versions": versions(),
        }
        self._save()

    def note(self, **settings: Any) -> None:
        """Add settings that were found out after the start; `finish` writes them."""
        self._document["settings"].update(without_secrets(settings))

    def finish(self, state: State, result: Mapping[str, Any]) -> None:
        """Write how the run ended.

        Args:
            state: How.
            result: Counts (listed, skipped, planned, deferred, tagged, failed), timings, table_version.
        """
        self._document.update(state=state, ended_at=_now(), result=without_secrets(result))
        self._save()

    def _save(self) -> None:
        text = json.dumps(self._document, ensure_ascii=False, indent=1, default=str)
        self._store.put(self.name, (text + "\n").encode("utf-8", "replace"))


def read_runs(store: Store) -> Iterator[dict[str, Any]]:
    """Yield every record of a collection, oldest first.

    Raises:
        RunError: A record cannot be read.
    """
    names = [
        info.name
        for page in store.list(f"{RUNS_FOLDER}/")
        for info in page
        if info.name.endswith(f"/{RUN_NAME}") and info.name.count("/") == 2
    ]
    for name in sorted(names):
        try:
            document = json.loads(store.read(name, max_bytes=_MAX_BYTES))
        except (ImageError, ValueError):
            raise RunError(f"{store.uri}/{name} cannot be read") from None
        if isinstance(document, dict):
            yield document


def without_secrets(value: Any) -> Any:
    """Return a copy of nested settings without what opens doors.

    >>> without_secrets({"endpoint": "http://me:word@host/x", "aws_secret_access_key": "s", "limit": 3})
    {'endpoint': 'http://host/x', 'aws_secret_access_key': '(left out)', 'limit': 3}
    """
    if isinstance(value, dict):
        return {
            str(key): "(left out)" if _SECRET.search(str(key)) and item else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [without_secrets(item) for item in value]
    return _SIGNED.sub("", value) if isinstance(value, str) else value


def versions() -> dict[str, str]:
    """Return the versions that decide results: Python, tagger and the packages it computes with."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
