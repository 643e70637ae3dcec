"""The columns of the tags table (DESIGN: a collection on disk)."""

from typing import Final

import pyarrow as pa

FORMAT_VERSION: Final = 1

TAG: Final = pa.struct([("tag", pa.string()), ("score", pa.float32()), ("source", pa.string())])
CATEGORY: Final = pa.struct([("tag", pa.string()), ("score", pa.float32())])
COLOR: Final = pa.struct([("hex", pa.string()), ("name", pa.string()), ("fraction", pa.float32())])

SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        ("error", pa.string()),
        ("error_detail", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("format", pa.string()),
        ("tags", pa.list_(TAG)),
        ("categories", pa.list_(CATEGORY)),
        ("colors", pa.list_(COLOR)),
        ("sharpness", pa.float32()),
        ("brightness", pa.float32()),
        ("phash", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("embedding_norm", pa.float32()),
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("tagged_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""One row per image. `tags` is best first, `colors` largest first; `embedding` is null when failed."""

PLAN_SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("old_part", pa.string()),
        ("old_error", pa.string()),
    ]
)
"""One row per planned image; `old_part` is the live part that holds the row it will replace, or null, and
`old_error` the code of that row, where it is one that every run tries again."""
