"""Daft, as its documentation writes an image pipeline with a model.

https://docs.daft.ai/en/stable/modalities/images/ («End-to-End Image Pipeline»: download → decode → resize →
tensor → a UDF that normalises) and https://docs.daft.ai/en/stable/custom-code/cls/ (a model in a `@daft.cls`
with `@daft.method.batch`), Daft 0.7, both read 2026-11-23. Daft's own resize squashes to 224 by 224 pixels,
as on that page, which is cheaper than the resize and centre crop of the other programs. The image list comes
from `daft.from_glob_path`; labels go to a local Parquet folder.
"""

from __future__ import annotations

import os
from typing import Any

import daft
import numpy as np
import torch
from daft import DataType, col
from daft.io import IOConfig, S3Config
from same_model import INPUT_PX, MEAN, STD, job, load_model

this = job()
this.ready()

io_config = IOConfig(
    s3=S3Config(
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        region_name=os.environ["AWS_REGION"],
        key_id=os.environ["AWS_ACCESS_KEY_ID"],
        access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        use_ssl=False,
    )
)


@daft.func(return_dtype=DataType.tensor(DataType.float32(), shape=(3, INPUT_PX, INPUT_PX)))
def normalize_image(image: Any) -> Any:
    if image is None:
        return None
    mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
    normalized = (image.astype(np.float32) / 255.0 - mean) / std
    return normalized.transpose(2, 0, 1)


@daft.cls
class Model:
    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model().to(self.device)

    @daft.method.batch(return_dtype=DataType.int64(), batch_size=64)
    def predict(self, images: daft.Series) -> list[int]:
        if len(images) == 0:
            return []
        torch_batch = torch.from_numpy(np.array(images.to_pylist())).to(self.device)
        with torch.inference_mode():
            return self.model(torch_batch).argmax(dim=1).detach().cpu().tolist()


df = daft.from_glob_path(f"{this.source.rstrip('/')}/*.jpg", io_config=io_config)
df = df.with_column(
    "image",
    col("path")
    .download(on_error="null", io_config=io_config)
    .decode_image(mode="RGB")
    .resize(INPUT_PX, INPUT_PX),
)
df = df.with_column("tensor", col("image").image_to_tensor())
df = df.with_column("normalized", normalize_image(col("tensor")))
df = df.with_column("label", Model().predict(col("normalized")))
df.select("path", "label").write_parquet(this.out)

this.done()
