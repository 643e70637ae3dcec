"""The `tagger` command with one stage replaced, as named by TEST_TAGGER, TEST_DECODE and TEST_READER."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path


def install() -> None:
    """Put the faulty stages in the place of the real ones."""
    os.environ["RAY_AUTH_MODE"] = "token"  # as the engine does before it imports Ray
    sys.path.insert(0, str(Path(__file__).parent))
    import stages

    from tagger.engine import fetch, stream

    if name := os.environ.get("TEST_TAGGER"):
        stream.ChunkStream = functools.partial(stream.ChunkStream, make_tagger=stages.make(name))
    if os.environ.get("TEST_READER") == "slow":
        stream.PlanReader = stages.SlowPlanReader
    if decode := os.environ.get("TEST_DECODE"):
        fetch.FetchSettings = functools.partial(fetch.FetchSettings, decode=decode)


if __name__ == "__main__":
    sys.argv[0] = "tagger"
    install()
    from tagger.cli import main

    main()
