"""Which tags of which images people accepted or rejected: kept in a file, to which is only ever appended.

The file is CSV with `image_id,tag,value`: 1 is accepted, 0 rejected, and empty takes back what was decided;
of several lines the last counts. A cell that begins like a formula, or with an apostrophe, has an apostrophe
in front of it.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tagger.errors import RunError, UsageError
from tagger.spreadsheet import FORMULA_SIGNS, csv_writer, harmless_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

HEADER: Final = ("image_id", "tag", "value")
MOST_TAG: Final = 200
"""Characters of a tag."""

_HEADER: Final = b"image_id,tag,value\n"
_MARK: Final = b"\xef\xbb\xbf"  # of UTF-8, which Excel writes
_VALUES: Final[dict[str, int | None]] = {"0": 0, "1": 1, "": None}
_BLOCK_ROWS: Final = 2000
_CELL: Final = rb'(?:"(?:[^"]|"")*"|[^",\n][^,\n]*)?'
_RECORD: Final = re.compile(_CELL + rb"(?:," + _CELL + rb")*\n")
_TORN: Final = re.compile(_CELL + rb"(?:," + _CELL + rb')*(?:,?"(?:[^"]|"")*)?')
_MOST_LINE_ENDS: Final = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """One line.

    Attributes:
        image_id: Of an image.
        tag: A word.
        value: 1 if the image shows it, 0 if not, None for what is no longer decided.
    """

    image_id: str
    tag: str
    value: int | None


class Decisions:
    """The decisions in a file. Threads share it; another process cannot have the same file.

    Args:
        path: The file; it is made if it is not there.

    Attributes:
        version: Changes with every decision.

    Raises:
        UsageError: The file holds something else, cannot be read or written, or another server has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, int]] = {}
        self._count = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another server keeps its decisions in {path}: name another file with --decisions"
                ) from None
            self._size = self._load()
        except OSError as error:
            os.close(self._file)
            raise _unusable(path, error) from None
        except UsageError:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def keep(self, given: Iterable[Decision]) -> list[Decision]:
        """Keep decisions: when this returns they are on the disk.

        Returns:
            What held before of those that changed something, in their order.

        Raises:
            RunError: They cannot be written; then none of them counts.
        """
        with self._lock:
            wanted = {(one.image_id, one.tag): one for one in given}
            before = [
                Decision(image_id, tag, was)
                for (image_id, tag), one in wanted.items()
                if (was := self._values.get(image_id, {}).get(tag)) != one.value
            ]
            changed = [wanted[one.image_id, one.tag] for one in before]
            if changed:
                self._append(_lines(changed))
                for one in changed:
                    self._put(one)
                self.version += 1
            return before

    def of(self, image_id: str) -> dict[str, int]:
        """Return what was decided of an image: 0 or 1 by tag."""
        with self._lock:
            return dict(self._values.get(image_id, {}))

    def images(self) -> list[str]:
        """Return the images of which anything was decided."""
        with self._lock:
            return list(self._values)

    def label_file(self) -> Iterator[str]:
        """Yield the decisions as CSV, `image_id,tag,value`, sorted; no cell runs as a formula."""
        with self._lock:
            rows = sorted(
                (image_id, tag, v) for image_id, tags in self._values.items() for tag, v in tags.items()
            )
        out = io.StringIO()
        writer = csv_writer(out)
        writer.writerow(HEADER)
        for start in range(0, max(len(rows), 1), _BLOCK_ROWS):
            for image_id, tag, value in rows[start : start + _BLOCK_ROWS]:
                writer.writerow([harmless_cell(image_id), harmless_cell(tag), value])
            yield out.getvalue()
            out.seek(0)
            out.truncate()

    def _put(self, one: Decision) -> None:
        tags = self._values.setdefault(one.image_id, {})
        self._count -= len(tags)
        if one.value is None:
            tags.pop(one.tag, None)
        else:
            tags[one.tag] = one.value
        self._count += len(tags)
        if not tags:
            del self._values[one.image_id]

    def _append(self, data: bytes) -> None:
        """Write behind what is there, whole or not at all."""
        if self._size == 0:
            data = _HEADER + data
        self._require_unchanged()
        try:
            _write(self._file, data, self._size)
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # the next one overwrites it, or the next server repairs it
                os.ftruncate(self._file, self._size)
            raise RunError(
                f"the decisions cannot be written to {self.path.name} ({error.strerror or error}): free some "
                "space there, and decide again"
            ) from None
        self._size += len(data)

    def _require_unchanged(self) -> None:
        """Raise if another program saved the file, or put one in its place: what comes would be lost."""
        mine = os.fstat(self._file)
        try:
            found = self.path.stat()
        except OSError:
            found = None
        same = found is not None and (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
        if not same or mine.st_size != self._size:
            raise RunError(
                f"the decisions in {self.path.name} were changed or replaced by another program: start "
                "tagger serve again, which reads them, and decide again"
            )

    def _load(self) -> int:
        """Read the file, and cut off what was not written to its end; returns its size."""
        data = _read(self._file)
        if _HEADER.startswith(data):  # new, or not even the header was written
            os.ftruncate(self._file, 0)
            return 0
        whole, rest = _cut(data)
        lacks_end = _is_whole(rest)
        lines = iter(_records((data if lacks_end else whole).removeprefix(_MARK)) or [[]])
        if tuple(next(lines)) != HEADER:
            raise UsageError(
                f"{self.path} holds no decisions, it does not begin with {','.join(HEADER)}: name another "
                "file with --decisions"
            )
        for number, cells in enumerate(lines, 2):
            if not cells:
                continue
            if len(cells) != 3 or cells[2].strip() not in _VALUES or not cells[0] or not cells[1]:
                raise UsageError(
                    f"line {number} of {self.path} is no decision, which is an image_id, a tag and 0 or 1: "
                    "correct it, or name another file with --decisions"
                )
            self._put(Decision(_plain(cells[0]), _plain(cells[1]), _VALUES[cells[2].strip()]))
        # Only now, when it is sure that the file is ours.
        if lacks_end:
            _write(self._file, b"\n", len(data))
            return len(data) + 1
        if rest and not _is_torn(rest):
            number = whole.count(b"\n") + 1
            raise UsageError(
                f"line {number} of {self.path} has a quote that is no part of CSV: correct it, or name "
                "another file with --decisions"
            )
        if rest:
            os.ftruncate(self._file, len(whole))
        return len(whole)


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """Return the whole records of CSV, which end in a line end outside quotes, and what is behind them."""
    end = 0
    while (record := _RECORD.match(data, end)) is not None:
        end = record.end()
    return data[:end], data[end:]


def _is_torn(rest: bytes) -> bool:
    """Tell whether this is the beginning of a record, as a server leaves it that is killed while it writes.

    A name may have line ends, in quotes; many of them are a quote that somebody forgot.
    """
    return _TORN.fullmatch(rest) is not None and rest.count(b"\n") <= _MOST_LINE_ENDS


def _is_whole(rest: bytes) -> bool:
    """Tell whether a last line lacks nothing but its end: what follows 0 or 1 is nothing else."""
    found = _records(rest)
    return len(found) == 1 and len(found[0]) == len(HEADER) and found[0][2] in {"0", "1"}


def _records(data: bytes) -> list[list[str]]:
    """Return the cells of CSV; none for what cannot be read, which is then no decision."""
    try:
        return list(csv.reader(io.StringIO(data.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error):
        return []


def _lines(decisions: list[Decision]) -> bytes:
    out = io.StringIO()
    writer = csv_writer(out)
    for one in decisions:
        value = "" if one.value is None else one.value
        writer.writerow([_marked(one.image_id), _marked(one.tag), value])
    return out.getvalue().encode()


def _marked(text: str) -> str:
    """Return a text as it stands in the file; unlike `harmless_cell`, it can be undone.

    >>> [_plain(_marked(text)) for text in ("=1+1.jpg", "'=1+1.jpg", "cat.jpg")]
    ['=1+1.jpg', "'=1+1.jpg", 'cat.jpg']
    """
    return f"'{text}" if text.startswith((*FORMULA_SIGNS, "'")) else text


def _plain(text: str) -> str:
    return text.removeprefix("'")


def _read(file: int) -> bytes:
    size = os.fstat(file).st_size
    parts, at = [], 0
    while at < size:
        part = os.pread(file, 16 << 20, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written


def _unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"decisions cannot be kept in {path} ({error.strerror or error}): name another file with --decisions"
    )
