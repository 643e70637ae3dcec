"""What `tagger` says about itself, and what it loads to say it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from driving import tagger

from tagger.demo import demo
from tagger.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {
    "demo",
    "tag",
    "retag",
    "failures",
    "check",
    "report",
    "index",
    "search",
    "recommend",
    "duplicates",
    "outliers",
    "enrich",
    "serve",
    "submit",
    "jobs",
    "models",
}
BELOW = {"jobs": {"list", "status", "logs", "stop"}}
LINES = sorted((COMMANDS - set(BELOW)) | {f"{group} {name}" for group in BELOW for name in BELOW[group]})
HEAVY = {"torch", "torchvision", "timm", "ray", "openvino", "faiss"}


def test_help_lists_the_commands_that_work() -> None:
    said = tagger("--help").require().stdout
    listed = re.findall(r"^  ([a-z]+)  +\S", said.partition("Commands:")[2], re.MULTILINE)
    assert set(listed) == COMMANDS
    assert "130" in said  # the exit codes are told


@pytest.mark.parametrize("group", sorted(BELOW))
def test_help_of_a_group_lists_its_commands(group: str) -> None:
    said = tagger(group, "--help").require().stdout
    assert set(re.findall(r"^  ([a-z]+)  +\S", said.partition("Commands:")[2], re.MULTILINE)) == BELOW[group]


@pytest.mark.parametrize("command", LINES)
def test_every_command_explains_itself_and_each_option(command: str) -> None:
    said = tagger(*command.split(), "--help").require()
    assert said.stderr == ""
    assert said.stdout.startswith(f"Usage: tagger {command}")
    options = said.stdout.partition("Options:")[2]
    assert "--json" in options
    entries = re.split(r"\n  (?=-)", options)[1:]
    assert entries
    unexplained = [
        entry for entry in entries if len(re.sub(r"^\S+( [A-Z=_0-9|\[\]a-z]+)?", "", entry).split()) < 2
    ]
    assert unexplained == []


def test_version_and_short_help() -> None:
    assert re.fullmatch(r"tagger, version \d+\.\d+\.\d+\n", tagger("--version").require().stdout)
    assert tagger("-h").require().stdout == tagger("--help").require().stdout


def _loaded(code: str) -> set[str]:
    """Return the top-level modules a program imports."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    return {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }


@pytest.mark.parametrize(
    "line", ["--help", "--version", "tag --help", "check --help", "submit --help", "no-such-command"]
)
def test_the_command_line_starts_light(line: str) -> None:
    code = f"import sys; sys.argv = ['tagger', *{line.split()!r}]\nfrom tagger.cli import main, tagger\n"
    code += "try:\n tagger.main(standalone_mode=False)\nexcept Exception:\n pass\nexcept SystemExit:\n pass"
    assert _loaded(code) & HEAVY == set()


def test_importing_the_package_loads_almost_nothing() -> None:
    assert _loaded("import tagger") & (HEAVY | {"boto3", "obstore", "pyarrow", "numpy", "click"}) == set()


def test_models_prints_the_zoo() -> None:
    said = tagger("models", "--json").require()
    models = said.json["models"]
    assert list(said.json) == ["models"]
    assert [model["name"] for model in models if model["default"]] == ["efficientnet_lite0"]
    assert all(set(model) == {"name", "input_px", "dim", "licence", "weights", "default"} for model in models)
    plain = tagger("models").require().stdout
    assert all(model["name"] in plain and model["licence"] in plain for model in models)


@pytest.mark.parametrize(
    "line", ["--no-such-option", "no-such-command", "tag", "tag --limt 3 a b", "check", "tag a b c"]
)
def test_a_slip_of_the_fingers_is_told_and_changes_nothing(line: str) -> None:
    said = tagger(*line.split()).require(2)
    assert said.stdout == ""
    assert len(re.findall(r"^(Error|tagger): ", said.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in said.stderr


def test_a_demo_in_a_file_is_told_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    said = tagger("demo", tmp_path / "README.md").require(2)
    assert said.sentence == f"{tmp_path}/README.md is a file: name a new or empty folder"
    for folder in (tmp_path / "README.md" / "demo", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"the demo cannot be put into .*\(.*\): name another folder"):
            demo(folder, say=print)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
