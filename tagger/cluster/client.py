"""The job server of a Ray cluster, asked with Ray's own client; whatever goes wrong becomes a sentence."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tagger.cluster.entry import split_attempt
from tagger.errors import ClusterUnavailable, RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from tagger.settings import Settings

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8265"

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_UPLOAD_S: Final = 600.0
_ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_TOKEN: Final = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on the cluster"  # noqa: S105
_STOP_WAIT_S: Final = 30
"""How long a stopped command may take to put away its lease and what it has in hand; Ray gives it 3 s."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at a command, as the job server knows it.

    Attributes:
        submission_id: Its id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        base: The id that all attempts at the command share.
        attempt: Number of the attempt, from 1.
        command: The arguments of tagger; None if the job was not made by `tagger submit`.
        entry_point: The shell line that runs.
        exit_code: Of the command; None unless it ended by itself, negative if a signal killed it.
        error_type, message: What Ray says about its end.
        started_s, ended_s: Unix times.
    """

    submission_id: str
    status: str
    base: str
    attempt: int
    command: tuple[str, ...] | None
    entry_point: str
    exit_code: int | None = None
    error_type: str | None = None
    message: str | None = None
    started_s: float | None = None
    ended_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status in _ENDED

    @classmethod
    def of(cls, details: Any) -> Job:
        """Return a job from Ray's JobDetails, without its variables: those may be secret."""
        submission_id = details.submission_id or details.job_id
        metadata = details.metadata or {}
        base, attempt = split_attempt(submission_id)
        command = None
        if "tagger_command" in metadata:
            command = tuple(json.loads(metadata["tagger_command"]))
            base, attempt = metadata["tagger_id"], int(metadata["tagger_attempt"])
        secrets = ((details.runtime_env or {}).get("env_vars") or {}).values()
        return cls(
            submission_id=submission_id,
            status=str(details.status.value),
            base=base,
            attempt=attempt,
            command=command,
            entry_point=details.entrypoint,
            exit_code=details.driver_exit_code,
            error_type=details.error_type,
            message=without(details.message, secrets),
            started_s=details.start_time / 1000 if details.start_time else None,
            ended_s=details.end_time / 1000 if details.end_time else None,
        )


class AlreadyThere(Exception):
    """Somebody else has submitted a job with this id a moment ago; the text is the id."""


class JobClient:
    """Submits jobs to one cluster, asks after them, stops them.

    Args:
        address: Of the job server, `http://HOST:PORT`; None takes that of the environment, or this machine's.
        settings: What the environment says.

    Raises:
        UsageError: The address is no job server's, the cluster is beyond loopback and no token is set, the
            token is refused, or another version of Ray runs there.
        ClusterUnavailable: Nobody answers.
    """

    def __init__(self, address: str | None, settings: Settings) -> None:
        from tagger.engine.session import require_token

        self.address = parse_address(address or settings.job_address or DEFAULT_ADDRESS)
        parts = urlsplit(self.address)
        require_token(f"{parts.scheme}://{parts.hostname}:{parts.port or 0}", settings)
        with _explained(self.address):
            self._ray = _ray_client(self.address)
            version = self._ray.server_version()
        self._require_version(version)

    def _require_version(self, version: str) -> None:
        import ray

        if version.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise UsageError(
                f"the cluster at {self.address} runs Ray {version}, here is Ray {ray.__version__}: install "
                "the same version on both (see constraints.txt)"
            )

    def find(self, submission_id: str) -> Job | None:
        """Return a job by its exact id; None if the server knows none."""
        with _explained(self.address):
            try:
                return Job.of(self._ray.get_job_info(submission_id))
            except _Refused as refused:
                if refused.status == 404:
                    return None
                raise

    def jobs(self) -> list[Job]:
        """Return all submitted jobs, newest first."""
        with _explained(self.address):
            jobs = [Job.of(details) for details in self._ray.list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: (job.started_s or 0, job.attempt), reverse=True)

    def newest(self, base: str) -> Job | None:
        """Return the newest attempt of an id; None if there is no such job."""
        attempts = [job for job in self.jobs() if job.base == base]
        return max(attempts, key=lambda job: job.attempt, default=None)

    def require(self, name: str) -> Job:
        """Return the job that a person means: the newest attempt of an id, or that of an exact one.

        Raises:
            UsageError: There is no such job.
        """
        job = self.newest(name) or self.find(name)
        if job is None:
            raise UsageError(f"no job {name} at {self.address}: see `tagger jobs list`")
        return job

    def submit(
        self,
        submission_id: str,
        entry_point: str,
        *,
        metadata: dict[str, str],
        working_dir: str | None,
        env: Mapping[str, str],
    ) -> None:
        """Start a job.

        Args:
            submission_id: Its id.
            entry_point: The shell line to run.
            metadata: Kept with the job, for all to see.
            working_dir: Folder to upload and run in.
            env: Variables of the job; the cluster's users can see them.

        Raises:
            AlreadyThere: A job has this id.
            UsageError: The folder is too large.
        """
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S), **env}}
        if working_dir is not None:
            runtime_env["working_dir"] = working_dir
        with _explained(self.address, env.values()):
            try:
                self._ray.submit_job(
                    entrypoint=entry_point,
                    submission_id=submission_id,
                    runtime_env=runtime_env,
                    metadata=metadata,
                )
            except (_Refused, RuntimeError, ValueError) as error:
                text = str(error)
                if "already exists" in text:
                    raise AlreadyThere(submission_id) from None
                if "exceeds the maximum size" in text or "Maximum request body size" in text:
                    raise UsageError(_too_large(working_dir)) from None
                if isinstance(error, _Refused) and error.status == 413:
                    raise UsageError(_too_large(working_dir)) from None
                raise

    def stop(self, submission_id: str) -> bool:
        """Ask a job to stop; tells whether it was running."""
        with _explained(self.address):
            return bool(self._ray.stop_job(submission_id))

    def logs(self, submission_id: str) -> str:
        """Return all that a job has printed so far."""
        with _explained(self.address):
            return str(self._ray.get_job_logs(submission_id))

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Return what a job prints, from its first character on, as it comes; raises what aiohttp raises."""
        return self._ray.tail_job_logs(submission_id)  # type: ignore[no-any-return]


def parse_address(address: str) -> str:
    """Return the address of a job server without a slash at its end.

    >>> parse_address("http://10.0.0.5:8265/")
    'http://10.0.0.5:8265'

    Raises:
        UsageError: It is another kind of address; the text says which one is needed.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if (
        parts.scheme in ("http", "https")
        and host
        and not (parts.query or parts.fragment or "@" in parts.netloc)
    ):
        if port == 6379:
            raise UsageError(f"{_shown(address)} is the port of Ray's own processes: {_where(host)}")
        return address.rstrip("/")
    if "@" in address:
        raise UsageError("a job server's address has no user and password: Ray's token takes their place")
    name = address.split("://", 1)[-1].rpartition(":")[0].strip("/") or "HOST"
    if parts.scheme == "ray":
        raise UsageError(f"{_shown(address)} is an address of the Ray client: {_where(name)}")
    raise UsageError(f"{_shown(address)} is no address of a job server: {_where(name)}")


