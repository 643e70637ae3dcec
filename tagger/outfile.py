"""Tables that people take away: a file that appears when it is complete, as CSV or Parquet."""

from __future__ import annotations

import contextlib
import csv
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.errors import RunError, UsageError
from tagger.spreadsheet import harmless_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS: Final = (".csv", ".parquet")


class OutFile:
    """A file of rows: under a temporary name beside its own until it is complete.

    A file that was there stays until then. In CSV, a cell that a spreadsheet would run as a formula gets an
    apostrophe in front (OWASP, CSV injection), and the line end is LF.

    Args:
        path: Where it is to be; its ending, `.csv` or `.parquet`, tells the format.
        schema: Its columns: text, numbers and truth values.

    Attributes:
        path: As given.
        rows: Written so far.

    Raises:
        UsageError: It ends otherwise, or nothing can be written there.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise UsageError(f"the output file must end in .parquet or .csv, got {str(path)!r}")
        try:
            is_folder = path.is_dir()
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; name another file") from None
        if is_folder:
            raise UsageError(f"{path} is a folder: name a file to write")
        self.rows = 0
        self.path = path
        self._part = path.with_name(f".tagger-{uuid.uuid4().hex[:8]}.part")  # no longer than names may be
        try:
            self._part.touch()
        except OSError as error:
            raise UsageError(f"nothing can be written to {path.parent}: {error.strerror}") from None
        is_csv = path.suffix.lower() == ".csv"
        self._writer = _Csv(self._part, schema) if is_csv else _parquet(self._part, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self._part.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Append rows of the schema.

        Raises:
            RunError: The disk is full.
        """
        self.rows += len(table)
        with self._explained():
            self._writer.write_table(table)

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            RunError: The disk is full.
        """
        with self._explained():
            self._writer.close()
            with self._part.open("rb") as file:
                os.fsync(file.fileno())
            self._part.replace(self.path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror or error}; free some space there and "
                "run the same command again"
            ) from None


@contextlib.contextmanager
def out_file(path: str | Path | None, schema: pa.Schema) -> Iterator[OutFile | None]:
    """Give the file to write, and publish it at the end; or None where none was asked for.

    Raises:
        UsageError, RunError: As for `OutFile`.
    """
    if path is None:
        yield None
        return
    refuse_to_overwrite(path)
    with OutFile(Path(path), schema) as file:
        yield file
        file.publish()


def refuse_to_overwrite(out: str | Path, **given: str | Path | None) -> None:
    """Check the paths of a command.

    Args:
        out: The file it is to write.
        given: Those it reads, by the names they have in messages.

    Raises:
        UsageError: A path cannot be one, or the output is one of the files that are read.
    """
    for name, path in (("out", out), *given.items()):
        try:
            possible = path is None or b"\0" not in os.fsencode(path)
        except UnicodeEncodeError:
            possible = False
        if not possible:
            raise UsageError(f"{name} is {str(path)!r}, which no file can be named: give another path")
    for name, path in given.items():
        with contextlib.suppress(OSError):  # what is not there is told by who opens it
            if path is not None and Path(out).samefile(path):
                raise UsageError(
                    f"the output file {out} is the {name} file, which it would replace: name another file"
                )


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)


class _Csv:
    """Writes tables as CSV that no spreadsheet runs."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        # Of the two, csv quotes only what is in the line end, and readers take either for one.
        self._csv = csv.writer(self, lineterminator="\r\n")
        self._csv.writerow(schema.names)

    def write(self, line: str) -> None:
        """Append a line that ends in CR LF, ended by LF."""
        self._file.write(f"{line[:-2]}\n")

    def write_table(self, table: pa.Table) -> None:
        """Append rows."""
        columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
        self._csv.writerows(zip(*columns, strict=True))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return harmless_cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}"
    return "" if value is None else value
