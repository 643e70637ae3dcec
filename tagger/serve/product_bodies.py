"""What requests and answers about products look like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tagger.serve.bodies import Asked, Id, Scored
from tagger.serve.decisions import MOST_TAG

MOST_PRODUCTS = 100
"""Products of one page."""

MOST_DECISIONS = 1_000
MOST_Q = 200

_PHOTO = "s3://shop/shoes/0042.jpg"
_FLAGS: dict[str, Any] = {"blurred": 12, "looks_unlike_its_category": 3}
_PRODUCT: dict[str, Any] = {
    "product_id": "SKU-0042",
    "title": "Trail runner",
    "category": "Shoes",
    "price": "89.00",
    "image_id": _PHOTO,
    "images": 2,
    "suggestion": "footwear > running shoe",
    "flags": ["blurred"],
    "decided": 1,
}


class CardBody(BaseModel):
    """A product in a list. What the catalog does not say is null."""

    product_id: str
    title: str | None
    category: str | None = Field(description="In the shop's own words.")
    price: str | None
    image_id: str | None = Field(description="Its first image.")
    images: int = Field(description="How many it has.")
    suggestion: str | None = Field(description="The suggested category, with those above it.")
    flags: list[str] = Field(description="What may be the matter with its pictures.")
    decided: int = Field(description="Tags that were accepted or rejected for any of its images.")


class CategoryCount(BaseModel):
    """A category of the shop."""

    category: str
    count: int


class ProductsBody(BaseModel):
    """A page of products, in the catalog's order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "products": [_PRODUCT],
                    "total": 12,
                    "next_offset": None,
                    "flagged": 14,
                    "flags": _FLAGS,
                    "categories": [{"category": "Shoes", "count": 10}],
                    "decisions": 7,
                }
            ]
        }
    )

    products: list[CardBody]
    total: int = Field(description="Products that were asked for.")
    next_offset: int | None = Field(description="Where the next page begins; null after the last.")
    flagged: int = Field(description="Products with any flag, counted without regard to `flag`.")
    flags: dict[str, int] = Field(description="Products by flag, counted without regard to `flag`.")
    categories: list[CategoryCount] = Field(
        description="The most frequent categories, counted without regard to `category`."
    )
    decisions: int = Field(description="Tags of images that were accepted or rejected so far.")


class PictureBody(BaseModel):
    """An image of a product."""

    image_id: str
    alt_text: str = Field(description="May be empty.")


class ShareBody(BaseModel):
    """A colour of a product's pictures."""

    name: str
    fraction: float


class SuggestionBody(BaseModel):
    """A suggested category."""

    category: str = Field(description="With those above it.")
    tag: str = Field(description="Its last part, which can be accepted or rejected as a tag.")
    score: float
    source: str = Field(description="taxonomy, peers or tags.")


class FlagBody(BaseModel):
    """What may be the matter."""

    flag: str
    image: str | None = Field(description="The image_id, or the name in the catalog that means no image.")
    detail: str | None = Field(description="For duplicate_of the other product's id.")


class ShortBody(BaseModel):
    """Another product."""

    product_id: str
    title: str | None
    image_id: str | None
    score: float


class OwnBody(BaseModel):
    """A column of the shop's catalog."""

    name: str
    value: str


class DecidedBody(BaseModel):
    """What was decided about a tag of a product."""

    tag: str
    accepted: int = Field(description="Images of the product for which it was accepted.")
    rejected: int


class ProductBody(BaseModel):
    """A product with all that is known of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **{name: _PRODUCT[name] for name in ("product_id", "title", "category", "price")},
                    "images": [{"image_id": _PHOTO, "alt_text": "Running shoe, mainly red"}],
                    "tags": [{"tag": "running shoe", "score": 0.91}],
                    "categories": [{"tag": "footwear", "score": 0.97}],
                    "colors": [{"name": "red", "fraction": 0.4}],
                    "suggestion": {
                        "category": "footwear > running shoe",
                        "tag": "running shoe",
                        "score": 0.91,
                        "source": "tags",
                    },
                    "flags": [{"flag": "blurred", "image": _PHOTO, "detail": "sharpness 12"}],
                    "similar_products": [
                        {"product_id": "SKU-0099", "title": "Road runner", "image_id": _PHOTO, "score": 0.83}
                    ],
                    "recommended_with": [],
                    "own": [{"name": "brand", "value": "Peak"}],
                    "decisions": [{"tag": "running shoe", "accepted": 1, "rejected": 0}],
                }
            ]
        }
    )

    product_id: str
    title: str | None
    category: str | None
    price: str | None
    images: list[PictureBody] = Field(description="Those that are in the index that is served.")
    tags: list[Scored]
    categories: list[Scored]
    colors: list[ShareBody]
    suggestion: SuggestionBody | None
    flags: list[FlagBody]
    similar_products: list[ShortBody]
    recommended_with: list[ShortBody]
    own: list[OwnBody] = Field(description="Other columns of the catalog, as text.")
    decisions: list[DecidedBody]


class DecisionBody(Asked):
    """A tag of an image."""

    image_id: Id
    tag: Annotated[str, StringConstraints(min_length=1, max_length=MOST_TAG, pattern=r"\S")] = Field(
        description="Any word or words."
    )
    value: Annotated[int, Field(ge=0, le=1)] | None = Field(
        description="1 accepts it, 0 rejects it, null takes back what was decided."
    )


class DecisionsBody(Asked):
    """Decisions to keep; of several about the same tag of an image the last counts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"decisions": [{"image_id": _PHOTO, "tag": "running shoe", "value": 1}]}]
        }
    )

    decisions: list[DecisionBody] = Field(min_length=1, max_length=MOST_DECISIONS, fail_fast=True)


class KeptBody(BaseModel):
    """What was kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kept": 1,
                    "decisions": 8,
                    "before": [{"image_id": _PHOTO, "tag": "running shoe", "value": None}],
                }
            ]
        }
    )

    kept: int = Field(description="Decisions that changed something; they are on the disk.")
    decisions: int = Field(description="Tags of images that are accepted or rejected now.")
    before: list[DecisionBody] = Field(description="What held before: sending it takes all of it back.")
