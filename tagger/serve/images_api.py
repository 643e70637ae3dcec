"""Images, thumbnails and heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tagger.serve.answers import ALWAYS, OF_IMAGES, json_answer, off_the_loop, problems, served_by
from tagger.serve.bodies import MOST_ID, ImageBody
from tagger.serve.images import IMAGE_PX, LARGEST_THUMBNAIL_PX, SMALLEST_PX, THUMBNAIL_PX

if TYPE_CHECKING:
    from tagger.serve.images import Rendered

router = APIRouter()

ImageId = Annotated[str, Query(alias="id", min_length=1, max_length=MOST_ID, description="The image_id.")]
Size = Annotated[
    int, Query(ge=SMALLEST_PX, le=LARGEST_THUMBNAIL_PX, description="Most pixels of the longer side.")
]

_FILE = {"schema": {"type": "string", "format": "binary"}}


def _file(media_type: str, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "The picture.", "content": {media_type: _FILE, **more}},
        304: {"description": "It is the one that If-None-Match names."},
        **problems(*ALWAYS, *OF_IMAGES),
    }


@router.get(
    "/v1/image",
    response_model=ImageBody,
    summary="What is known of an image, or the image",
    responses=_file("image/jpeg"),
)
async def image(request: Request, image_id: ImageId) -> Response:
    """Return tags with their parents, colours and size; or with `Accept: image/*` the picture, as JPEG."""
    served = served_by(request)
    loaded = served.loaded
    if not _wants_picture(request.headers.get("accept", "")):
        answer = json_answer(loaded.image(image_id))
        answer.headers["vary"] = "Accept"
        return answer
    uri, etag = loaded.address(image_id)
    found = await off_the_loop(served.background, lambda: served.images.picture(uri, etag, IMAGE_PX))
    return _sent(request, found, "image/jpeg")


@router.get(
    "/v1/image/thumbnail", response_class=Response, summary="A small picture", responses=_file("image/jpeg")
)
async def thumbnail(request: Request, image_id: ImageId, size: Size = THUMBNAIL_PX) -> Response:
    """Return the picture as JPEG, encoded anew, its longer side at most `size` pixels."""
    served = served_by(request)
    uri, etag = served.loaded.address(image_id)
    found = await off_the_loop(served.background, lambda: served.images.picture(uri, etag, size))
    return _sent(request, found, "image/jpeg")


@router.get(
    "/v1/image/explain",
    response_class=Response,
    summary="Where the CNN saw a tag",
    responses=_file("image/png"),
)
async def explain(
    request: Request,
    image_id: ImageId,
    tag: Annotated[str, Query(min_length=1, max_length=200, description="A tag or category.")],
    size: Size = THUMBNAIL_PX,
) -> Response:
    """Return a heat map as PNG with alpha, to be laid over the thumbnail of the same size."""
    served = served_by(request)
    loaded = served.loaded

    def work() -> Rendered:
        with served.metrics.stage("explain"):
            return served.explainer.heat_map(loaded, image_id, tag, size)

    return _sent(request, await off_the_loop(served.background, work), "image/png")


def _sent(request: Request, file: Rendered, media_type: str) -> Response:
    headers = {"etag": file.etag, "cache-control": "private, max-age=600", "vary": "Accept, Authorization"}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=media_type, headers=headers)


def _wants_picture(accept: str) -> bool:
    """Tell whether an Accept header (RFC 9110) prefers a picture to JSON.

    >>> _wants_picture("image/avif,image/webp,*/*;q=0.8"), _wants_picture("*/*"), _wants_picture("")
    (True, False, False)
    """
    picture = data = 0.0
    for part in accept.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if media_type.startswith("image/"):
            picture = max(picture, weight)
        elif media_type in {"application/json", "application/*", "*/*"}:
            data = max(data, weight)
    return picture > data