def _where(host: str) -> str:
    return f"jobs are submitted to the dashboard's, such as http://{host}:8265"


def _shown(address: str) -> str:
    return address[:200]


def without(text: str | None, secrets: Sequence[str] | Any) -> str | None:
    """Return a text with every secret in it made unreadable.

    >>> without("no such key: hunter2", ["hunter2", ""])
    'no such key: ***'
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text and text.replace(secret, "***")
    return text


def _too_large(working_dir: str | None) -> str:
    return (
        f"{working_dir} is too large to upload: the job server takes 100 MiB. List what a job does not need "
        "in .rayignore or .gitignore, or install tagger on the cluster and leave --working-dir out"
    )


class _Refused(Exception):
    """The job server answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _NotRay(Exception):
    """Whoever answers is no job server."""


def _ray_client(address: str) -> Any:
    """Return Ray's client, told to give up on a silent server and to raise errors with their status."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        def server_version(self) -> str:
            """Ask who is there."""
            answer = self._do_request("GET", "/api/version", allow_redirects=False)
            if answer.status_code >= 500:
                raise _Refused(answer.status_code, answer.text)
            try:
                return str(answer.json()["ray_version"])
            except (ValueError, KeyError, TypeError):
                raise _NotRay from None

        def _check_connection_and_version_with_url(self, *_: Any, **__: Any) -> None:
            """Is done once, by `server_version`."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            patience = _UPLOAD_S if method == "PUT" else _ANSWER_S
            return super()._do_request(method, endpoint, timeout=(_CONNECT_S, patience), **options)

        def _raise_error(self, r: Any) -> None:
            raise _Refused(r.status_code, r.text)

    # Ray lets these variables override the address it is given, and RAY_ADDRESS may be that of the cluster.
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        return Client(address)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _explained(address: str, secrets: Any = ()) -> Iterator[None]:
    """Turn what Ray and requests raise into sentences."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        # The text of Ray's error is long and speaks of files of its own; a token is never part of ours.
        found = "was refused" if "Invalid" in str(error) else "is missing"
        raise UsageError(f"the cluster at {address} asks for a token, and it {found}: {_TOKEN}") from None
    except requests.exceptions.SSLError as error:
        raise UsageError(
            f"no TLS connection to {address} ({_first_line(error)}): check http or https, and the certificate"
        ) from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        late = isinstance(error, requests.exceptions.Timeout)
        raise ClusterUnavailable(
            f"{address} {'does not answer in time' if late else 'cannot be reached'}: is the cluster up, and "
            "is this the address of its dashboard from here? A tunnel must lead to that port, mostly 8265"
        ) from None
    except (_NotRay, requests.exceptions.JSONDecodeError):
        raise UsageError(f"{address} is not a Ray job server: {_where('HOST')}") from None
    except requests.exceptions.RequestException as error:
        raise UsageError(f"{address} cannot be asked: {_first_line(error)}") from None
    except _Refused as refused:
        text = without(_last_line(str(refused)), secrets)
        kind = ClusterUnavailable if refused.status >= 500 else RunError
        raise kind(f"the job server at {address} answers {refused.status}: {text}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:300]
