"""The CNN and the stopwatch that all peers share, so that they differ only in how they feed the model.

The model is timm's `tf_efficientnet_lite0` with the bundled weights, torch eager in float32 on the CPU, as
each peer's documentation runs its own example model.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

INPUT_PX = 224
RESIZE_PX = 256
MEAN = STD = (0.5, 0.5, 0.5)


def load_model() -> Any:
    """Return the model in eval mode, with the weights that `tagger tag` uses."""
    import timm

    from tagger.models import find_model
    from tagger.models.lite import rename_lite
    from tagger.models.weights import read_state_dict, weights_file

    spec = find_model("efficientnet_lite0")
    path = weights_file(spec)
    assert path is not None
    model = timm.create_model(spec.architecture, pretrained=False)
    model.load_state_dict(rename_lite(read_state_dict(spec, path), spec.architecture))
    return model.eval()


def torchvision_transform() -> Any:
    """Return the preset of the model as torchvision transforms, from a tensor in [0, 1]."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(RESIZE_PX, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(INPUT_PX),
            transforms.Normalize(MEAN, STD),
        ]
    )


@dataclass
class Job:
    """What one peer is asked to do: classify every image under `source`, write one row each below `out`."""

    source: str
    out: str
    cores: int
    started: float
    ready_at: float = 0.0

    def ready(self) -> None:
        """Mark the end of the peer's own start-up: imports are done, its runtime is up."""
        self.ready_at = time.time()

    def done(self) -> None:
        """Print the times as one JSON line for the bench to read, once every row is written."""
        times = {"start_up_s": self.ready_at - self.started, "work_s": time.time() - self.ready_at}
        print(json.dumps(times), flush=True)


def job() -> Job:
    """Read the command line that bench.peer_runs gives to every peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", help="s3://bucket/prefix/ of the photos")
    parser.add_argument("out", help="an empty local folder for the results")
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument(
        "--started", type=float, required=True, help="time.time() when the process was started"
    )
    a = parser.parse_args()
    return Job(a.source, a.out, a.cores, a.started)
