"""What requests and answers look like; openapi.json is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from tagger.vision.colors import COLOR_NAMES, color_spelling

MOST_K: Final = 1_000
MOST_OFFSET: Final = 10_000
"""As far as pages of a list go; beyond, narrow the search. Deep pages cost what a scan costs."""

MOST_FOLDED_OFFSET: Final = 1_000
"""As `MOST_OFFSET`, with `fold`: each image is compared with all before it."""

MOST_RECOMMENDED: Final = 200
"""Each recommendation is compared with all candidates: 200 of them take half a second, 1,000 two seconds."""

HEAVY: Final = 200
"""A search that reads more ranks than this waits for its turn among its like, and not among the others."""

MOST_BATCH: Final = 100
MOST_ID: Final = 4_096
"""Characters of an image_id: as many as a path has; percent-encoded it still fits into a URL."""

MOST_IMAGES: Final = 100
_MOST_WORDS: Final = 50
_MOST_DIM: Final = 16_384

_A_PHOTO: Final = "s3://shop/shoes/0042.jpg"

Id = Annotated[str, StringConstraints(min_length=1, max_length=MOST_ID)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Words = Annotated[list[Word], Field(max_length=_MOST_WORDS)]
Pixels = Annotated[int, Field(ge=0, le=2**31 - 1)]
K = Annotated[int, Field(ge=1, le=MOST_K, description="Most matches.")]
Color = Annotated[
    Literal[COLOR_NAMES],  # type: ignore[valid-type]
    BeforeValidator(lambda given: color_spelling(given) if isinstance(given, str) else given),
]


class Asked(BaseModel):
    """What a caller sends: no field is guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FilterBody(Asked):
    """Which images may be found. A tag stands for its descendants, too: dog for every breed."""

    tags_any: Words = Field([], description="At least one of these tags or categories.")
    tags_all: Words = Field([], description="All of these.")
    tags_none: Words = Field([], description="None of these.")
    min_score: float = Field(0.0, ge=0, le=1, description="Least score of a tag that counts.")
    color: Color | None = Field(None, description="A colour that covers at least a tenth of the picture.")
    min_width_px: Pixels = Field(0, description="Least width.")
    min_height_px: Pixels = Field(0, description="Least height.")


class SearchBody(Asked):
    """What to search for: a picture of the collection, an embedding, a tag, or a picture with a tag."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image_id": _A_PHOTO, "k": 5, "filter": {"tags_any": ["shoe"], "color": "red"}},
                {"tag": "dog", "k": 20, "offset": 20},
            ],
            "anyOf": [{"required": ["image_id"]}, {"required": ["embedding"]}, {"required": ["tag"]}],
        }
    )

    image_id: Id | Annotated[list[Id], Field(min_length=1, max_length=MOST_IMAGES)] | None = Field(
        None, description="An image of the collection, or several, of which the mean is taken."
    )
    embedding: Annotated[list[float], Field(max_length=_MOST_DIM, fail_fast=True)] | None = Field(
        None, description="A vector that the collection's model made."
    )
    model_id: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="The model that made `embedding`; another one than the collection's is refused."
    )
    tag: Word | None = Field(None, description="A tag or category; beside a picture it narrows.")
    k: K = 10
    offset: int = Field(
        0, ge=0, le=MOST_OFFSET, description="Matches to skip: `next_offset` of the page before."
    )
    fold: bool = Field(default=False, description="Show one of several images with the same picture.")
    filter: FilterBody | None = None

    @model_validator(mode="after")
    def _bounded(self) -> SearchBody:
        if self.offset > self.most_offset:
            raise ValueError(f"offset must be at most {MOST_FOLDED_OFFSET:,} with fold")
        return self

    @property
    def most_offset(self) -> int:
        """As far as pages go."""
        return MOST_FOLDED_OFFSET if self.fold else MOST_OFFSET

    @property
    def is_heavy(self) -> bool:
        """Whether it costs far more than most."""
        return self.k + self.offset > HEAVY


class BatchBody(Asked):
    """Several searches in one request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"queries": [{"tag": "cat", "k": 3}, {"image_id": _A_PHOTO, "k": 3}]}]
        }
    )

    queries: list[SearchBody] = Field(min_length=1, max_length=MOST_BATCH, fail_fast=True)


