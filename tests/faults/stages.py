"""Stages of a run that misbehave; workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from tagger.engine.blocks import chunk_number
from tagger.engine.planstore import PlanReader
from tagger.engine.tagging import Tagger

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

DEADLY_CHUNK = 3


class DeadlyTagger(Tagger):
    """Dies at one chunk, every time, as a CNN does that runs out of memory on it."""

    def __call__(self, block: pa.Table) -> pa.Table:
        if chunk_number(block) == DEADLY_CHUNK:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block)


class SlowTagger(Tagger):
    """Takes its time over every chunk, so that there is a middle of the run to strike at."""

    def __call__(self, block: pa.Table) -> pa.Table:
        time.sleep(float(os.environ["TEST_SECONDS_PER_CHUNK"]))
        return super().__call__(block)


class SlowPlanReader(PlanReader):
    """Takes its time from one chunk of the plan to the next, so that it can be struck in between."""

    def chunks(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, pa.Table]]:
        for chunk in super().chunks(*args, **kwargs):
            yield chunk
            time.sleep(float(os.environ["TEST_SECONDS_PER_CHUNK"]))


def make(name: str) -> Any:
    """Return the stage of this name."""
    return {"deadly": DeadlyTagger, "slow": SlowTagger}[name]
