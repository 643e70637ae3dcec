"""The page: numbers into words and bars, then into HTML.

The file needs no script and no network. Its content security policy forbids both: styles are allowed by
their hash only, and pictures as `data:` only, so that even an escape that was forgotten would run nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import SETTLED_CODES
from tagger.report import wording

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import jinja2

    from tagger.report.gather import Gathered
    from tagger.report.outliers import OutlierSheet
    from tagger.report.runs import History, RunFacts
    from tagger.report.samples import Picture
    from tagger.report.sheets import Thumbnails
    from tagger.report.tallies import Spread

TOP_WORDS: Final = 40
_TOP_RUNS: Final = 10

_SHARPNESS_EDGES: Final = np.array([0, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400])
_MEGAPIXEL_EDGES: Final = np.array([0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32])
_FILE_EDGES: Final = np.array([0, 10e3, 30e3, 100e3, 300e3, 1e6, 3e6, 10e6, 30e6])
_TENTHS: Final = np.linspace(0, 1, 11)
_TWENTIETHS: Final = np.linspace(0, 1, 21)

_STAGES: Final = {
    "fetch": "reading from storage, in many threads at once",
    "fetch and decode": "reading, decoding and measuring, until the chunk is complete",
    "decode": "bytes to pixels and measurements",
    "tag": "the CNN, tags and embeddings",
    "model": "the CNN",
    "write": "Parquet parts",
    "commit": "commits to the table",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: its label, its count, and its height as a share of the highest bar."""

    label: str
    count: int
    height: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """A small chart.

    Attributes:
        title: What is counted.
        bars: From left to right.
        summary: One sentence with the middle and the ends.
        low: Label of the left end of the axis.
        high: Label of the right end.
        note: What the numbers mean, or empty.
    """

    title: str
    bars: Sequence[Bar]
    summary: str
    low: str
    high: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything the page shows.

    Attributes:
        uri: The collection.
        made: When the report was made, as text.
        model: Facts about the model and the tagging settings, by name.
        threshold: Least score of a tag.
        table_version: Version of the table that was counted.
        found: What was counted.
        thumbnails: Pictures of the sheets.
        history: The collection's runs.
        outliers: Images unlike their peers; None leaves the section out.
        program: Name and version of the program.
    """

    uri: str
    made: str
    model: Mapping[str, str]
    threshold: float
    table_version: int
    found: Gathered
    thumbnails: Thumbnails
    history: History
    outliers: OutlierSheet | None = None
    program: str = field(default="tagger")


def render(content: Content) -> str:
    """Return the page as one self-contained HTML document, the same for equal content."""
    environment = _environment()
    style = environment.loader.get_source(environment, "style.css.html")[0] if environment.loader else ""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    found, history = content.found, content.history
    return environment.get_template("page.html").render(
        content=content,
        name_text=wording.file_name(content.uri.rstrip("/")),
        style=style,
        style_digest=digest,
        found=found,
        run=history.newest,
        timed=history.timed,
        runs=history.runs[:_TOP_RUNS],
        n_runs=len(history.runs),
        sheets=found.sheets,
        missing=_missing(content.thumbnails, [one for sheet in found.sheets for one in sheet.samples]),
        outliers=content.outliers,
        missing_outliers=_missing(content.thumbnails, content.outliers.pictures if content.outliers else []),
        tags=found.tags[:TOP_WORDS],
        categories=found.categories[:TOP_WORDS],
        charts=_charts(found, content.threshold),
        stages=_stages(history.timed),
        settings=_settings(history.newest),
        settled=SETTLED_CODES,
        reasons=wording.REASONS,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tagger.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        *(wording.shown, wording.file_name, wording.count, wording.share, wording.percentile),
        *(wording.size, wording.pixels, wording.seconds, wording.rate),
    ):
        environment.filters[function.__name__] = function
    return environment


def _missing(thumbnails: Thumbnails, pictures: Sequence[Picture]) -> tuple[int, list[str]]:
    """Return how many pictures could not be read again, and some of the reasons."""
    blank = [one.uri for one in pictures if one.uri not in thumbnails.by_uri]
    return len(blank), sorted({thumbnails.missing[uri] for uri in blank if uri in thumbnails.missing})[:3]


def _charts(found: Gathered, threshold: float) -> list[Histogram]:
    """Return the charts that have something to show."""
    charts = []
    per_image = found.tags_per_image
    if found.tagged:
        most = len(per_image) - 1
        mean = float((per_image * np.arange(len(per_image))).sum() / found.tagged)
        charts.append(
            Histogram(
                "Tags per image",
                _bars([str(i) for i in range(len(per_image))], per_image),
                f"{mean:.1f} on average, at most {most}.",
                "0",
                str(most),
                f"{wording.count(found.bare)} images have no tag: no score reached {threshold:g}."
                if found.bare
                else "Every tagged image has at least one tag.",
            )
        )
    best, light, sharp = found.best_score, found.brightness, found.sharpness
    if best.count:
        charts.append(
            _chart(
                "Best score of an image",
                best,
                _TWENTIETHS,
                lambda v: f"{v:.2f}",
                note="Of images with a tag.",
            )
        )
    if found.pixels.count:
        charts.append(_sizes("Picture size", found.pixels, _MEGAPIXEL_EDGES * 1e6, wording.pixels))
    if found.size_bytes.count:
        charts.append(_sizes("File size", found.size_bytes, _FILE_EDGES, wording.size))
    if sharp.count:
        charts.append(
            _chart(
                "Sharpness",
                sharp,
                _SHARPNESS_EDGES,
                lambda v: f"{v:,.0f}",
                open_end=True,
                note="Variance of the Laplacian; below 100 a picture looks blurred.",
            )
        )
    if light.count:
        charts.append(
            _chart(
                "Brightness", light, _TENTHS, lambda v: f"{v:.2f}", note="Mean luma; 0 is black, 1 is white."
            )
        )
    return charts


def _sizes(title: str, spread: Spread, edges: np.ndarray, unit: Any) -> Histogram:
    return _chart(title, spread, edges, unit, open_end=True)


def _chart(
    title: str, spread: Spread, edges: np.ndarray, unit: Any, *, open_end: bool = False, note: str = ""
) -> Histogram:
    """Return the chart of a distribution, with one empty bin at most at each end where the scale is open."""
    counts = spread.histogram(np.append(edges, np.inf) if open_end else edges)
    ends = [unit(float(edge)) for edge in edges]
    labels = [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
    low, high = ends[0], ends[-1]
    if open_end:
        labels.append(f"{ends[-1]} and more")
        used = np.flatnonzero(counts)
        first, last = max(0, int(used[0]) - 1), min(len(counts) - 1, int(used[-1]) + 1)  # a bin of air
        labels, counts = labels[first : last + 1], counts[first : last + 1]
        low = ends[first]
        high = ends[last + 1] if last + 1 < len(ends) else f"{ends[-1]} and more"
    middle, tenth, ninetieth = (unit(spread.quantile(q)) for q in (0.5, 0.1, 0.9))
    summary = f"Median {middle}; four fifths lie between {tenth} and {ninetieth}."
    if spread.least == spread.greatest:
        summary = f"{middle} for every image."
    return Histogram(title, _bars(labels, counts), summary, low, high, note)


def _bars(labels: Sequence[str], counts: np.ndarray) -> list[Bar]:
    highest = max(1, int(counts.max(initial=0)))
    return [Bar(label, int(n), int(n) / highest) for label, n in zip(labels, counts, strict=True)]


def _stages(run: RunFacts | None) -> list[dict[str, Any]]:
    """Return the stages of a run in their order: name, meaning, seconds, milliseconds per image."""
    if run is None:
        return []
    return [
        {
            "name": name,
            "means": _STAGES.get(name, ""),
            "seconds": time,
            "per_image": 1000 * time / run.planned,
        }
        for name, time in run.stage_seconds.items()
    ]


def _settings(run: RunFacts | None) -> list[tuple[str, str]]:
    """Return the settings a run was started with, as text; those that ask for nothing are left out."""
    if run is None:
        return []
    return [
        (name.replace("_", " "), _setting(value))
        for name, value in run.settings.items()
        if value not in (None, "", [], {}, False)
    ]


def _setting(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
