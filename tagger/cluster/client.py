"""The job server of a Ray cluster, asked with Ray's own client; whatever goes wrong becomes a sentence."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tagger.cluster.address import parse_address, where
from tagger.cluster.job import Job, without
from tagger.errors import ClusterUnavailable, RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from tagger.settings import Settings

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8265"

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_UPLOAD_S: Final = 600.0
_TOKEN: Final = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on the cluster"  # noqa: S105
_STOP_WAIT_S: Final = 30
"""How long a stopped command may take to put away its lease and what it has in hand; Ray gives it 3 s."""


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
            except _TooLarge as upload:
                raise UsageError(
                    f"{working_dir} is too large to upload: {upload}. List what a job does not need in "
                    ".rayignore or .gitignore, or install tagger on the cluster and leave --working-dir out"
                ) from None
            except _Refused as refused:
                if "already exists" in str(refused):
                    raise AlreadyThere(submission_id) from None
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


class _Refused(Exception):
    """The job server answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _TooLarge(Exception):
    """A folder is larger, packed, than a job server takes."""


class _NotRay(Exception):
    """Whoever answers is no job server."""


def _ray_client(address: str) -> Any:
    """Return Ray's client, told to give up on a silent server and to raise errors with their status."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
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
            size = len(options.get("data") or b"")
            if size >= DASHBOARD_CLIENT_MAX_SIZE:  # the server would break the connection, and say nothing
                packed, limit = f"{size / 2**20:,.0f}", f"{DASHBOARD_CLIENT_MAX_SIZE / 2**20:,.0f}"
                raise _TooLarge(f"packed it has {packed} MiB, the job server takes {limit}")
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
def _explained(address: str, secrets: Iterable[str] = ()) -> Iterator[None]:
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
        raise UsageError(f"{address} is not a Ray job server: {where('HOST')}") from None
    except requests.exceptions.RequestException as error:
        raise UsageError(f"{address} cannot be asked: {_first_line(error)}") from None
    except _Refused as refused:
        text = without(_last_line(str(refused)), secrets)
        if text is not None and "No available agent" in text:
            text += (
                " If it stays so, the head's job agent did not start: dashboard_agent.log there says why, "
                "mostly that its port is taken (`ray start --dashboard-agent-listen-port`)"
            )
        kind = ClusterUnavailable if refused.status >= 500 else RunError
        raise kind(f"the job server at {address} answers {refused.status}: {text}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:300]
