"""`tagger report`: count, sample, render, and put the file where it belongs."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tagger.collection.runs import read_runs
from tagger.errors import UsageError
from tagger.outfile import file_to_write
from tagger.report import ReportOptions, ReportResult
from tagger.report.gather import COLUMNS, Gathered, gather
from tagger.report.outliers import outlier_sheet
from tagger.report.page import Content, render
from tagger.report.runs import History
from tagger.report.sheets import make_thumbnails
from tagger.storage import ImageReader, given_path, open_store, split_uri

if TYPE_CHECKING:
    from tagger.collection import Collection
    from tagger.report.outliers import OutlierSheet
    from tagger.report.samples import Picture
    from tagger.storage import StorageOptions, Store

REPORT_NAME = "report.html"
_MAX_SOURCE_BYTES = 256 * 1024**2


def write(collection: Collection, out: str | None, options: ReportOptions) -> ReportResult:
    """Write the report of a collection; see `tagger.report.write_report`."""
    storage = options.storage or collection.store.options
    history = History.of(read_runs(collection.store))
    place: Path | tuple[Store, str]
    if out is not None:
        place = _place(out, storage)
    elif history.newest is not None:
        place = collection.store, f"runs/{history.newest.run_id}/{REPORT_NAME}"
    else:
        raise UsageError(
            f"{collection.uri} has no run yet to keep the report with; tag something first, or name a file "
            "with --out"
        )
    found = gather(
        collection.table.scan(COLUMNS),
        sheets=options.sheets,
        samples_per_sheet=options.samples_per_sheet,
        examples_per_reason=options.examples_per_reason,
    )
    outliers = outlier_sheet(collection, options.outliers) if options.outliers > 0 else None
    html = render(_content(collection, found, outliers, history, storage)).encode()
    if isinstance(place, Path):
        written = _write_file(place, html)
    else:
        store, name = place
        store.put(name, html)
        written = _for_people(store.address(name))
    return ReportResult(
        out=written, size_bytes=len(html), images=found.images, tagged=found.tagged, failed=found.failed
    )


def _place(out: str, storage: StorageOptions) -> Path | tuple[Store, str]:
    """Return where `--out` leads: a local path, or a bucket and a key.

    Raises:
        UsageError: It is no address, or names a bucket or folder.
    """
    scheme, bucket, key = split_uri(out)
    if scheme == "file":
        return Path(os.fsdecode(given_path(out)))
    if not key or key.endswith("/"):
        folder = out.rstrip("/")
        raise UsageError(f"--out {out} names no file: add one, such as {folder}/{REPORT_NAME}")
    # The key stays whole: cut at its slashes, an odd one would become another.
    return open_store(f"{scheme}://{bucket}", storage), key


def _content(
    collection: Collection,
    found: Gathered,
    outliers: OutlierSheet | None,
    history: History,
    storage: StorageOptions,
) -> Content:
    config = collection.config
    reader = ImageReader(storage)

    def read(picture: Picture) -> bytes:
        return reader.read_image(picture.uri, if_match=picture.etag, max_bytes=_MAX_SOURCE_BYTES)[0]

    samples = [sample for sheet in found.sheets for sample in sheet.samples]
    tagging = config.tagging
    return Content(
        uri=collection.uri,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        model={
            "model": config.model,
            "model id": config.model_id,
            "embedding": f"{config.dim:,} numbers",
            "threshold": f"{tagging.threshold:g}",
            "tags per image": f"at most {tagging.top_k}",
            "taxonomy": tagging.taxonomy_file or "built in, from WordNet",
        },
        threshold=tagging.threshold,
        table_version=collection.table.version,
        found=found,
        outliers=outliers,
        thumbnails=make_thumbnails([*samples, *(outliers.pictures if outliers else ())], read),
        history=history,
        program=f"tagger {importlib.metadata.version('tagger')}",
    )


def _for_people(uri: str) -> str:
    """Return the path of a local address: what a terminal or browser opens; other addresses as they are."""
    return uri.removeprefix("file://")


def _write_file(path: Path, data: bytes) -> str:
    """Write a local file at once or not at all; returns its absolute path.

    Raises:
        UsageError: It cannot be written there.
    """
    target = file_to_write(path.absolute())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=".report-", suffix=".html")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(draft).chmod(0o644)
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"the report cannot be written to {target}: {error.strerror or error}") from None
    return str(target)
