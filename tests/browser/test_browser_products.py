"""The products of a catalog on the page, by what people see: look through them, decide, and take it away."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from page_kit import StateChecker, Visit, needs_chromium
from serve_kit import HOSTILE, Server, enrich_shop, product_rows, put_photos, sample_photos, tag_photos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

KEY = "a-key-of-the-browser-tests"
VIEWS = {"wide": (1366, 900, "light"), "phone": (360, 740, "light")}
ALL = 40

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("page")]

Opener = "Callable[..., Visit]"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """A collection, its enriched catalog, and the addresses of the photos."""
    folder = tmp_path_factory.mktemp("shop")
    photos = sample_photos()
    addresses = put_photos(folder / "photos", photos)
    tag_photos(folder / "posters", addresses, photos)
    return folder / "posters", enrich_shop(folder / "posters", folder, product_rows(photos)), addresses


@pytest.fixture(scope="module")
def server(shop: Any) -> Iterator[Server]:
    with Server(shop[0], "--catalog", str(shop[1]), "--quiet") as running:
        yield running


def _take_all_back(server: Server) -> None:
    with server.client() as client:
        rows = list(csv.reader(client.get("/v1/decisions").text.splitlines()))[1:]
        taken = [{"image_id": row[0], "tag": row[1].removeprefix("'"), "value": None} for row in rows]
        if taken:
            client.post("/v1/decisions", json={"decisions": taken}).raise_for_status()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Opener]:
    """Open the page; at the end it must have asked nobody else for anything, and said nothing unexpected."""
    visits: list[tuple[Visit, str]] = []

    def opened(
        fragment: str = "#products=1",
        *,
        view: tuple[int, int, str] = VIEWS["wide"],
        expected: str = "^$",
        url: str = server.url,
        **options: Any,
    ) -> Visit:
        width, height, scheme = view
        if width < 500:
            options |= {"has_touch": True, "is_mobile": True}
        one = Visit(browser, f"{url}/{fragment}", width=width, height=height, scheme=scheme, **options)
        one.page.set_default_timeout(10_000)
        visits.append((one, expected))
        return one

    yield opened
    for one, expected in visits:
        outside = [
            url for url in one.requests if not url.startswith(("http://127.0.0.1:", "blob:http://127."))
        ]
        unexpected = [text for text in one.events if not re.search(expected, text)]
        one.context.close()
        assert outside == []
        assert unexpected == []
    _take_all_back(server)


def _cards(page: Page, n: int | None = None) -> Any:
    from playwright.sync_api import expect

    expect(page.locator("#products-grid")).to_have_attribute("aria-busy", "false")
    cards = page.locator(".product-card")
    if n is not None:
        expect(cards).to_have_count(n)
    return cards


def _downloaded(page: Page, name: str | re.Pattern[str]) -> list[list[str]]:
    with page.expect_download() as loading:
        page.get_by_role("link", name=name).click()
    with loading.value.path().open(newline="") as file:
        return list(csv.reader(file))


def test_from_a_flag_to_a_label_file(visit: Opener, server: Server, shop: Any):
    from playwright.sync_api import expect

    addresses = shop[2]
    page = visit("").page
    page.get_by_role("link", name=f"Look through {ALL} products").click()
    _cards(page, 24)
    assert page.locator("h1:visible").inner_text() == "Products"
    assert page.title() == "Products · posters"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    _cards(page, ALL)

    # Narrow it to what needs a look.
    shelf = page.get_by_role("group", name="Product filters")
    twice = shelf.get_by_role("button", name="Same picture twice")
    counted = int(re.search(r"(\d+) product", twice.inner_text().replace("\n", " ")).group(1))
    twice.click()
    cards = _cards(page, counted)
    expect(twice).to_have_attribute("aria-pressed", "true")
    expect(cards.first).to_contain_text("Same picture twice")
    expect(page.locator("#products-head")).to_contain_text(f"{counted} of {ALL} products")
    assert page.url.endswith("#flag=duplicate_of&products=1")
    shelf.get_by_role("button", name="Home").click()
    expect(page.get_by_role("group", name="Chosen filters")).to_contain_text("Home")
    search = page.get_by_role("searchbox", name="Search the products")
    search.fill("MUG")
    _cards(page, 1)
    assert "q=MUG" in page.url

    # Open a product, and decide.
    page.get_by_role("link", name="Mug with a cat").click()
    panel = page.get_by_role("dialog", name="Mug with a cat")
    expect(panel).to_contain_text("Suggested category")
    expect(panel.get_by_role("link", name="P-chelsea")).to_be_visible()
    assert panel.locator(".product-picture img").get_attribute("alt") == "Cat, mainly brown and grey"
    panel.get_by_role("button", name="Show Espresso, mainly brown").click()
    expect(panel.locator(".alt-text")).to_have_text(re.compile("Espresso, mainly"))
    accept = panel.get_by_role("button", name="Accept tabby")
    accept.click()
    expect(accept).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_role("status")).to_contain_text("Accepted tabby for 2 pictures.")
    suggested = panel.locator(".suggestion")
    word = suggested.get_attribute("data-tag")
    suggested.get_by_role("button", name=f"Reject {word}").click()
    both = panel.get_by_role("button", name=f"Reject {word}", exact=True)
    for n in range(both.count()):  # as a suggestion, and among the tags
        expect(both.nth(n)).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_role("status")).to_contain_text(f"Rejected {word}")
    panel.get_by_role("button", name="Undo").click()
    expect(both.first).to_have_attribute("aria-pressed", "false")
    expect(panel.get_by_role("status")).to_have_text("Undone.")

    # With the keyboard alone.
    both.first.focus()
    page.keyboard.press("Enter")
    expect(both.first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("a")
    expect(both.first).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("r")
    expect(both.first).to_have_attribute("aria-pressed", "true")
    expect(both.first).to_be_focused()
    panel.get_by_role("textbox", name="Another tag that fits").fill('=a "gift"')
    page.keyboard.press("Enter")
    expect(panel.get_by_role("button", name='Accept =a "gift"')).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_role("status")).to_contain_text("gift")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.get_by_role("link", name="Mug with a cat")).to_be_focused()
    expect(page.locator(".product-card .decided")).to_contain_text("3")

    # It is still there, and leaves as files.
    page.reload()
    _cards(page, 1)
    expect(search).to_have_value("MUG")
    labels = _downloaded(page, "Download the labels: 6 decisions")
    images = [addresses["chelsea.jpg"], addresses["coffee.jpg"]]
    values = {"tabby": "1", word: "0", '\'=a "gift"': "1"}
    assert labels[0] == ["image_id", "tag", "value"]
    assert sorted(labels[1:]) == sorted(
        [image, tag, value] for image in images for tag, value in values.items()
    )
    table = _downloaded(page, "Products (CSV)")
    assert table[1][:2] == ["P-mug", "Mug with a cat"]
    assert (set(table[1][2].split("; ")), table[1][3]) == ({'=a "gift"', "tabby"}, word)
    page.get_by_role("button", name="Clear all").click()
    _cards(page, 24)
    shelf.get_by_role("button", name="Nothing decided yet").click()
    expect(page.locator("#products-head")).to_contain_text(f"{ALL - 3} of {ALL} products")
    # Those that are decided meanwhile pass nobody over.
    with server.client() as client:
        given = [
            {"image_id": addresses[f"{name}.jpg"], "tag": "pet", "value": 1} for name in ("kitten", "bison")
        ]
        client.post("/v1/decisions", json={"decisions": given}).raise_for_status()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    _cards(page, ALL - 3)
    with server.client() as client:
        client.post("/v1/decisions", json={"decisions": [one | {"value": None} for one in given]})
    shelf.get_by_role("button", name="Nothing decided yet").click()
    shelf.get_by_role("button", name="Something decided").click()
    _cards(page, 3)  # two others show one of the pictures


def test_from_product_to_product(visit: Opener):
    from playwright.sync_api import expect

    page = visit("#products=1&product=P-wrong").page
    panel = page.locator("#product")
    expect(panel.locator("h2")).to_have_text("Garden chair")
    expect(panel).to_contain_text(
        re.compile(r"Looks like Wildlife \(\d+\s% of those like it\)", re.IGNORECASE)
    )
    panel.get_by_role("link", name="P-sheep").click()
    expect(panel.locator("h2")).to_have_text("Sheep poster")
    similar = panel.locator(".similar a").first
    name = similar.inner_text()
    similar.click()
    expect(panel.locator("h2")).to_have_text(name)
    page.go_back()
    expect(panel.locator("h2")).to_have_text("Sheep poster")
    panel.get_by_role("button", name="Find alike").click()
    expect(page.locator("h1:visible")).to_have_text("Similar to sheep.jpg")
    expect(panel).to_be_hidden()
    page.get_by_role("link", name="Products", exact=True).click()
    cards = _cards(page, 24)
    cards.nth(1).get_by_role("link").click()
    expect(panel.locator("h2")).to_have_text("Kitten poster")
    page.keyboard.press("ArrowLeft")
    expect(panel.locator("h2")).to_have_text("Chelsea poster")
    expect(panel.get_by_role("button", name="Product before")).to_be_disabled()
    page.keyboard.press("Escape")
    page.evaluate("location.hash = '#products=1&product=P-gone'")
    expect(panel).to_contain_text("No picture of it is in the collection")
    expect(panel).to_contain_text("nothing to decide")
    expect(panel.locator(".choice")).to_have_count(0)


def test_a_hostile_product_is_only_a_product(visit: Opener):
    from playwright.sync_api import expect

    page = visit(f"#products=1&q={quote('onerror')}&category=%3Cb%3E").page
    expect(page.get_by_role("heading", name="No product fits all of this")).to_be_visible()
    page.get_by_role("button", name="Remove the filter <b>").click()
    link = _cards(page, 1).get_by_role("link", name=HOSTILE)
    link.click()
    expect(page.locator("#product h2")).to_have_text(HOSTILE)
    assert page.locator("[onerror], iframe, [src=x]").count() == 0


def test_what_is_not_kept_is_told(visit: Opener):
    from playwright.sync_api import expect

    page = visit("#products=1&product=P-chelsea", expected="503|404").page
    panel = page.locator("#product")
    accept = panel.locator(".accept").first
    expect(accept).to_have_attribute("aria-pressed", "false")
    full = {"title": "Busy", "status": 503, "detail": "the decisions cannot be written to x (No space left)"}
    page.route("**/v1/decisions", lambda route: route.fulfill(status=503, json=full))
    accept.click()
    expect(panel.get_by_role("status")).to_contain_text("Not kept. The decisions cannot be written")
    expect(accept).to_have_attribute("aria-pressed", "false")
    page.unroute("**/v1/decisions")
    accept.click()
    expect(panel.get_by_role("status")).to_contain_text("Accepted")
    page.evaluate("location.hash = '#products=1&product=P-none'")
    expect(panel).to_contain_text("There is no product 'P-none' in the catalog.")


def test_an_answer_that_comes_late_undoes_nothing(visit: Opener):
    """What the server had before a second press arrives after it."""
    from playwright.sync_api import expect

    one = visit()
    page = one.page
    _cards(page, 24)
    page.get_by_role("link", name="Macaw poster").click()
    panel = page.get_by_role("dialog", name="Macaw poster")
    panel.get_by_text("Suggested category").wait_for()
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/v1/product?*", hold)
    reject = panel.get_by_role("button", name="Reject macaw", exact=True).first
    accept = panel.get_by_role("button", name="Accept macaw", exact=True).first
    reject.click()
    while not held:
        page.wait_for_timeout(20)
    page.route("**/v1/decisions", hold)
    accept.click()
    held[0].continue_()
    while len(held) < 2:  # the second decision is under way: the late answer has been dealt with
        page.wait_for_timeout(20)
    assert accept.get_attribute("aria-pressed") == "true"
    held[1].continue_()
    page.unroute("**/v1/product?*")
    page.unroute("**/v1/decisions")
    expect(panel.get_by_role("status")).to_contain_text("Accepted macaw")
    expect(accept).to_have_attribute("aria-pressed", "true")
    expect(reject).to_have_attribute("aria-pressed", "false")


def test_with_a_key(visit: Opener, shop: Any, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    options = ["--quiet", "--api-key-file", str(keys), "--catalog", str(shop[1])]
    with Server(shop[0], *options, "--decisions", str(tmp_path / "with_key.csv")) as locked:
        one = visit(url=locked.url, expected="401")
        page = one.page
        page.get_by_role("dialog", name="API key").get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        _cards(page, 24)
        page.locator(".product-card img[src^='blob:']").first.wait_for()
        assert _downloaded(page, re.compile("Download the labels")) == [["image_id", "tag", "value"]]
        assert len(_downloaded(page, "Products (CSV)")) == 1 + ALL
        assert not [url for url in one.requests if KEY in url]


@pytest.mark.parametrize("name", VIEWS)
def test_every_state_is_accessible_and_fits(visit: Opener, name: str):
    from playwright.sync_api import expect

    width = VIEWS[name][0]
    one = visit(view=VIEWS[name], bypass_csp=True)  # for axe, which the policy keeps out
    page = one.page
    check = StateChecker(one, name, width)

    _cards(page, 24)
    check("products")
    if width < 500:
        page.get_by_role("button", name="Filters").click()
        check("products-sheet")
    page.get_by_role("button", name=re.compile("^Any of these")).click()
    if width < 500:
        page.get_by_role("button", name="Show the products").click()
    expect(page.get_by_role("group", name="Chosen filters")).to_contain_text("Needs a look")
    _cards(page)
    check("products-flagged")
    page.get_by_role("link", name="Mug with a cat").click()
    panel = page.locator("#product")
    panel.get_by_role("button", name=re.compile("^Accept")).nth(1).click()
    panel.get_by_role("button", name=re.compile("^Reject")).nth(2).click()
    expect(panel.get_by_role("status")).to_contain_text("Rejected")
    check("product")
    if width < 500:
        panel.locator(".columns").evaluate("(node) => node.scrollTo(0, 480)")
        check("product-tags")
    page.evaluate("location.hash = '#products=1&product=P-gone'")
    panel.get_by_text("No picture of it").wait_for()
    check("product-without")
    page.get_by_role("button", name="Close").click()
    page.evaluate("location.hash = '#products=1&q=zzz'")
    page.get_by_role("heading", name="No product fits all of this").wait_for()
    check("products-empty")
    assert check.told == [], "\n".join(check.told)
