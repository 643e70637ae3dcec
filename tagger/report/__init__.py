"""The HTML report of a collection: one file that opens anywhere, offline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.collection import Collection
    from tagger.storage import StorageOptions

__all__ = ["ReportOptions", "ReportResult", "write_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """How much the report shows.

    Attributes:
        sheets: Contact sheets, of the most frequent tags; where these have few images, of categories. More
            make the file larger, by about 100 KB each.
        samples_per_sheet: Most pictures on a sheet.
        examples_per_reason: Most failed images named for each reason.
        outliers: Most images on the sheet of outliers, each with the picture of its nearest peer; 0
            leaves the sheet out.
        storage: How to reach the storage of the source pictures; None: as the collection was opened.
    """

    sheets: int = 12
    samples_per_sheet: int = 12
    examples_per_reason: int = 5
    outliers: int = 24
    storage: StorageOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """What was written.

    Attributes:
        out: The file: a local path, or an address in object storage.
        size_bytes: Its size.
        images: Rows of the tags table it tells about.
        tagged: Of these, tagged.
        failed: Of these, failed.
    """

    out: str
    size_bytes: int
    images: int
    tagged: int
    failed: int

    def to_json(self) -> dict[str, Any]:
        """Return the record that `tagger report --json` prints."""
        return asdict(self)


def write_report(
    collection: Collection, *, out: str | None = None, options: ReportOptions | None = None
) -> ReportResult:
    """Write the HTML report of a collection: one self-contained file.

    The pictures on its contact sheets are read again from the source, in the version that was tagged; those
    that are gone or changed since become placeholders.

    Args:
        collection: What to report on, at the table's version it stands at.
        out: File, local or in object storage; by default `report.html` in the folder of the newest
            finished run.
        options: How much to show.

    Raises:
        UsageError: There is no run and no `out`, or `out` cannot be written.
        RunError: A part of the table or the record of a run cannot be read, or the store does not answer.
    """
    from tagger.report.writing import write

    return write(collection, out, options or ReportOptions())
