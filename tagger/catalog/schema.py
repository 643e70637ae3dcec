"""The columns that tagger adds to a catalog."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from tagger.catalog.describing import COLOR, TAG
from tagger.catalog.flags import FLAG

PRODUCT: Final = pa.struct([("product_id", pa.string()), ("score", pa.float64())])

OURS: Final = pa.schema(
    [
        ("image_ids", pa.list_(pa.string())),
        ("tags", pa.list_(TAG)),
        ("categories", pa.list_(TAG)),
        ("colors", pa.list_(COLOR)),
        ("category_suggestion", pa.string()),
        ("category_score", pa.float64()),
        ("category_source", pa.string()),
        ("alt_text", pa.list_(pa.string())),
        ("similar_products", pa.list_(PRODUCT)),
        ("quality_flags", pa.list_(FLAG)),
    ]
)
"""What tagger adds to every row. `image_ids` and `alt_text` are of the images that the row names, in the
catalog's order; the rest is of the product, whichever row names its images."""

RECOMMENDED: Final = pa.field("recommended_with", pa.list_(PRODUCT))
"""One more where events are given: products that the same customers like."""

UNMATCHED: Final = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        ("detail", pa.string()),
    ]
)
"""Names in the catalog that mean no image. `row` counts from 1, without the header; `problem` is missing,
ambiguous, failed or not indexed."""


def our_columns(*, with_events: bool) -> pa.Schema:
    """Return tagger's columns, in their order."""
    behind = OURS.get_field_index("similar_products") + 1
    return OURS.insert(behind, RECOMMENDED) if with_events else OURS
