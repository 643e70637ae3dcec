"""A PyTorch DataLoader loop over objects in S3, as people write it.

A Dataset with `__len__` and `__getitem__`, transforms and a DataLoader with a batch of 64:
https://docs.pytorch.org/tutorials/beginner/basics/data_tutorial.html, and one worker process per core, as
https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html asks for (both read 2026-11-23). Instead
of a file `__getitem__` reads an object with boto3, whose client is made once per worker because it must not
be shared by fork.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import boto3
import torch
from PIL import Image
from same_model import job, load_model, torchvision_transform
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

this = job()


class S3Images(Dataset):
    def __init__(self, source: str, transform: Any) -> None:
        self.bucket, _, prefix = source.removeprefix("s3://").partition("/")
        pages = (
            boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        )
        self.keys = [row["Key"] for page in pages for row in page.get("Contents", [])]
        self.transform = transform
        self.client: Any = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        if self.client is None:
            self.client = boto3.client("s3")
        body = self.client.get_object(Bucket=self.bucket, Key=self.keys[index])["Body"].read()
        image = Image.open(io.BytesIO(body)).convert("RGB")
        return self.transform(image), self.keys[index]


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    this.ready()
    model = load_model().to(device)
    dataset = S3Images(this.source, transforms.Compose([transforms.ToTensor(), torchvision_transform()]))
    loader = DataLoader(dataset, batch_size=64, num_workers=this.cores)
    with (Path(this.out) / "labels.csv").open("w", newline="") as file, torch.inference_mode():
        writer = csv.writer(file)
        for images, keys in loader:
            labels = model(images.to(device)).argmax(dim=1).tolist()
            writer.writerows(zip(keys, labels, strict=True))
    this.done()


if __name__ == "__main__":
    main()
