"""LibreOffice opens the CSV and shows what a person expects."""

import shutil
import subprocess

import openpyxl
import pytest
from catalog_kit import rows, shop

from tagger.catalog import OURS, enrich

SOFFICE = shutil.which("soffice")

pytestmark = pytest.mark.skipif(SOFFICE is None, reason="LibreOffice is not installed")

TABLE = [
    ["sku", "Name", "Bild", "Preis", "Notiz"],
    ["A-1", "Täßchen «blau»", "a.jpg|b.jpg", "1,50", "zwei\nZeilen"],
    ["B-2", 'Teller "groß"', "b.jpg", "-3", "=1+1"],
    ["", "", "", "", ""],
    ["C-3", "Gabel", "gone.jpg", "12", "a;b"],
]


def opened_by_libreoffice(path, folder, *, delimiter):
    """The cells of a CSV file as LibreOffice reads it: UTF-8, this delimiter, everything else by default."""
    filters = f"Text - txt - csv (StarCalc):{ord(delimiter)},34,76,1"
    subprocess.run(
        [
            *(SOFFICE, f"-env:UserInstallation=file://{folder}/profile", "--headless", "--norestore"),
            *("--convert-to", "xlsx", f"--infilter={filters}", "--outdir", str(folder), str(path)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    sheet = openpyxl.load_workbook(folder / f"{path.stem}.xlsx").active
    return [[cell.value for cell in row] for row in sheet.iter_rows()]


@pytest.mark.parametrize(("encoding", "delimiter"), [("cp1252", ";"), ("utf-8", ",")])
def test_every_cell_is_where_it_belongs(tmp_path, encoding, delimiter):
    made = rows(["a.jpg", "b.jpg"])
    made[0]["tags"] = [{"tag": "=SUM(A1:A9)", "score": 0.9, "source": "tiny"}]
    made[1]["tags"] = [{"tag": "naïve", "score": 0.9, "source": "tiny"}]
    opened = shop(tmp_path / "c", made)
    lines = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in TABLE]
    (tmp_path / "in.csv").write_bytes("\r\n".join(lines).encode(encoding))
    enrich(opened, tmp_path / "in.csv", tmp_path / "out.csv")
    found = opened_by_libreoffice(tmp_path / "out.csv", tmp_path, delimiter=delimiter)
    assert found[0] == [*TABLE[0], *OURS.names]
    assert len(found) == len(TABLE)
    for row, own in zip(found[1:], TABLE[1:], strict=True):
        assert [row[n] or "" for n in (0, 1, 2)] == own[:3]
    assert found[1][4] == "zwei\nZeilen"
    assert found[2][3] == -3
    assert found[2][4] in ("=1+1", 2)  # the shop's own cell: what LibreOffice makes of it is not ours to say
    ours = {row[0]: dict(zip(OURS.names, row[5:], strict=True)) for row in found[1:]}
    assert ours["A-1"]["tags"].startswith("'=SUM(A1:A9); ")  # shown, and not run
    assert ours["B-2"]["tags"].startswith("naïve")
    assert ours["B-2"]["image_ids"] == "s3://shop/b.jpg"
    assert isinstance(ours["A-1"]["category_score"], float)
    assert ours["C-3"]["quality_flags"].startswith("image_missing: no image of the collection has this name")
    assert not any(
        isinstance(cell, str) and cell.startswith("=") for row in ours.values() for cell in row.values()
    )
