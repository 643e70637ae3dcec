"""The page as HTML: complete, strict, and names stay text."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import failed_row, rows_table

from tagger.report.gather import COLUMNS, gather
from tagger.report.outliers import Outlier, OutlierSheet
from tagger.report.page import Content, render
from tagger.report.runs import History
from tagger.report.samples import Picture
from tagger.report.sheets import Thumbnails
from tagger.report.wording import shown

HOSTILE = [
    '"><img src=x onerror=alert(1)>.jpg',
    "</style><script>alert(1)</script>",
    "</title></bdi></td><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% for %}",
    "<!--",
    "a\x00b\x1b[31m\r\n\tc",
    "evil\u202egpj.exe",
    "&lt;b&gt;&amp;",
    "=1+1.jpg",
    "]]>",
    "//evil.example/x.jpg",
    "javascript:alert(1)",
]
_ATTRIBUTES = {
    *("alt", "aria-hidden", "aria-label", "aria-labelledby", "charset", "class", "content", "d", "decoding"),
    *("fill", "fill-rule", "focusable", "height", "href", "http-equiv", "id", "lang", "name", "role", "rx"),
    *(
        "preserveaspectratio",
        "scope",
        "src",
        "stroke",
        "stroke-width",
        "tabindex",
        "title",
        "viewbox",
        "width",
        "x",
        "y",
    ),
}
_ELEMENTS = {
    *(
        "a",
        "article",
        "b",
        "bdi",
        "body",
        "caption",
        "code",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "figcaption",
    ),
    *(
        "figure",
        "footer",
        "h1",
        "h2",
        "h3",
        "head",
        "header",
        "html",
        "img",
        "li",
        "main",
        "meta",
        "nav",
        "ol",
    ),
    *(
        "p",
        "path",
        "rect",
        "section",
        "small",
        "span",
        "style",
        "summary",
        "svg",
        "table",
        "tbody",
        "td",
        "th",
    ),
    *("thead", "title", "tr", "ul"),
}
_VOID = {"meta", "img"}


class Strict(HTMLParser):
    """Parses a page; refuses elements, attributes and addresses that the templates do not write."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _ELEMENTS, tag
        for name, value in attrs:
            assert name in _ATTRIBUTES, (tag, name, value)
            if name == "href":
                assert value is not None
                assert value.startswith("#")
            if name == "src":
                assert value is not None
                assert value.startswith("data:image/webp;base64,")
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(rows: list[dict[str, Any]], *, records: list[dict[str, Any]] | None = None, **values: Any) -> str:
    """Render the report of some rows without pictures."""
    content: dict[str, Any] = {
        "uri": "s3://bucket/collection",
        "made": "2026-01-02 03:04 UTC",
        "model": {"model": "efficientnet_lite0"},
        "threshold": 0.1,
        "table_version": 3,
        "found": gather(rows_table(rows).select(list(COLUMNS)).to_batches()),
        "thumbnails": Thumbnails({}, {}),
        "history": History.of(records or []),
    }
    return render(Content(**(content | values)))


def hostile_rows(name: str) -> list[dict[str, Any]]:
    """Return rows with a name wherever a text goes."""
    return [
        {
            "image_id": f"id {name}",
            "uri": f"s3://b/{name}",
            "status": "tagged",
            "format": name,
            "tags": [{"tag": name, "score": 0.5, "source": name}],
            "categories": [{"tag": name, "score": 0.5}],
            "colors": [{"hex": name[:7], "name": name, "fraction": 0.5}],
            "phash": name,
        },
        failed_row(f"failed {name}", name, name),
    ]


def hostile_record(name: str) -> dict[str, Any]:
    """Return the record of a run with a name wherever a text goes."""
    return {
        "run_id": name,
        "state": name,
        "started_at": name,
        "settings": {"command": name, name: [name, {name: name}]},
        "versions": {name: name},
        "result": {"planned": 2, "seconds": 1.0, "stage_seconds": {name: 1.0}},
    }


