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
