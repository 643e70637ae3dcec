"""`tagger submit` and `tagger jobs`: tagger commands as jobs on a Ray cluster."""

import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tagger.cli import print_json, printable, teller
from tagger.errors import UsageError

if TYPE_CHECKING:
    from tagger.cluster.client import JobClient
    from tagger.cluster.job import Job

_ADDRESS = click.option(
    "--address",
    metavar="URL",
    help="Job server.  [default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else http://127.0.0.1:8265]",
)
_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object; logs go to stderr."
)
_STOPPED_WITHIN_S = 60.0


class _Shown:
    """Shows the log of a job on stderr, and notes whether it says why a command failed."""

    has_reason = False

    def show(self, line: str) -> None:
        self.has_reason = self.has_reason or line.startswith("tagger: ")
        print(_plain(line), file=sys.stderr)


@click.command(context_settings={"allow_interspersed_args": False})
@_ADDRESS
@click.option(
    "--id",
    "base",
    help="Name of the job: the same again follows or resumes it.  [default: a new one, such as "
    "tag-20261130-153012-ab12]",
)
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path),
    help="Upload this folder and run in it.  [default: what is installed on the cluster]",
)
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="Variable of the job; may be repeated.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="More attempts that may be made.",
)
@click.option("--no-wait", is_flag=True, help="Submit and leave; nobody retries then.")
@_JSON
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def submit(
    *,
    address: str | None,
    base: str | None,
    working_dir: Path | None,
    env: tuple[str, ...],
    retries: int,
    no_wait: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Run a tagger COMMAND with its arguments as a job on a Ray cluster.

    Options of `submit` come before COMMAND, those of the command after it. What the job prints comes to
    stderr while it runs, its last line also to stdout, and its exit code is that of this command. A job that
    was lost, or failed in a way that it can go on from, is submitted again, as ID.2, ID.3 and so on. Ctrl-C
    leaves the job running.
    """
    from tagger.cluster.client import JobClient
    from tagger.cluster.entry import entry_point, fresh_id, parse_env, require_new_id
    from tagger.cluster.submitting import Submission, Wish
    from tagger.settings import load_settings, variables

    _require_command(command[0])
    entry_point(command)  # refuses what cannot be sent, before anything is asked
    if base is not None:
        require_new_id(base)
    folder = None if working_dir is None else _folder(working_dir)
    wish = Wish(base or fresh_id(command[0]), command, folder, parse_env(env, variables()))
    client = JobClient(address, load_settings())
    say = teller(quiet=False)
    log = _Shown()
    submission = Submission(client, wish, retries=retries, say=say, show=log.show)
    ended = submission.start() if no_wait else submission.run()
    if ended.error is not None:
        say(ended.error if log.has_reason else f"tagger: {ended.error}")
    if as_json:
        print_json(ended.to_json())
    elif no_wait:
        print(ended.submission_id)
    elif ended.last_line is not None and ended.error is None:
        print(_plain(ended.last_line))
    return ended.exit_code or 0


@click.group()
def jobs() -> None:
    """List, look at, follow and stop jobs on a Ray cluster.

    ID is what `tagger submit` said. It stands for the newest attempt; ID.2 for the second one.
    """


@jobs.command("list")
@_ADDRESS
@_JSON
def list_jobs(*, address: str | None, as_json: bool) -> int:
    """List the jobs that the cluster knows, newest first."""
    found = _client(address).jobs()
    if as_json:
        print_json({"jobs": [_record(job) for job in found]})
        return 0
    width = max((len(job.submission_id) for job in found), default=0)
    for job in found:
        print(
            printable(f"{job.submission_id:{width}}  {job.status:9}  {_started(job):20}  {_line(job)}"[:500])
        )
    if not found:
        print("no jobs")
    return 0


@jobs.command()
@click.argument("submission_id", metavar="ID")
@_ADDRESS
@_JSON
def status(*, submission_id: str, address: str | None, as_json: bool) -> int:
    """Tell how a job stands."""
    from tagger.cluster.rule import judge

    job = _job(_client(address), submission_id)
    if as_json:
        print_json({**_record(job), "message": job.message})
        return 0
    print(f"job      {job.submission_id} (attempt {job.attempt})")
    print(f"status   {job.status}" + ("" if job.exit_code is None else f", exit code {job.exit_code}"))
    print(f"command  {printable(_line(job))}")
    print(f"started  {_started(job)}")
    seconds = _seconds(job)
    if seconds is not None:
        print(f"took     {seconds:,.1f} s" if job.ended else f"runs     for {seconds:,.0f} s")
    if job.ended:
        print(f"why      it {printable(judge(job, (job.message or '').splitlines()).why[:500])}")
    return 0


@jobs.command()
@click.argument("submission_id", metavar="ID")
@click.option("--follow", "follows", is_flag=True, help="Go on until the job has ended.")
@_ADDRESS
@_JSON
def logs(*, submission_id: str, follows: bool, address: str | None, as_json: bool) -> int:
    """Print what a job has printed."""
    from tagger.cluster.following import Log, follow
    from tagger.errors import StillRunning

    client = _client(address)
    job = _job(client, submission_id)
    lines: list[str] = []
    say = teller(quiet=False)

    def show(line: str) -> None:
        if as_json:
            lines.append(line)
        print(_plain(line), file=sys.stderr if as_json else sys.stdout, flush=follows)

    log = Log(show)
    if follows:
        try:
            job = follow(client, job.submission_id, log, say) or job
        except KeyboardInterrupt:
            raise StillRunning(f"the job {job.submission_id} goes on") from None
        say(f"job {job.submission_id} is {job.status.lower()}")
    else:
        log.add(client.logs(job.submission_id))
        log.end()
    if as_json:
        print_json({"submission_id": job.submission_id, "status": job.status, "lines": lines})
    return 0


@jobs.command()
@click.argument("submission_id", metavar="ID")
@_ADDRESS
@_JSON
def stop(*, submission_id: str, address: str | None, as_json: bool) -> int:
    """Stop a job; what it has committed is kept, and submitted again it goes on from there."""
    client = _client(address)
    job = _job(client, submission_id)
    stopped = not job.ended and client.stop(job.submission_id)
    deadline = time.monotonic() + _STOPPED_WITHIN_S
    while stopped and not job.ended and time.monotonic() < deadline:
        time.sleep(0.5)
        job = client.find(job.submission_id) or job
    stopped = stopped and job.status == "STOPPED"
    if as_json:
        print_json({"submission_id": job.submission_id, "stopped": stopped, "status": job.status})
    elif stopped:
        print(f"stopped  {job.submission_id}")
    elif job.ended:
        print(f"job {job.submission_id} has ended already ({job.status})")
    else:
        print(f"job {job.submission_id} was asked to stop and is still {job.status.lower()}")
    return 0


def _require_command(name: str) -> None:
    """Raise for what no job can run, before anything is sent.

    Raises:
        UsageError: It is no command of tagger, or one that belongs here.
    """
    from tagger.cli import tagger

    if name in ("submit", "jobs"):
        raise UsageError(f"`tagger {name}` runs here, not on a cluster: submit another command")
    if name not in tagger.list_commands(click.get_current_context()):
        raise UsageError(f"{name!r} is no command of tagger: see `tagger --help`")


def _folder(path: Path) -> str:
    if not path.is_dir():
        raise UsageError(f"--working-dir {path} must be a folder")
    return str(path.resolve())


def _client(address: str | None) -> "JobClient":
    from tagger.cluster.client import JobClient
    from tagger.settings import load_settings

    return JobClient(address, load_settings())


def _job(client: "JobClient", submission_id: str) -> "Job":
    from tagger.cluster.entry import require_id

    require_id(submission_id)
    return client.require(submission_id)


def _record(job: "Job") -> dict[str, Any]:
    return {
        "submission_id": job.submission_id,
        "status": job.status,
        "attempt": job.attempt,
        "command": None if job.command is None else list(job.command),
        "entry_point": job.entry_point,
        "started": None if job.started_s is None else _started(job),
        "seconds": _seconds(job),
        "exit_code": job.exit_code,
    }


def _plain(line: str) -> str:
    return printable(line.expandtabs())


def _line(job: "Job") -> str:
    return job.entry_point if job.command is None else "tagger " + shlex.join(job.command)


def _started(job: "Job") -> str:
    return "" if job.started_s is None else f"{datetime.fromtimestamp(job.started_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(job: "Job") -> float | None:
    if job.started_s is None:
        return None
    return round((job.ended_s or time.time()) - job.started_s, 3)
