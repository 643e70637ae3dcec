"""The report in a browser: offline, silent, safe, accessible, from phone to desktop, light and dark."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_kit import Visit, axe_findings, needs_chromium

import tagger
from tagger.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_HOSTILE = [
    '"><img src=x onerror=alert(1)>.jpg',
    "</style><script>alert(2)</script>.jpg",
    "' onmouseover='alert(3)'.jpg",
    "<svg onload=alert(4)>",
    "<iframe src=https://evil.example></iframe>",
    "evil\u202egpj.exe",
    "a\tb\nc\x00\x1b.jpg",
    "x" * 900 + ".jpg",
    "\u05e2\u05d1\u05e8\u05d9\u05ea.jpg",
]
_VIEWS = [
    pytest.param((1366, 900, "light"), id="desktop"),
    pytest.param((1366, 900, "dark"), id="dark"),
    pytest.param((390, 844, "light"), id="phone"),
    pytest.param((320, 640, "dark"), id="small-phone"),
]

pytestmark = [pytest.mark.browser, needs_chromium]


def _samples() -> Any:
    """Load the builders of tests/report: test folders are no packages."""
    path = Path(__file__).parents[1] / "report" / "report_samples.py"
    spec = importlib.util.spec_from_file_location("report_samples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("report_samples", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def full_report(tmp_path_factory: pytest.TempPathFactory, jpegs: dict[str, bytes]) -> Path:
    """A report with pictures, a placeholder, failures, and hostile names wherever a name goes."""
    make = _samples()
    folder = tmp_path_factory.mktemp("report")
    names = [_HOSTILE[0], "x" * 200 + ".jpg", *jpegs][: len(jpegs)]  # of files; those of images are below
    photos = [
        (name, data, f"tag {i % 5}") for i, (name, data) in enumerate(zip(names, jpegs.values(), strict=True))
    ]
    rows = make.photo_rows(folder / "photos", photos)
    for row, name in zip(rows, _HOSTILE, strict=False):
        row["image_id"] = name
        row["tags"].append({"tag": name, "score": 0.2, "source": name})
        row["categories"].append({"tag": name, "score": 0.2})
        row["colors"].append({"hex": name[:7], "name": name[:40], "fraction": 0.01})
    for row, vector in zip(rows, make.peers(len(rows), strange=[0, 1, 5, 7, 8, -1]), strict=True):
        row["embedding"] = vector
    Path(rows[-1]["uri"].removeprefix("file://")).unlink()
    codes = ["corrupt", "timeout", "not_found"]
    rows += [make.failed_row(f"s3://b/{name}", codes[i % 3], name) for i, name in enumerate(_HOSTILE)]
    collection = make.new_collection(folder / "collection", dim=32)
    make.add_run(collection, rows, settings={"include": _HOSTILE})
    opened = tagger.open(collection.uri)
    opened.index()
    return Path(write_report(opened).out)


@pytest.fixture(scope="module")
def empty_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    return Path(
        write_report(_samples().new_collection(folder / "collection"), out=str(folder / "r.html")).out
    )


@pytest.mark.parametrize("view", _VIEWS)
def test_the_file_is_silent_and_loads_nothing_else(
    browser: Browser, full_report: Path, view: tuple[int, int, str]
):
    width, height, scheme = view
    with Visit(browser, full_report.as_uri(), width=width, height=height, scheme=scheme) as visit:
        page = visit.page
        for summary in page.locator("summary").all():
            summary.click()
        page.mouse.move(width / 2, height / 2)
        outside = [url for url in visit.requests if not url.startswith("data:image/webp")]
        assert outside == [full_report.as_uri()]
        assert visit.events == []
        widths = page.evaluate(
            "[...document.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight])"
        )
        assert len(widths) > 20
        assert all(image == [True, 192, 192] for image in widths)
        # Nothing sticks out, even with a name of 900 letters.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.scripts.length") == 0
        assert page.locator("svg.gone").count() >= 1
        assert page.locator("#outliers svg.gone").count() >= 1


def test_hostile_names_are_text_in_the_browser_too(browser: Browser, full_report: Path):
    with Visit(browser, full_report.as_uri(), width=1366, height=900, scheme="light") as visit:
        page = visit.page
        text = page.evaluate("document.body.textContent")
        assert _HOSTILE[0] in page.inner_text("#outliers")
        for name in (*_HOSTILE[:5], "evil\\u202egpj.exe", "a\\x09b\\x0ac\\x00\\x1b.jpg"):
            assert name in text
        assert (
            page.locator("iframe, script, [onerror], [onload], [onmouseover], object, embed, link").count()
            == 0
        )
        assert page.evaluate(
            "[...document.images].every(image => image.src.startsWith('data:image/webp;base64,'))"
        )


def test_the_policy_holds_against_what_gets_in(browser: Browser, full_report: Path):
    with Visit(browser, full_report.as_uri(), width=1366, height=900, scheme="light") as visit:
        visit.page.evaluate(
            """() => {
                const holder = document.createElement('div');
                holder.innerHTML = '<img src=x onerror="document.title = 1"><img src="https://evil.example/x.png">';
                document.body.append(holder);
                const script = document.createElement('script');
                script.textContent = 'document.title = "run"';
                document.body.append(script);
            }"""
        )
        visit.page.wait_for_function("[...document.images].every(image => image.complete)")
        assert visit.page.title() == "collection · tagger report"
        # Chromium tells of a request before the policy ends it, and then why it ended.
        assert visit.ended["https://evil.example/x.png"] == "csp"
        assert any("Content Security Policy" in event for event in visit.events)


def test_keyboard_and_structure(browser: Browser, full_report: Path):
    with Visit(browser, full_report.as_uri(), width=1366, height=900, scheme="light") as visit:
        page = visit.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        page.locator("nav a", has_text="Failures").click()
        heading = page.locator("#h-failures")
        box = heading.bounding_box()
        assert box is not None
        assert 0 < box["y"] < 200  # below the bar that stays on top
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("[...document.images].every(image => image.alt.length > 0)")
        assert page.evaluate(
            "[...document.querySelectorAll('svg')].every(s => s.ariaLabel || s.ariaHidden === 'true')"
        )
        assert page.evaluate(
            "[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent)"
        )


@pytest.mark.parametrize("view", _VIEWS)
@pytest.mark.parametrize("which", ["full_report", "empty_report"])
def test_axe_finds_nothing(
    browser: Browser,
    request: pytest.FixtureRequest,
    which: str,
    view: tuple[int, int, str],
):
    file: Path = request.getfixturevalue(which)
    width, height, scheme = view
    # Only for the checker itself: the page's own policy would keep it out.
    with Visit(browser, file.as_uri(), width=width, height=height, scheme=scheme, bypass_csp=True) as visit:
        for summary in visit.page.locator("summary").all():
            summary.click()
        assert axe_findings(visit.page) == []


def test_an_empty_report_helps(browser: Browser, empty_report: Path):
    with Visit(browser, empty_report.as_uri(), width=390, height=844, scheme="light") as visit:
        assert "Nothing is tagged yet" in visit.page.inner_text("#sheets")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert visit.events == []
