"""Where outputs go: never over a file that is not theirs, never in place of what is no file."""

import csv
import os

import pytest
from catalog_kit import rows, shop

from tagger.catalog import enrich
from tagger.errors import UsageError
from tagger.outfile import PendingFile
from tagger.report.writing import _write_file

LARGE = "x" * 40_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return shop(tmp_path_factory.mktemp("shop") / "c", rows(["0.jpg", "1.jpg"]))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def export(path, n):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Handle", "Title", "Body (HTML)", "Image Src"])
        out.writerows([f"p{one}", "Cup", LARGE, "https://cdn.example/0.jpg"] for one in range(n))


def test_a_further_file_replaces_only_that_of_an_earlier_run(opened, tmp_path):
    source, out, further = tmp_path / "in.csv", tmp_path / "o.csv", tmp_path / "o-2.csv"
    export(source, 400)
    further.write_text("a file of somebody\n")
    with pytest.raises(UsageError, match=r"further file .*o-2.csv, which is there and is not of an earlier"):
        enrich(opened, source, out, format="shopify")
    assert further.read_text() == "a file of somebody\n"
    assert names(tmp_path) == ["in.csv", "o-2.csv"]
    further.unlink()
    for _ in range(2):
        assert len(enrich(opened, source, out, format="shopify").files) == 2


@pytest.mark.parametrize("name", ["o-2.csv", "o-17.csv", "link.csv"])
def test_unmatched_names_and_further_files_have_different_names(opened, tmp_path, name):
    export(tmp_path / "in.csv", 1)
    (tmp_path / "link.csv").symlink_to("o-2.csv")
    with pytest.raises(UsageError, match=r"is the name of a further file of .*o.csv"):
        enrich(opened, tmp_path / "in.csv", tmp_path / "o.csv", format="shopify", unmatched=tmp_path / name)
    assert names(tmp_path) == ["in.csv", "link.csv"]


def test_only_files_are_written_and_links_are_followed(tmp_path):
    fifo, target, link = tmp_path / "pipe.csv", tmp_path / "x" / "target.csv", tmp_path / "link.csv"
    os.mkfifo(fifo)
    target.parent.mkdir()
    link.symlink_to(target)
    (tmp_path / "to_folder.csv").symlink_to(target.parent)
    for path, said in (
        (fifo, "it is a device or pipe"),
        ("/dev/null", "is a device or pipe"),
        (tmp_path / "to_folder.csv", "is a folder"),
    ):
        with pytest.raises(UsageError, match=said):
            PendingFile(tmp_path / path)
        with pytest.raises(UsageError, match=said):
            _write_file(tmp_path / path, b"x")
    for text in ("new", "over what is there"):
        file = PendingFile(link)
        file.part.write_text(text)
        file.publish()
        assert (target.read_text(), link.is_symlink()) == (text, True)
    _write_file(link, b"report")
    assert (target.read_text(), link.is_symlink()) == ("report", True)
    assert names(target.parent) == ["target.csv"]
