"""The docs say what the code does; what can be compared is compared."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import tagger
from tagger import errors
from tagger.cli import tagger as command_line
from tagger.cli.reference import reference

ROOT = Path(__file__).parents[2]
CONTEXT = click.Context(command_line, info_name="tagger")


def test_the_cli_reference_is_that_of_the_code():
    assert (ROOT / "docs/cli.md").read_text() == reference(), "run `make docs`"


@pytest.mark.parametrize("name", command_line.list_commands(CONTEXT))
def test_every_command_is_in_the_guide(name):
    assert f"tagger {name}" in (ROOT / "docs/guide.md").read_text()


def test_the_tree_in_errors_is_the_tree_of_classes():
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+)", errors.__doc__ or "", re.MULTILINE)
    by_depth: dict[int, str] = {}
    tree = {}
    for branch, name in drawn:
        depth = len(branch) // 4
        by_depth[depth] = name
        tree[name] = by_depth.get(depth - 1)
    classes = {
        name: one.__base__.__name__
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.TaggerError)
    }
    assert {name: base or "Exception" for name, base in tree.items()} == classes


def test_all_names_what_exists():
    for name in tagger.__all__:
        assert getattr(tagger, name) is not None


def test_importing_tagger_is_light():
    heavy = "torch", "ray", "openvino", "faiss", "pyarrow", "deltalake", "boto3"
    code = f"import sys, tagger, tagger.cli; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))], ids=str)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_decisions_are_short():
    for path in (ROOT / "docs/decisions").glob("*.md"):
        assert len(path.read_text().splitlines()) <= 40, path.name