def hostile_outliers(name: str) -> OutlierSheet:
    """Return a sheet with a name wherever a text goes."""
    nearest = Picture(f"near {name}", f"s3://b/near/{name}", None)
    outlier = Outlier(f"far {name}", f"s3://b/far/{name}", None, 0.9, nearest)
    return OutlierSheet(outliers=(outlier,), measured=3, images=3, behind=name)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str):
    done = {
        "run_id": "r",
        "state": "done",
        "result": {"planned": 1, "seconds": 1, "stage_seconds": {name: 1.0}},
    }
    page = page_of(
        hostile_rows(name),
        uri=f"s3://bucket/{name}",
        model={"model": name},
        program=name,
        thumbnails=Thumbnails({}, {f"s3://b/{name}": name, f"s3://b/far/{name}": name}),
        outliers=hostile_outliers(name),
        records=[hostile_record(name), done],
    )
    parsed = Strict(page)
    assert shown(name) in parsed.text
    assert parsed.text.count(shown(f"failed {name}")) == 1
    assert shown(f"far {name}") in parsed.text
    assert shown(f"near {name}") in parsed.text
    page += page_of(hostile_rows(name), outliers=OutlierSheet(lacking="usable", detail=name))
    assert f"because {shown(name)}." in Strict(page).text
    assert not {"\x00", "\x1b", "\u202e"} & set(page)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_name_is_text_and_every_character_is_visible(name: str):
    page = page_of(
        hostile_rows(name),
        uri=f"s3://bucket/{name}",
        records=[hostile_record(name)],
        outliers=hostile_outliers(name),
    )
    parsed = Strict(page)
    assert shown(name) in parsed.text
    without_joiners = shown(name).replace("\u200d", "")
    assert without_joiners.isprintable()


def test_the_policy_allows_this_style_and_nothing_else():
    page = page_of([])
    parsed = Strict(page)
    policies = [a["content"] for tag, a in parsed.seen if a.get("http-equiv") == "Content-Security-Policy"]
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "url(" not in style
    assert "@import" not in style
    assert "script" not in {tag for tag, _ in parsed.seen}


def test_ids_are_unique_and_links_lead_somewhere():
    parsed = Strict(page_of(hostile_rows("cat"), outliers=hostile_outliers("cat")))
    ids = [a["id"] for _, a in parsed.seen if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for _, a in parsed.seen if "href" in a}
    assert targets <= set(ids)
    tables = [tag for tag, _ in parsed.seen if tag in ("table", "caption")]
    assert tables == ["table", "caption"] * (len(tables) // 2)


def test_an_empty_collection_says_what_to_do():
    text = Strict(page_of([])).text
    assert "Nothing is tagged yet" in text
    assert "tagger tag SOURCE COLLECTION" in text
    assert "No timings" in text


def test_without_failures_the_page_says_so():
    row = {"image_id": "a", "uri": "s3://b/a", "status": "tagged", "tags": []}
    text = Strict(page_of([row])).text
    assert "No image failed" in text
    assert "No image has a tag" in text
    assert "tagger retag COLLECTION --threshold" in text


def test_when_all_failed_the_page_leads_to_the_reasons():
    text = Strict(
        page_of([failed_row("s3://b/a", "corrupt", "cut short"), failed_row("s3://b/c", "timeout", None)])
    ).text
    assert "All 2 images failed" in text
    assert "--retry-failed" in text
    assert "Every later run tries it again" in text


def test_odd_records_do_not_break_the_page():
    records: list[dict[str, Any]] = [
        {},
        {"run_id": 7, "state": None, "result": [], "settings": "x", "versions": None},
        {
            "run_id": "a",
            "state": "done",
            "result": {"planned": "many", "seconds": -1, "stage_seconds": {"x": None}},
        },
        {
            "run_id": "b",
            "state": "done",
            "result": {"planned": 3, "seconds": 0.0, "images_per_s": float("nan")},
        },
    ]
    Strict(page_of([], records=records))


def test_equal_content_gives_equal_bytes():
    rows = hostile_rows("cat")
    assert page_of(rows) == page_of(rows)
