"""Chromium for the browser tests: how it is started, what a page did on its own, axe-core, screenshots."""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="install chromium (Debian: apt-get install chromium)"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def axe_source() -> str:
    """Return axe-core, a checker of accessibility rules, as the PyPI package carries it."""
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def axe_findings(page: Page, *rules: str) -> list[str]:
    """Return what breaks axe's rules, or only these, on the page as it stands.

    The context must be made with bypass_csp.
    """
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(content=axe_source())
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("(options) => axe.run(options).then((result) => result.violations)", options)
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for rule in found
        for node in rule["nodes"][:3]
    ]


class Visit:
    """An open page and what it did on its own; a context manager that closes it."""

    def __init__(
        self, browser: Browser, address: str, *, width: int, height: int, scheme: Any, **options: Any
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            **options,
        )
        self.page: Page = self.context.new_page()
        self.events: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda message: self.events.append(f"console: {message.text} {message.location.get('url')}"),
        )
        self.page.on("pageerror", lambda error: self.events.append(f"error: {error}"))
        self.page.on(
            "dialog", lambda dialog: (self.events.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.page.on("popup", lambda popup: self.events.append(f"popup: {popup.url}"))
        self.ended: dict[str, str | None] = {}
        self.page.on("requestfailed", lambda request: self.ended.update({request.url: request.failure}))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address, wait_until="load")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.context.close()

    def keep(self, name: str) -> None:
        """Keep a screenshot in the folder that PAGE_SCREENSHOTS names, if it does."""
        folder = os.environ.get("PAGE_SCREENSHOTS")  # no TAGGER_ name: tests/conftest.py clears those
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def loaded(page: Page) -> None:
    """Wait until every picture that is on screen has been drawn."""
    # Not wait_for_function: between tries it evaluates text, which the page's policy forbids.
    page.evaluate(
        """() => Promise.all([...document.images].filter((image) => {
            const box = image.getBoundingClientRect();
            return image.src && box.width && box.bottom > 0 && box.top < innerHeight;
        }).map((image) => image.decode().catch(() => {})))"""
    )


def _small_targets(page: Page, least: float) -> list[str]:
    """Return controls on show that are smaller than `least` pixels either way (WCAG 2.2, 2.5.8)."""
    return page.evaluate(
        """(least) => [...document.querySelectorAll('button, a[href], input, [role=option]')]
            .filter((node) => node.checkVisibility() && !node.closest('[inert]'))
            .map((node) => [node, node.getBoundingClientRect()])
            .filter(([node, box]) => box.width > 1 && (box.width < least || box.height < least))
            .filter(([node]) => !(node.type === 'checkbox'))
            .map(([node]) => node.outerHTML.slice(0, 120))""",
        least,
    )


class StateChecker:
    """Looks at one state of the page after the other, in light and dark: axe, width, targets, headings.

    Attributes:
        told: What is wrong.
    """

    def __init__(self, visit: Visit, name: str, width: int) -> None:
        self.told: list[str] = []
        self._visit = visit
        self._name = name
        self._width = width

    def __call__(self, state: str) -> None:
        page, told = self._visit.page, self.told
        loaded(page)
        self._visit.keep(f"{state}-{self._name}")
        told.extend(f"{state}: {finding}" for finding in axe_findings(page))
        page.emulate_media(color_scheme="dark")
        self._visit.keep(f"{state}-{self._name}-dark")
        told.extend(f"{state}, dark: {finding}" for finding in axe_findings(page, "color-contrast"))
        page.emulate_media(color_scheme="light")
        if page.evaluate("document.documentElement.scrollWidth") > self._width:
            told.append(f"{state}: wider than the screen")
        if self._width < 500:
            told.extend(f"{state}: small: {target}" for target in _small_targets(page, 28))
        if page.locator("h1:visible").count() != 1:
            told.append(f"{state}: not one h1")
