"""The web page of `tagger serve` in a browser: every flow, by what people see; safe, quiet, accessible."""

from __future__ import annotations

import io
import json
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from page_kit import StateChecker, Visit, loaded, needs_chromium
from serve_kit import Server, put_photos, sample_photos, tag_photos

from tagger.testing import photo_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page, Route

HOSTILE = '"><img src=x onerror=alert(1)>.jpg'
DISGUISED = "evil\u202egpj.exe 😺.jpg"
GONE = "gone.jpg"
NAME = "holiday photos"
KEY = "a-key-of-the-browser-tests"
PAGE = 24
VIEWS = {"wide": (1366, 900, "light"), "phone": (360, 740, "light")}

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("page")]  # one server is enough

Opener = "Callable[..., Visit]"


def _jpeg(picture: Any, quality: int = 88) -> bytes:
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def _photos() -> dict[str, bytes]:
    """Real photos, copies of some, and names that try to be more than names."""
    from PIL import Image, ImageOps

    photos = sample_photos()
    for name, path in photo_files().items():
        photos[f"{name}.jpg"] = _jpeg(Image.open(path))
    for name, quality in (("chelsea", 60), ("chelsea", 40), ("koala", 50)):
        photos[f"{name}_{quality}.jpg"] = _jpeg(Image.open(io.BytesIO(photos[f"{name}.jpg"])), quality)
    for name, source in ((HOSTILE, "kitten"), (DISGUISED, "spaniels"), (GONE, "crab")):
        picture = ImageOps.mirror(Image.open(io.BytesIO(photos[f"{source}.jpg"])))
        photos[name] = _jpeg(picture.crop((30, 30, picture.width - 60, picture.height - 40)))
    return photos


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A collection with its index; one of its photos is gone from the folder."""
    folder = tmp_path_factory.mktemp("page")
    photos = _photos()
    addresses = put_photos(folder / "photos", photos)
    tag_photos(folder / NAME, addresses, photos)
    (folder / "photos" / GONE).unlink()
    return folder / NAME, addresses, photos


@pytest.fixture(scope="module")
def server(made: Any) -> Iterator[Server]:
    with Server(made[0], "--quiet") as running:
        yield running


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Opener]:
    """Open the page; at the end it must have asked nobody else for anything, and said nothing unexpected."""
    visits: list[tuple[Visit, str | None]] = []

    def opened(
        fragment: str = "",
        *,
        view: tuple[int, int, str] = VIEWS["wide"],
        expected: str | None = None,
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
        allowed = re.compile(f"404.*{GONE}|{expected}" if expected else f"404.*{GONE}")
        unexpected = [text for text in one.events if not allowed.search(text)]
        one.context.close()
        assert outside == []
        assert unexpected == []


@pytest.fixture
def image_id(made: Any) -> Callable[[str], str]:
    return lambda name: made[1][name]


def _with_image(image: str) -> str:
    return f"#image={quote(image, safe='')}"


def _cards(page: Page, n: int | None = None) -> Locator:
    """Wait until results are there, `n` of them if that is known."""
    from playwright.sync_api import expect

    expect(page.locator("#grid")).to_have_attribute("aria-busy", "false")
    cards = page.locator("#grid .card:not(.bone)")
    if n is None:
        cards.first.wait_for()
    else:
        expect(cards).to_have_count(n)
    return cards


def _names(page: Page) -> list[str]:
    return page.locator("#grid .caption .name").all_inner_texts()


def test_the_start_says_what_the_collection_is(visit: Opener, made: Any):
    from playwright.sync_api import expect

    one = visit()
    page = one.page
    expect(page.locator("h1:visible")).to_have_text(NAME)
    expect(page.locator(".stats")).to_contain_text(f"{len(made[2])}")
    expect(page.locator(".stats")).to_contain_text("efficientnet_lite0")
    expect(page.locator(".tile img")).to_have_count(12)
    loaded(page)
    sources = page.eval_on_selector_all(".tile img", "images => images.map((image) => image.src)")
    assert len(set(sources)) == 12  # each tag its own picture
    assert sum("/v1/search" in url for url in one.requests) == 1
    assert page.title() == f"{NAME} · tagger"
    page.locator(".tile a", has_text="dog").first.click()
    _cards(page)
    assert page.locator("h1:visible").all_inner_texts() == ["dog"]
    assert page.url.endswith("#tag=dog")


def test_a_tag_is_completed_with_the_keyboard(visit: Opener):
    from playwright.sync_api import expect

    page = visit().page
    words = page.get_by_role("combobox", name="Search for a tag")
    page.keyboard.press("/")
    expect(words).to_be_focused()
    page.keyboard.type("egyp")
    option = page.get_by_role("option", name=re.compile("Egyptian cat"))
    expect(option).to_contain_text("in cat")
    expect(words).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    assert words.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Escape")
    expect(option).to_be_hidden()
    expect(words).to_have_value("egyp")
    page.keyboard.press("ArrowDown")
    option.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    cards = _cards(page)
    assert page.locator("h1:visible").inner_text() == "Egyptian cat"
    expect(page.locator("#query")).to_contain_text("Egyptian cat")
    expect(page.get_by_role("status")).to_have_text(f"{cards.count()} pictures")
    words.fill("zzz")
    expect(page.locator("#suggest")).to_contain_text("No tag begins with")
    page.get_by_role("button", name="Clear Egyptian cat").click()
    page.locator(".tile").first.wait_for()
    expect(words).to_be_focused()


def test_a_picture_is_chosen_dropped_or_pasted(visit: Opener, made: Any):
    from playwright.sync_api import expect

    page = visit(expected="413|422").page
    chelsea = made[2]["chelsea.jpg"]
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose a picture").click()
    choosing.value.set_files({"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": chelsea})
    cards = _cards(page)
    expect(cards.first).to_contain_text("100 %")
    assert page.locator("h1:visible").inner_text() == "Similar to your picture mine.jpg"
    expect(page.locator("#query img")).to_be_visible()

    bring = """([kind, name, type, text]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, {type}));
        const given = kind === 'paste' ? {clipboardData: data} : {dataTransfer: data};
        const make = kind === 'paste' ? ClipboardEvent : DragEvent;
        document.body.dispatchEvent(new make(kind, {...given, bubbles: true, cancelable: true}));
    }"""
    koala, duck = (b64encode(made[2][name]).decode() for name in ("koala.jpg", "duck.jpg"))
    page.evaluate(bring, ["dragenter", "koala.jpg", "image/jpeg", koala])
    expect(page.get_by_text("Drop the picture")).to_be_visible()
    page.evaluate(bring, ["drop", "koala.jpg", "image/jpeg", koala])
    expect(page.get_by_text("Drop the picture")).to_be_hidden()
    expect(page.locator("h1:visible")).to_have_text("Similar to your picture koala.jpg")
    expect(_cards(page).first).to_contain_text("koala")
    page.evaluate(bring, ["paste", "image.png", "image/png", duck])
    expect(page.locator("h1:visible")).to_have_text("Similar to your picture image.png")
    expect(_cards(page).first).to_contain_text("duck")

    # A tag beside it narrows.
    page.get_by_role("combobox").fill("bird")
    page.keyboard.press("Enter")
    expect(page.locator("h1:visible")).to_have_text("Similar to your picture image.png, only bird")
    _cards(page)
    page.go_back()
    expect(page.locator("h1:visible")).to_have_text("Similar to your picture image.png")

    page.evaluate(bring, ["drop", "notes.pdf", "application/pdf", "AAAA"])
    expect(page.get_by_role("alert")).to_contain_text("notes.pdf is not a picture")
    page.evaluate(bring, ["drop", "none.jpg", "image/jpeg", ""])
    expect(page.get_by_role("alert")).to_contain_text("none.jpg is empty")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(21 << 20)], 'huge.jpg', {type: 'image/jpeg'}));
            document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
        }"""
    )
    expect(page.get_by_role("alert")).to_contain_text("huge.jpg has 21 MB")
    page.get_by_role("button", name="Close this message").click()
    expect(page.get_by_role("alert")).to_be_empty()
    page.evaluate(bring, ["drop", "broken.jpg", "image/jpeg", b64encode(b"no picture at all").decode()])
    expect(page.locator(".panel")).to_contain_text("cannot be searched for")

    page.reload()
    expect(page.locator(".panel")).to_contain_text("Your picture is no longer here")


