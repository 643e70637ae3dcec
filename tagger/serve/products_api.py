"""The products of a catalog, and what people decide about them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from tagger.catalog.flags import FLAGS
from tagger.catalog.writing import BETWEEN
from tagger.errors import RunError
from tagger.serve.answers import ALWAYS, OF_BODIES, json_answer, off_the_loop, problems, served_by
from tagger.serve.decisions import Decision, Decisions
from tagger.serve.problems import Refused
from tagger.serve.product_bodies import (
    MOST_PRODUCTS,
    MOST_Q,
    DecisionsBody,
    KeptBody,
    ProductBody,
    ProductsBody,
)
from tagger.serve.products import ANY_FLAG, ProductFilter
from tagger.serve.requests import content, json_body
from tagger.spreadsheet import csv_writer, harmless_cell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from tagger.serve.products import Products
    from tagger.serve.served import Served

router = APIRouter()

_MOST_OFFSET: Final = 100_000_000
_MOST_KEY: Final = 4_096
_CSV: Final = "text/csv; charset=utf-8"
_BLOCK_CHARS: Final = 1 << 16

Flag = Annotated[
    Literal[(ANY_FLAG, *FLAGS)] | None,  # type: ignore[valid-type]
    Query(description="Only products with this flag, or with any."),
]
Category = Annotated[
    str | None, Query(max_length=_MOST_KEY, description="Only products of this category of the shop's.")
]
Words = Annotated[
    str, Query(max_length=MOST_Q, description="Only products whose title, id or category have these words.")
]
Decided = Annotated[
    bool | None,
    Query(description="Only products of which something was decided, or nothing."),
]


def _file(name: str) -> dict[int | str, dict[str, Any]]:
    content = {"text/csv": {"schema": {"type": "string"}}}
    return {200: {"description": f"{name}, as CSV.", "content": content}, **problems(*ALWAYS, 404)}


@router.get(
    "/v1/products",
    response_model=ProductsBody,
    summary="Products of the catalog",
    responses=problems(*ALWAYS, 404),
)
async def products(
    request: Request,
    flag: Flag = None,
    category: Category = None,
    q: Words = "",
    *,
    decided: Decided = None,
    offset: Annotated[
        int, Query(ge=0, le=_MOST_OFFSET, description="Products to skip: `next_offset` of the page before.")
    ] = 0,
    k: Annotated[int, Query(ge=1, le=MOST_PRODUCTS, description="Most products.")] = 24,
) -> Response:
    """Return a page of the products that fit, and how many have which flag and category."""
    served = served_by(request)
    known, decisions = served.products, served.decisions
    asked = ProductFilter(flag=flag, category=category, q=q, decided=decided)

    def work() -> dict[str, Any]:
        with served.metrics.stage("products"):
            images = decisions.images() if decided is not None else []
            rows, counts = known.page(asked, images, offset=offset, k=k)
            last = offset + len(rows)
            return {
                "products": [_card(row, decisions) for row in rows],
                **counts,
                "next_offset": last if rows and last < counts["total"] else None,
                "decisions": len(decisions),
            }

    return json_answer(await off_the_loop(served.workers, work))


@router.get(
    "/v1/product",
    response_model=ProductBody,
    summary="A product with its images and what they show",
    responses=problems(*ALWAYS, 404),
)
async def product(
    request: Request,
    product_id: Annotated[
        str, Query(alias="id", min_length=1, max_length=_MOST_KEY, description="The product_id.")
    ],
) -> Response:
    """Return what the catalog says of a product, and what was decided about it."""
    served = served_by(request)
    known, decisions, index = served.products, served.decisions, served.loaded.index

    def work() -> dict[str, Any]:
        with served.metrics.stage("products"):
            found = known.product(product_id)
            images = [one for one in found["images"] if index.ids.find(one["image_id"]) is not None]
            return {**found, "images": images, "decisions": _decided(images, decisions)}

    return json_answer(await off_the_loop(served.workers, work))


@router.get(
    "/v1/products/export",
    response_class=Response,
    summary="The products that fit, with what was decided",
    responses=_file("product_id, title, accepted_tags, rejected_tags and flags"),
)
async def export(
    request: Request, flag: Flag = None, category: Category = None, q: Words = "", *, decided: Decided = None
) -> Response:
    """Return all products that fit as CSV; several values of a cell are apart by `; `."""
    served = served_by(request)
    known, decisions = served.products, served.decisions
    asked = ProductFilter(flag=flag, category=category, q=q, decided=decided)
    return _download(served, "products.csv", _blocks(_exported(known, asked, decisions)))


@router.post(
    "/v1/decisions",
    response_model=KeptBody,
    summary="Accept or reject tags of images",
    responses=problems(*ALWAYS, *OF_BODIES, 404),
    openapi_extra={"requestBody": {"required": True, "content": content(DecisionsBody)}},
)
async def decide(request: Request) -> Response:
    """Keep decisions about tags of images of the index; when they are answered they are on the disk."""
    served = served_by(request)
    decisions, index = served.decisions, served.loaded.index
    asked = await json_body(request, DecisionsBody)

    def work() -> dict[str, Any]:
        with served.metrics.stage("decisions"):
            for image_id in {one.image_id for one in asked.decisions}:
                index.slot(image_id)  # unknown ones refuse all of it
            try:
                before = decisions.keep(Decision(one.image_id, one.tag, one.value) for one in asked.decisions)
            except RunError as error:
                raise Refused(503, str(error)) from None
            served.metrics.decisions.set(len(decisions))
            told = [{"image_id": one.image_id, "tag": one.tag, "value": one.value} for one in before]
            return {"kept": len(before), "decisions": len(decisions), "before": told}

    return json_answer(await off_the_loop(served.background, work))


@router.get(
    "/v1/decisions",
    response_class=Response,
    summary="All decisions as a label file",
    responses=_file("image_id, tag and value: 1 where the tag was accepted, 0 where it was rejected"),
)
async def label_file(request: Request) -> Response:
    """Return a line for every tag of an image that was accepted or rejected."""
    served = served_by(request)
    return _download(served, "labels.csv", served.decisions.label_file())


def _card(row: dict[str, Any], decisions: Decisions) -> dict[str, Any]:
    image_ids = row.pop("image_ids")
    tags = {tag for image_id in image_ids for tag in decisions.of(image_id)}
    flags = list(dict.fromkeys(one["flag"] for one in row["flags"]))
    return {**row, "images": len(image_ids), "flags": flags, "decided": len(tags)}


def _decided(images: Iterable[dict[str, str]], decisions: Decisions) -> list[dict[str, Any]]:
    found: dict[str, list[int]] = {}
    for one in images:
        for tag, value in decisions.of(one["image_id"]).items():
            found.setdefault(tag, [0, 0])[value] += 1
    return [{"tag": tag, "accepted": yes, "rejected": no} for tag, (no, yes) in found.items()]


def _exported(known: Products, asked: ProductFilter, decisions: Decisions) -> Iterator[list[str]]:
    yield ["product_id", "title", "accepted_tags", "rejected_tags", "flags"]
    for product_id, title, flags, image_ids in known.export(asked, decisions.images()):
        tags: tuple[dict[str, None], dict[str, None]] = ({}, {})
        for image_id in image_ids:
            for tag, value in decisions.of(image_id).items():
                tags[value][tag] = None
        yield [
            product_id,
            title or "",
            BETWEEN.join(tags[1]),
            BETWEEN.join(tags[0]),
            BETWEEN.join(_flag_text(one) for one in flags),
        ]


def _flag_text(flag: dict[str, Any]) -> str:
    """Return a flag as `tagger enrich` writes it into CSV."""
    detail = f": {flag['detail']}" if flag["detail"] else ""
    name = f" [{flag['image'].rpartition('/')[2]}]" if flag["image"] else ""
    return f"{flag['flag']}{detail}{name}"


def _blocks(rows: Iterator[list[str]]) -> Iterator[str]:
    """Yield rows as CSV, many at a time."""
    out = io.StringIO()
    writer = csv_writer(out)
    for row in rows:
        writer.writerow([harmless_cell(cell) for cell in row])
        if out.tell() > _BLOCK_CHARS:
            yield out.getvalue()
            out.seek(0)
            out.truncate()
    yield out.getvalue()


def _download(served: Served, name: str, blocks: Iterator[str]) -> Response:
    """Return a file that is sent while it is made."""

    async def sent() -> AsyncIterator[bytes]:
        while (block := await off_the_loop(served.background, lambda: next(blocks, None))) is not None:
            yield block.encode()

    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(sent(), media_type=_CSV, headers=headers)
