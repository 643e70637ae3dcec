"""Names, shell lines, addresses, and the rule that says which end of a job is worth another attempt."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagger.cluster.address import parse_address
from tagger.cluster.entry import (
    attempt_id,
    entry_point,
    fresh_id,
    parse_env,
    require_id,
    require_new_id,
    split_attempt,
)
from tagger.cluster.following import Log
from tagger.cluster.job import Job, without
from tagger.cluster.rule import FIRST_PAUSE_S, judge, pause_s, told
from tagger.collection.lease import TTL_S
from tagger.errors import UsageError

FAILED = Job("nightly", "FAILED", "nightly", 1, ("tag", "a", "b"), "python -m tagger tag a b")
ODD = [
    "",
    " ",
    "a b",
    "it's",
    '"',
    "$(touch x)",
    "`x`",
    ";",
    "&",
    "a\nb",
    "\t",
    "😀",
    "*",
    "~",
    "--",
    "-x",
    "\\",
    "#",
]


def test_a_fresh_id_can_be_read_and_is_new() -> None:
    now = datetime(2026, 11, 30, 15, 30, 12, tzinfo=UTC)
    ids = {fresh_id("tag", now) for _ in range(20)}
    assert len(ids) > 15
    for one in ids:
        assert re.fullmatch(r"tag-20261130-153012-[0-9a-f]{4}", one)
        require_new_id(one)


@pytest.mark.parametrize(
    "base", ["", "a/b", "a b", "-x", ".x", "x" * 101, "é", "a\n", "a?b", "a%2Fb", "nightly.2"]
)
def test_ids_that_cannot_be(base: str) -> None:
    with pytest.raises(UsageError):
        require_new_id(base)


def test_attempts_have_names_that_lead_back() -> None:
    for attempt in (1, 2, 12):
        assert split_attempt(attempt_id("v1.nightly", attempt)) == ("v1.nightly", attempt)
        require_id(attempt_id("v1.nightly", attempt))


def _through_a_shell(command: list[str]) -> list[str]:
    """Return the arguments of tagger as a shell passes them on."""
    line = entry_point(command)
    assert line.startswith("exec python -m tagger ")
    printf = shutil.which("printf")
    done = subprocess.run(
        ["sh", "-c", line.replace("python -m tagger", f"{printf} '%s\\0'", 1)],
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().split("\0")[:-1]


def test_every_argument_passes_a_shell_unchanged() -> None:
    assert _through_a_shell(["tag", *ODD]) == ["tag", *ODD]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), min_size=1))
def test_any_argument_passes_a_shell_unchanged(command: list[str]) -> None:
    assert _through_a_shell(["tag", *command]) == ["tag", *command]


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(UsageError, match=r"b'caf\\xe9' is not valid UTF-8 .*%XX"):
        entry_point(["tag", b"caf\xe9".decode(errors="surrogateescape"), "c"])


def test_variables_come_from_the_option_or_from_here() -> None:
    given_ = ["A=1", "B", "C=", "D=x=y", "E=5$ and $ 6"]
    assert parse_env(given_, {"B": "b"}) == {"A": "1", "B": "b", "C": "", "D": "x=y", "E": "5$ and $ 6"}


@pytest.mark.parametrize(
    "entry", ["=s3cret", "a-b=s3cret", "1=s3cret", "NOT_SET", "A=s3cret$HOME", "A=${s3cret}"]
)
def test_variables_that_are_refused_without_showing_a_value(entry: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_env([entry], {})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("10.0.0.5:6379", "http://10.0.0.5:8265"),
        ("http://10.0.0.5:6379", "http://10.0.0.5:8265"),
        ("ray://head.example.com:10001", "http://head.example.com:8265"),
        ("head.example.com", "http://HOST:8265"),
        ("auto", "http://HOST:8265"),
        ("http://", "http://HOST:8265"),
        ("http://h:99999", "8265"),
        ("http://h:8265/?x=1", "8265"),
        ("ftp://h:8265", "http://h:8265"),
        ("http://[::1:8265", "8265"),
    ],
)
def test_addresses_that_are_no_job_servers(address: str, part: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_address(address)
    assert part in str(refused.value)


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(UsageError) as refused:
        parse_address("http://user:s3cret@127.0.0.1:8265")
    assert "s3cret" not in str(refused.value)


def test_addresses_of_job_servers() -> None:
    for address in (
        "http://127.0.0.1:8265",
        "https://ray.example.com",
        "https://example.com/ray",
        "http://[::1]:8265",
    ):
        assert parse_address(address + "/") == address


def test_the_first_pause_outlasts_the_lease_of_a_killed_driver() -> None:
    assert FIRST_PAUSE_S > TTL_S
    assert [pause_s(n) for n in (1, 2, 3, 4, 5, 50)] == [25, 50, 100, 200, 300, 300]


@pytest.mark.parametrize("code", [0, 2, 3, 126, 127, 130, 15, 64])
def test_codes_that_are_final(code: int) -> None:
    assert (
        judge(replace(FAILED, exit_code=code), []).again,
        judge(replace(FAILED, exit_code=code), []).exit_code,
    ) == (
        "no",
        code,
    )


@pytest.mark.parametrize(
    ("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (-11, "SIGSEGV"), (143, "SIGTERM")]
)
def test_a_killed_driver_is_worth_another_attempt(code: int, name: str) -> None:
    verdict = judge(replace(FAILED, exit_code=code), ["tagger: of an earlier time"])
    assert (verdict.again, verdict.exit_code, verdict.why) == ("yes", 1, f"was killed by {name}")


@pytest.mark.parametrize(
    ("error_type", "again"),
    [
        ("JOB_SUPERVISOR_ACTOR_DIED", "yes"),
        ("JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "yes"),
        (None, "yes"),
        ("RUNTIME_ENV_SETUP_FAILURE", "once"),
    ],
)
def test_a_job_without_exit_code(error_type: str | None, again: str) -> None:
    verdict = judge(replace(FAILED, error_type=error_type, message="Node died.\nmore"), [])
    assert (verdict.again, verdict.exit_code) == (again, 1)
    assert verdict.why.endswith("Node died.")


def test_a_job_that_the_server_no_longer_knows() -> None:
    assert judge(None, []).again == "yes"


def test_a_stopped_job_is_interrupted_and_final() -> None:
    verdict = judge(replace(FAILED, status="STOPPED"), ["tagger: interrupted"])
    assert (verdict.again, verdict.exit_code) == ("no", 130)


def test_a_done_job() -> None:
    verdict = judge(replace(FAILED, status="SUCCEEDED", exit_code=0), [])
    assert (verdict.again, verdict.exit_code) == ("no", 0)


TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: no", ""]


@pytest.mark.parametrize(
    ("lines", "again", "why"),
    [
        (["tagger: the store does not answer"], "yes", "failed: the store does not answer"),
        (['{"error": "no answer", "exit_code": 1}', ""], "yes", "failed: no answer"),
        (TRACEBACK, "once", "bug: ValueError: no"),
        (["something"], "once", "no reason"),
        ([], "once", "no reason"),
        (["python: No module named tagger"], "no", "--working-dir"),
    ],
)
def test_exit_code_1_tells_a_failed_run_from_a_bug(lines: list[str], again: str, why: str) -> None:
    verdict = judge(replace(FAILED, exit_code=1), lines)
    assert (verdict.again, verdict.exit_code) == (again, 1)
    assert why in verdict.why


def test_what_a_command_said_at_its_end() -> None:
    assert told(["tagger: first", "tagger: last", json.dumps({"rows": 3}), "{broken", "[1]"]) == "last"
    assert told(["nothing"]) is None


def test_a_log_that_comes_again_is_shown_once() -> None:
    whole = "one\ntwo\n\nthree 😀\nfour"
    for cut in range(len(whole)):
        shown: list[str] = []
        log = Log(shown.append)
        for upto in (cut, cut // 2, len(whole)):
            log.rewind()
            for i in range(0, upto, 3):
                log.add(whole[i : min(i + 3, upto)])
        log.end()
        assert shown == whole.split("\n") == list(log.last_lines)


def test_secrets_in_a_text() -> None:
    assert without("a token=abc, abcdef", ["abc", "abcdef", ""]) == "a token=***, ***"
    assert without(None, ["x"]) is None
