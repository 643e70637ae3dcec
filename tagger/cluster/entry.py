"""What a job is called, and the shell line that starts it."""

from __future__ import annotations

import re
import secrets
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tagger.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ATTEMPT: Final = re.compile(r"(.+)\.([1-9][0-9]*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPANDED: Final = re.compile(r"\$(\w|\{)", re.ASCII)


def fresh_id(command: str, now: datetime | None = None) -> str:
    """Return a new id that a person can read: command, second (UTC), something random.

    >>> fresh_id("tag", datetime(2026, 11, 30, 15, 30, 12))[:20]
    'tag-20261130-153012-'
    """
    return f"{command}-{now or datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def require_new_id(base: str) -> None:
    """Refuse what cannot be the id of a job, or would be taken for an attempt of another.

    Raises:
        UsageError: It is one of those.
    """
    require_id(base)
    if _ATTEMPT.fullmatch(base):
        raise UsageError(
            f"--id {base} ends like the number of an attempt: attempts of --id NAME are called NAME.2, NAME.3"
        )


def require_id(submission_id: str) -> None:
    """Refuse what cannot be the id of a job: ids are part of addresses and of the names of log files.

    Raises:
        UsageError: It has other characters, or too many.
    """
    if not _ID.fullmatch(submission_id):
        raise UsageError(
            f"{submission_id!r} cannot be a job's id: use up to 100 letters, digits, dots, _ and -, "
            "and begin with a letter or digit"
        )


def attempt_id(base: str, attempt: int) -> str:
    """Return what Ray is to call an attempt.

    >>> attempt_id("nightly", 1), attempt_id("nightly", 3)
    ('nightly', 'nightly.3')
    """
    return base if attempt == 1 else f"{base}.{attempt}"


def split_attempt(submission_id: str) -> tuple[str, int]:
    """Return the id and the number of an attempt.

    >>> split_attempt("nightly"), split_attempt("nightly.3")
    (('nightly', 1), ('nightly', 3))
    """
    found = _ATTEMPT.fullmatch(submission_id)
    return (found[1], int(found[2])) if found else (submission_id, 1)


def entry_point(command: Sequence[str]) -> str:
    r"""Return the line that a shell on the cluster runs, every argument as it was given.

    >>> print(entry_point(["tag", "s3://bucket/a b;$(c)", "'"]))
    exec python -m tagger tag 's3://bucket/a b;$(c)' ''"'"''

    Raises:
        UsageError: An argument is not text, so that it cannot travel in JSON.
    """
    for argument in command:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{argument.encode(errors='surrogateescape')!r} is not valid UTF-8 and cannot be sent to a "
                "cluster: rename it, or name its folder or a manifest (there such a name is written with %XX)"
            ) from None
    # The shell gives its place away: killed alone, it would leave a command behind that nobody knows of.
    return f"exec {shlex.join(['python', '-m', 'tagger', *command])}"


def parse_env(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job gets.

    Args:
        given: NAME=VALUE, or NAME for the value it has here.
        environ: The variables here.

    Raises:
        UsageError: A name cannot be one or is not set here, or Ray would change the value. No text holds a
            value.
    """
    variables = {}
    for entry in given:
        name, sign, value = entry.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise UsageError("--env must be NAME=VALUE or NAME, and a NAME has letters, digits and _ only")
        if name.startswith("RAY_"):
            raise UsageError(f"--env {name}: what Ray's processes share is set where the cluster is started")
        if name in variables:
            raise UsageError(f"--env {name} is given twice")
        if not sign:
            if name not in environ:
                raise UsageError(f"--env {name} takes the value of {name} here, where it is not set")
            value = environ[name]
        if _EXPANDED.search(value):
            raise UsageError(
                f"the value of --env {name} has a $ that Ray would take for a variable of the cluster: "
                "set it on the cluster"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the value of --env {name} is not valid UTF-8") from None
        variables[name] = value
    return variables
