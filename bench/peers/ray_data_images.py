"""Ray Data, as its batch inference example for images writes it.

https://docs.ray.io/en/latest/data/examples/pytorch_resnet_batch_prediction.html (Ray 2.53 to 2.60, read
2026-11-23): read_images, `map` with the torchvision transforms, an actor class under `map_batches`, then
drop_columns and write_parquet to a `local://` folder. Changed for a machine without GPUs as the page says: no
num_gpus («if you are doing CPU inference, you can remove the num_gpus=1»), one model replica instead of four
GPUs, and a batch of 64 instead of 720 («you may need to reduce this number to run this locally»).
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import numpy as np  # noqa: TC002 - as the page writes it
import ray
import torch
from same_model import job, load_model, torchvision_transform
from torchvision import transforms

this = job()
ray.init()
this.ready()

transform = transforms.Compose([transforms.ToTensor(), torchvision_transform()])


def preprocess_image(row: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"original_image": row["image"], "path": row["path"], "transformed_image": transform(row["image"])}


class Model:
    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model().to(self.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        torch_batch = torch.from_numpy(batch["transformed_image"]).to(self.device)
        with torch.inference_mode():
            prediction = self.model(torch_batch)
            predicted_classes = prediction.argmax(dim=1).detach().cpu()
        return {
            "path": batch["path"],
            "predicted_label": predicted_classes.numpy(),
            "original_image": batch["original_image"],
        }


def server() -> Any:
    """pyarrow's S3 file system for an endpoint that is not Amazon's."""
    from pyarrow.fs import S3FileSystem

    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    return S3FileSystem(
        endpoint_override=endpoint.netloc, scheme=endpoint.scheme, region=os.environ["AWS_REGION"]
    )


ds = ray.data.read_images(
    this.source.removeprefix("s3://"), filesystem=server(), mode="RGB", include_paths=True
)
predictions = ds.map(preprocess_image).map_batches(
    Model, compute=ray.data.ActorPoolStrategy(size=1), batch_size=64
)
predictions.drop_columns(["original_image"]).write_parquet(f"local://{this.out}")

this.done()
