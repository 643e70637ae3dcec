"""What is written for spreadsheets."""

import csv
from typing import Any, Final, TextIO

FORMULA_SIGNS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
"""With what a cell begins that a spreadsheet may run (OWASP, CSV injection, read 2026-11-25); the last four
are the full-width forms of the first."""


def harmless_cell(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula.

    >>> harmless_cell("=1+1.jpg"), harmless_cell("cat.jpg")
    ("'=1+1.jpg", 'cat.jpg')
    """
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text


def csv_writer(file: TextIO, *, delimiter: str = ",", line_end: str = "\n") -> Any:
    """Return a writer of `csv` that quotes every cell with a line end in it, whichever that is.

    That of Python's csv quotes only the line ends that it writes itself, and a reader takes either for one.
    """
    return csv.writer(_Lines(file, line_end), delimiter=delimiter, lineterminator="\r\n")


class _Lines:
    def __init__(self, file: TextIO, line_end: str) -> None:
        self._file = file
        self._end = line_end

    def write(self, line: str) -> None:
        self._file.write(line[:-2] + self._end)