def test_results_go_on_and_copies_are_folded(visit: Opener, image_id: Callable[[str], str], made: Any):
    from playwright.sync_api import expect

    one = visit(expected="404")
    page = one.page
    page.evaluate(
        """() => {
            window.moved = [];  // cards that jumped by themselves
            new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
                const cards = entry.sources.filter(({node}) => node?.closest?.('.grid'));
                window.moved.push(...cards.map(({node}) => node.outerHTML.slice(0, 100)));
            })).observe({type: 'layout-shift', buffered: false});
        }"""
    )
    page.goto(page.url + _with_image(image_id("koala.jpg")))
    cards = _cards(page, PAGE)
    expect(page.get_by_role("status")).to_have_text(f"The first {PAGE} pictures")
    expect(page.locator("#said")).to_contain_text("100 % is the same picture")
    first = cards.first
    expect(first).to_contain_text("koala_50.jpg")
    expect(first.locator(".score")).to_have_attribute("title", re.compile("alike"))
    boxes = page.eval_on_selector_all(
        ".frame > .box", "all => all.map((box) => [box.clientWidth, box.clientHeight].join())"
    )
    assert len(set(boxes)) == 1
    assert page.locator("#grid img:not([loading=lazy])").count() == 0
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(cards).to_have_count(2 * PAGE)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.get_by_text("These are all.").wait_for()
    names = _names(page)
    assert len(names) == len(set(names))
    assert page.evaluate("window.moved") == []
    badges = page.get_by_role("button", name=re.compile("more cop"))
    badge = page.get_by_role("button", name="2 more copies of this picture")  # of chelsea
    expect(badge).to_have_text("+2")
    expect(page.locator("#grid .gone")).to_have_count(1)
    alone = len(made[2]) - 1 - sum(int(text) for text in badges.all_inner_texts())
    expect(cards).to_have_count(alone)
    page.evaluate("scrollTo(0, 0)")
    expect(page.get_by_role("switch", name="Fold copies")).to_be_checked()
    badge.click()
    expect(page.get_by_role("switch", name="Fold copies")).not_to_be_checked()
    _cards(page)
    expect(badges).to_have_count(0)
    page.go_back()
    expect(cards).to_have_count(alone)  # known, so not asked again

    # Back lands where one was.
    word = page.locator("#grid .word").nth(20)
    word.evaluate("(node) => node.scrollIntoView({block: 'center'})")
    was = page.evaluate("scrollY")
    assert was > 300
    word.click()
    expect(page.get_by_role("group", name="Chosen filters")).to_be_visible()
    page.go_back()
    expect(cards).to_have_count(alone)
    assert page.evaluate("scrollY") == was


