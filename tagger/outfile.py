"""Tables that people take away: a file that appears when it is complete, as CSV or Parquet."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.errors import RunError, UsageError
from tagger.spreadsheet import csv_writer, harmless_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS: Final = (".csv", ".parquet")


class PendingFile:
    """A file under a temporary name beside its own until it is complete; what was there stays until then.

    Args:
        path: Where it is to be; a link leads to the file that is written.

    Attributes:
        path: As given.
        part: Where it is until then.

    Raises:
        UsageError: Nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = file_to_write(path)
        # No longer than names may be.
        self.part = self._target.with_name(f".tagger-{uuid.uuid4().hex[:8]}.part")
        try:
            self.part.touch()
        except OSError as error:
            raise UsageError(f"nothing can be written to {self.part.parent}: {error.strerror}") from None

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            RunError: The disk is full.
        """
        with self.explained():
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
            self.part.replace(self._target)

    def discard(self) -> None:
        """Remove what was written, unless it has its name."""
        self.part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of writing into sentences.

        Raises:
            RunError: The disk is full.
        """
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror or error}; free some space there and "
                "run the same command again"
            ) from None


def file_to_write(path: Path) -> Path:
    """Return the file that a path leads to, through links: one that is there, or can be.

    Raises:
        UsageError: It is a folder, a device, a pipe or the like, which a file would take the place of.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the latter is told by who writes there
        mode = stat.S_IFREG
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another file") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise UsageError(f"{path} cannot be written: it is {what}; name a file")
    return Path(os.path.realpath(path))


class OutFile:
    """A file of rows, whole or not at all.

    In CSV, a cell that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV
    injection), and the line end is LF.

    Args:
        path: Where it is to be; its ending, `.csv` or `.parquet`, tells the format.
        schema: Its columns: text, numbers and truth values.

    Attributes:
        rows: Written so far.

    Raises:
        UsageError: It ends otherwise, or nothing can be written there.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise UsageError(f"the output file must end in .parquet or .csv, got {str(path)!r}")
        self.rows = 0
        self._file = PendingFile(path)
        is_csv = path.suffix.lower() == ".csv"
        self._writer = _Csv(self._file.part, schema) if is_csv else _parquet(self._file.part, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self._file.discard()

    def write(self, table: pa.Table) -> None:
        """Append rows of the schema.

        Raises:
            RunError: The disk is full.
        """
        self.rows += len(table)
        with self._file.explained():
            self._writer.write_table(table)

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            RunError: The disk is full.
        """
        with self._file.explained():
            self._writer.close()
        self._file.publish()


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


def refuse_to_overwrite(out: str | Path, /, **given: str | Path | None) -> None:
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
        self._csv = csv_writer(self._file)
        self._csv.writerow(schema.names)

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
