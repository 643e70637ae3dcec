"""The images compared on a Ray cluster: the same file as from one process, and errors in one sentence."""

import csv
import subprocess
import sys

import pytest
from catalog_kit import DIM, rows, shop
from driving import tagger as command
from index_kit import vectors_of

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

IMAGES = 2_500  # three blocks


def test_the_same_file_comes_from_a_cluster(tmp_path):
    names = [f"{n:04}.jpg" for n in range(IMAGES)]
    opened = shop(tmp_path / "c", rows(names, vectors=vectors_of(IMAGES, dim=DIM, seed=3, clusters=9)))
    with (tmp_path / "in.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "image", "category"])
        out.writerows([n, name, f"kind {n % 9}"] for n, name in enumerate(names) if n % 7)  # not all images
    arguments = ("enrich", opened.uri, tmp_path / "in.csv", "--quiet", "--out")
    command(*arguments, tmp_path / "here.csv").require(0)
    command(*arguments, tmp_path / "there.csv", "--address", "local").require(0)
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


FAILING = """
from tagger.engine.pieces import in_pieces
from tagger.errors import RunError
from tagger.settings import load_settings

def make():
    def work(piece):
        if piece == 2:
            raise RunError("another index is served since this began: run the same command again")
        return b"x" * piece
    return work

try:
    list(in_pieces(make, 5, address=None, settings=load_settings()))
except RunError as error:
    print(error)
"""


def test_what_a_worker_says_reaches_the_user(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    words = [sys.executable, str(script)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "another index is served since this began: run the same command again"
    )