def test_facets_narrow_and_say_what_they_count(visit: Opener, image_id: Callable[[str], str]):
    from playwright.sync_api import expect

    page = visit(_with_image(image_id("chelsea.jpg"))).page
    _cards(page, PAGE)
    side = page.get_by_role("group", name="Filters", exact=True)
    expect(side).to_contain_text(f"Counted in the first {PAGE} results.")
    mammal = side.get_by_role("button", name=re.compile("^mammal"))
    counted = int(re.search(r"\d+", mammal.inner_text()).group())
    assert 0 < counted < PAGE
    mammal.click()
    chips = page.get_by_role("group", name="Chosen filters")
    expect(chips).to_contain_text("mammal")
    expect(mammal).to_have_attribute("aria-pressed", "true")
    expect(mammal).to_be_focused()
    assert _cards(page).count() >= counted
    expect(side).to_contain_text("Counted in these")
    before = set(_names(page))
    side.get_by_role("button", name="Leave out dog").click()
    expect(chips).to_contain_text("not dog")
    _cards(page)
    expect(page.locator("#grid")).not_to_contain_text("german_shepherd")
    assert set(_names(page)) < before
    side.get_by_role("button", name="brown", exact=True).click()
    expect(chips).to_contain_text("brown")
    page.get_by_label("Width").fill("700")
    page.keyboard.press("Enter")
    expect(chips).to_contain_text("≥ 700 px wide")
    page.get_by_label("Least score of a tag that counts").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(chips).to_contain_text("≥ 20 % sure")
    wanted = {"all=mammal", "none=dog", "color=brown", "width=700", "score=20"}
    assert wanted <= set(page.url.partition("#")[2].split("&"))
    _cards(page)
    kept = _names(page)
    page.reload()  # the address is the state
    _cards(page, len(kept))
    assert _names(page) == kept
    chips.get_by_role("button", name="Remove the filter brown").click()
    expect(chips).not_to_contain_text("brown")
    chips.get_by_role("button", name="Clear all").click()
    expect(chips).to_be_hidden()
    _cards(page, PAGE)
    page.locator("#grid .word", has_text="tabby").first.click()
    expect(chips).to_contain_text("tabby")