class RecommendBody(Asked):
    """What a customer liked and disliked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"positive": [_A_PHOTO], "k": 12}]})

    positive: Annotated[list[Id], Field(min_length=1, max_length=MOST_IMAGES)] = Field(
        description="Images that were liked."
    )
    negative: Annotated[list[Id], Field(max_length=MOST_IMAGES)] = Field(
        [], description="Images that were disliked."
    )
    k: Annotated[int, Field(ge=1, le=MOST_RECOMMENDED, description="Most recommendations.")] = 10
    filter: FilterBody | None = None
    diversity: float = Field(
        0.3, ge=0, le=1, description="From 0, the most similar, to 1, the most different from each other."
    )


class Scored(BaseModel):
    """A word and how sure it is, from 0 to 1."""

    tag: str
    score: float


class MatchBody(BaseModel):
    """One answer."""

    image_id: str
    score: float = Field(description="Higher is better: the cosine of the embeddings, or the tag's score.")
    tags: list[Scored]
    categories: list[Scored]
    folded: list[str] = Field([], description="Images with the same picture; only with `fold`.")
    because: str | None = Field(None, description="The liked image it resembles; only of recommendations.")


class FoundBody(BaseModel):
    """Matches, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_id": "efficientnet_lite0-0c5b",
                    "index_version": "20261102T080000-1f",
                    "matches": [
                        {
                            "image_id": _A_PHOTO,
                            "score": 0.83,
                            "tags": [{"tag": "running shoe", "score": 0.91}],
                            "categories": [{"tag": "footwear", "score": 0.97}],
                        }
                    ],
                    "next_offset": 10,
                }
            ]
        }
    )

    model_id: str
    index_version: str
    matches: list[MatchBody]
    next_offset: int | None = Field(description="Where the next page begins; null after the last.")


class BatchFound(BaseModel):
    """One result a query, in their order; a query that cannot be answered has a problem instead."""

    results: list[FoundBody | ProblemBody]


class TagBody(BaseModel):
    """A word of the collection."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tag": "tabby", "parent": "cat", "count": 1204}]}
    )

    tag: str
    parent: str | None = Field(description="The category directly above; null at the top.")
    count: int = Field(description="Images that have it or a descendant of it.")


class CatalogBody(BaseModel):
    """A catalog whose products are served."""

    name: str
    products: int
    written_at: str
    decisions: int = Field(description="Tags of images that were accepted or rejected.")


class CollectionBody(BaseModel):
    """What is served."""

    name: str
    model: str
    model_id: str
    dim: int = Field(description="Length of an embedding.")
    images: int
    tags: int = Field(description="Different tags and categories.")
    index_version: str
    index_kind: str
    recall_at_10: float | None = Field(description="Measured when the index was built; 1 if it is exact.")
    indexed_at: str
    age_s: float
    behind: str | None = Field(description="What the index does not show yet, if it is older than the table.")
    colors: list[str]
    explains: bool = Field(description="Whether the model can tell where it saw a tag.")
    framing: str = Field(description="What the model sees: `crop` is the centre, others the whole picture.")
    max_k: int
    max_offset: int
    max_folded_offset: int
    max_picture_bytes: int
    catalog: CatalogBody | None = Field(description="Null where no catalog is served.")


class WordWithParents(BaseModel):
    """A word of an image."""

    tag: str
    score: float
    parents: list[str] = Field(description="Categories above, nearest first.")


class ColorBody(BaseModel):
    """A colour of an image."""

    name: str
    fraction: float


class ImageBody(BaseModel):
    """What is known of an image."""

    image_id: str
    width_px: int | None
    height_px: int | None
    tagged_at: str
    tags: list[WordWithParents]
    categories: list[WordWithParents]
    colors: list[ColorBody]


class FieldError(BaseModel):
    """A field of the request that is wrong."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no tag or category 'catt'; similar: cat",
                    "request_id": "5f0c-1a",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence that says what to do.")
    request_id: str
    errors: list[FieldError] = []
    similar: list[str] = Field([], description="Words that may have been meant.")


class HealthBody(BaseModel):
    """Whether the server is alive, or ready."""

    status: str


class UploadBody(BaseModel):
    """A picture to search for, as a form with a file."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"}, description="An image file.")]
    tag: Word | None = None
    k: K = 10
    offset: Annotated[int, Field(ge=0, le=MOST_OFFSET)] = 0
    fold: bool = False
    filter: str | None = Field(None, description="A filter as JSON.", examples=['{"tags_any": ["shoe"]}'])


BatchFound.model_rebuild()

REQUESTS: Final[dict[str, type[BaseModel]]] = {
    model.__name__: model for model in (SearchBody, BatchBody, RecommendBody, UploadBody)
}


def example(model: type[BaseModel]) -> Any:
    """Return the first example of a body."""
    extra = model.model_config.get("json_schema_extra")
    assert isinstance(extra, dict)
    examples = extra["examples"]
    assert isinstance(examples, list)
    return examples[0]