def test_nothing_found_and_unknown_tags_lead_on(visit: Opener):
    from playwright.sync_api import expect

    page = visit("#tag=cat&all=dog&width=3000", expected="404").page
    panel = page.locator(".panel")
    expect(panel).to_contain_text("Nothing matches all of this")
    expect(page.get_by_role("status")).to_have_text("Nothing matches all of this")
    panel.get_by_role("button", name="Remove the filters").click()
    _cards(page)
    page.get_by_role("combobox").fill("catt")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("There is no tag or category 'catt'")
    panel.get_by_role("button", name="cat", exact=True).click()
    _cards(page)
    assert page.locator("h1:visible").inner_text() == "cat"


def test_likes_make_recommendations(visit: Opener):
    from playwright.sync_api import expect

    page = visit("#tag=animal").page
    _cards(page)
    tray = page.get_by_role("region", name="Your likes and dislikes")
    expect(tray).to_be_hidden()
    names = _names(page)
    cards = page.locator("#grid .card")
    cards.nth(2).get_by_role("button", name="Dislike").click()
    expect(tray.get_by_role("button", name="Recommend")).to_be_disabled()
    like = cards.nth(0).get_by_role("button", name=f"Like {names[0]}", exact=True)
    like.click()
    expect(like).to_have_attribute("aria-pressed", "true")
    cards.nth(1).get_by_role("button", name=f"Like {names[1]}", exact=True).click()
    page.reload()
    expect(tray.locator(".token")).to_have_count(3)
    expect(like).to_have_attribute("aria-pressed", "true")
    tray.get_by_role("button", name="Recommend").click()
    expect(page.locator("h1:visible")).to_have_text("Recommended for you")
    _cards(page, PAGE)
    reasons = page.locator(".because")
    expect(reasons).to_have_count(PAGE)
    liked = set(names[:2])
    assert {text.removeprefix("because you liked ") for text in reasons.all_inner_texts()} <= liked
    found = _names(page)
    assert not set(found) & set(names[:3])
    slider = page.get_by_label("How varied the recommendations are")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_url(re.compile("diversity=1"))
    _cards(page, PAGE)
    assert _names(page) != found
    reasons.first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    tray.get_by_role("button", name=f"{names[0]}: liked, take it back").click()
    expect(tray.locator(".token")).to_have_count(2)
    tray.get_by_role("button", name="Clear").click()
    expect(tray).to_be_hidden()
    page.reload()
    expect(page.locator(".panel")).to_contain_text("Like a picture first")


def test_the_detail_panel(visit: Opener, image_id: Callable[[str], str], server: Server):
    from playwright.sync_api import expect

    one = visit("#tag=cat")
    one.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    page = one.page
    _cards(page)
    link = page.locator(".frame > .box[title$='/chelsea.jpg'], .frame > .box[title*='/chelsea_']").first
    link.focus()
    chosen = link.get_attribute("title")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    expect(dialog.locator("h2")).to_have_text(chosen.rpartition("/")[2])
    row = dialog.locator(".tag-rows li", has_text="Egyptian cat")
    expect(row.locator(".path")).to_have_text("→cat→pet→mammal→animal")
    expect(dialog).to_contain_text("pixels")
    expect(dialog.locator(".color-names")).to_contain_text("brown")
    expect(dialog.locator(".similar .box img").first).to_be_visible()

    dialog.get_by_role("button", name="Show where the model saw Egyptian cat").click()
    heat = dialog.get_by_alt_text("Heat map of Egyptian cat")
    expect(heat).to_be_visible()
    page.evaluate("document.querySelector('.heat').decode()")
    assert heat.bounding_box() == dialog.locator(".picture > img").first.bounding_box()
    assert page.evaluate("document.querySelector('.heat').naturalWidth") > 100
    dialog.get_by_role("button", name="Heat map").click()
    expect(heat).to_be_hidden()
    dialog.get_by_role("button", name="Show where the model saw Egyptian cat").click()
    expect(dialog.locator(".heat")).to_have_count(0)

    dialog.get_by_role("button", name="Copy").click()
    expect(dialog.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == chosen
    dialog.get_by_role("button", name=re.compile("^Like")).click()
    expect(page.locator("#tray .token")).to_have_count(1)

    # The focus cannot leave it, and comes back to the picture.
    for _ in range(60):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(link).to_be_focused()
    assert page.url.endswith("#tag=cat")

    link.click()
    dialog.locator(".similar .box").first.click()
    expect(dialog.locator("h2")).not_to_have_text(chosen.rpartition("/")[2])
    page.go_back()
    expect(dialog.locator("h2")).to_have_text(chosen.rpartition("/")[2])
    page.go_back()
    expect(dialog).to_be_hidden()
    link.click()
    heading = dialog.locator("h2")
    shown = heading.inner_text()
    page.keyboard.press("ArrowRight")
    expect(heading).not_to_have_text(shown)
    dialog.locator(".path .word", has_text="animal").first.click()
    expect(dialog).to_be_hidden()
    expect(page.locator("h1:visible")).to_have_text("animal")


def test_links_and_history(visit: Opener, image_id: Callable[[str], str]):
    from playwright.sync_api import expect

    kitten = image_id("kitten.jpg")
    page = visit(f"{_with_image(kitten)}&open={quote(kitten, safe='')}").page
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text("kitten.jpg")
    dialog.get_by_role("button", name="Close").click()  # nothing to go back to
    expect(dialog).to_be_hidden()
    expect(page.locator("h1:visible")).to_have_text("Similar to kitten.jpg")
    _cards(page, PAGE).nth(3).locator(".box").click()
    dialog.get_by_role("button", name="Search with this").click()
    expect(page.locator("h1:visible")).not_to_have_text("Similar to kitten.jpg")
    _cards(page, PAGE)
    page.get_by_role("link", name="tagger: start").click()
    page.locator(".tile").first.wait_for()
    assert "#" not in page.url
    page.go_back()
    page.go_back()
    page.go_back()
    expect(page.locator("h1:visible")).to_have_text("Similar to kitten.jpg")
    page.go_forward()
    expect(dialog).to_be_visible()


def test_arrows_move_among_the_pictures(visit: Opener):
    from playwright.sync_api import expect

    page = visit("#tag=animal").page
    _cards(page)
    links = page.locator(".frame > .box")
    at = "[...document.querySelectorAll('.frame > .box')].indexOf(document.activeElement)"
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#tag=animal")
    links.first.focus()
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(at)
    assert 3 <= columns <= 6
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == columns + 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(at) == 0
    page.keyboard.press("End")  # which comes so near to the end that the next page is loaded
    expect(page.locator("#more")).to_contain_text("These are all.")
    page.keyboard.press("End")
    assert page.evaluate(at) == links.count() - 1
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_hostile_names_are_only_names(visit: Opener, image_id: Callable[[str], str]):
    from playwright.sync_api import expect

    one = visit(_with_image(image_id(HOSTILE)), expected="Content Security Policy|404|422")
    page = one.page
    _cards(page, PAGE)
    assert page.locator("h1:visible").inner_text() == f"Similar to {HOSTILE}"
    assert page.locator("[onerror], iframe, [src=x]").count() == 0
    page.goto(page.url.partition("#")[0] + f"#tag=dog&open={quote(image_id(DISGUISED), safe='')}")
    expect(page.get_by_role("dialog").locator("h2")).to_have_text("evil\\u202egpj.exe 😺.jpg")
    page.goto(page.url.partition("#")[0] + "#tag=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&color=%3Cb%3E")
    expect(page.locator(".panel")).to_be_visible()
    # What gets in all the same, the policy stops.
    page.evaluate(
        """() => {
            const holder = document.createElement('div');
            holder.innerHTML = '<img src=x onerror="document.title = 1"><img src="https://evil.example/x.png">';
            document.body.append(holder);
        }"""
    )
    loaded(page)
    assert page.title() != "1"
    assert one.ended["https://evil.example/x.png"] == "csp"
    one.requests.remove("https://evil.example/x.png")  # told of before the policy ends it


def test_a_busy_or_absent_server(visit: Opener):
    from playwright.sync_api import expect

    page = visit(expected="503|429|ERR_FAILED|ERR_INTERNET").page
    page.locator(".tile img").first.wait_for()
    answers: list[Any] = []

    def answer(route: Route) -> None:
        status = answers.pop(0) if answers else None
        if status is None:
            route.fallback()
        elif status == 0:
            route.abort()
        else:
            route.fulfill(
                status=status,
                headers={"retry-after": "1", "content-type": "application/problem+json"},
                body=json.dumps({"title": "Busy", "status": status, "detail": "too much at once"}),
            )

    page.route("**/v1/search", answer)
    answers[:] = [503]
    page.locator(".tile a", has_text="cat").first.click()
    expect(page.get_by_role("status")).to_contain_text("Trying again in 1 second")
    expect(page.locator("#grid")).to_have_attribute("aria-busy", "true")
    _cards(page)
    answers[:] = [429, 429]
    page.get_by_role("switch", name="Fold copies").click()
    panel = page.locator(".panel")
    expect(panel).to_contain_text("The server is busy")
    panel.get_by_role("button", name="Try again").click()
    _cards(page)
    answers[:] = [0]
    page.get_by_role("switch", name="Fold copies").click()
    page.go_back()
    page.goto(page.url.partition("#")[0] + "#tag=bird")
    expect(page.locator("h1:visible")).to_have_text("bird")
    answers[:] = [0]
    page.goto(page.url.partition("#")[0] + "#tag=dog")
    expect(panel).to_contain_text("No connection to the server")
    panel.get_by_role("button", name="Try again").click()
    _cards(page)


def test_the_collection_cannot_be_asked(visit: Opener, browser: Browser, server: Server):
    from playwright.sync_api import expect

    page = visit(expected="ERR_FAILED").page
    page.route("**/v1/collection", lambda route: route.abort())
    page.reload()
    expect(page.locator(".panel")).to_contain_text("No connection to the server")
    page.unroute("**/v1/collection")
    page.get_by_role("button", name="Try again").click()
    page.locator(".tile").first.wait_for()

    def none(route: Route) -> None:
        about = route.fetch().json()
        route.fulfill(json={**about, "images": 0, "tags": 0})

    page.route("**/v1/collection", none)
    page.reload()
    expect(page.locator(".panel")).to_contain_text("no pictures yet")
    expect(page.locator(".panel")).to_contain_text("tagger index COLLECTION")


def test_typing_need_not_wait_for_the_page(visit: Opener):
    from playwright.sync_api import expect

    page = visit().page
    held: list[Route] = []

    def hold(route: Route) -> None:  # playwright takes no method of a built-in type
        held.append(route)

    page.route("**/v1/collection", hold)
    page.reload()
    page.get_by_role("combobox").fill("dog")
    option = page.get_by_role("option", name=re.compile("^dog"))
    option.wait_for()
    held.pop().continue_()
    page.locator(".tile img").first.wait_for()
    expect(page.get_by_role("combobox")).to_have_value("dog")
    option.click()
    _cards(page)
    expect(page.locator("h1:visible")).to_have_text("dog")


def test_an_api_key_is_asked_for(visit: Opener, made: Any, tmp_path: Any):
    from playwright.sync_api import expect

    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with Server(made[0], "--quiet", "--api-key-file", str(keys)) as locked:
        one = visit(url=locked.url, expected="401|404")
        page = one.page
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.locator(".panel")).to_contain_text("asks for an API key")
        page.get_by_role("button", name="Enter a key").click()
        dialog.get_by_label("Key", exact=True).fill("wrong-key-wrong-key")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("does not know this key")
        dialog.get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        page.locator(".tile img[src^='blob:']").first.wait_for()
        page.reload()
        page.locator(".tile img[src^='blob:']").first.wait_for()
        page.locator(".tile a", has_text="cat").first.click()
        _cards(page)
        page.locator(".frame > .box img[src^='blob:']").first.wait_for()
        page.locator(".frame > .box").first.click()
        page.locator(".picture img[src^='blob:']").wait_for()
        page.locator(".eye").first.click()
        page.locator(".heat").wait_for()
        loaded(page)
        assert page.evaluate("[...document.images].every((image) => !image.complete || image.naturalWidth)")
        assert KEY not in page.content()
        assert not [url for url in one.requests if KEY in url]


@pytest.mark.parametrize("name", VIEWS)
def test_every_state_is_accessible_and_fits(visit: Opener, name: str, image_id: Callable[[str], str]):
    from playwright.sync_api import expect

    width = VIEWS[name][0]
    one = visit(view=VIEWS[name], expected="404", bypass_csp=True)  # for axe, which the policy keeps out
    page = one.page
    check = StateChecker(one, name, width)

    expect(page.locator(".tile img")).to_have_count(12)
    check("start")
    page.get_by_role("combobox").fill("ca")
    page.get_by_role("option").first.wait_for()
    check("completion")
    page.keyboard.press("Escape")
    page.evaluate("(hash) => { location.hash = hash; }", _with_image(image_id("chelsea.jpg")))
    _cards(page, PAGE)
    check("results")
    filters = page.get_by_role("button", name="Filters")
    if width < 500:
        filters.click()
        check("sheet")
    page.get_by_role("button", name=re.compile("^mammal")).first.click()
    if width < 500:
        page.get_by_role("button", name="Show the pictures").click()
    expect(page.locator("#chips")).to_contain_text("mammal")
    cards = _cards(page)
    for place, vote in enumerate(["Like", "Like", "Dislike"]):
        cards.nth(place).get_by_role("button", name=re.compile(f"^{vote} ")).click()
    check("facets")
    page.get_by_role("button", name="Recommend").click()
    page.locator(".because").first.wait_for()
    check("recommendations")
    cards.first.locator(".frame > .box").click()
    page.locator(".eye").first.click()
    page.locator(".heat").wait_for()
    page.locator(".similar img").first.wait_for()
    check("detail")
    page.get_by_role("button", name="Close").click()
    page.evaluate("location.hash = '#tag=cat&all=dog'")
    page.get_by_role("heading", name="Nothing matches all of this").wait_for()
    check("empty")
    page.evaluate("location.hash = '#tag=catt'")
    page.get_by_text("There is no tag or category").wait_for()
    check("error")
    assert check.told == []
