"""A tagging run: the plan, the stream through Ray Data, the commits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.engine.dry_run import Estimate, estimate
    from tagger.engine.options import Run, TagOptions
    from tagger.engine.run import tag

__all__ = ["Estimate", "Run", "TagOptions", "estimate", "tag"]

_HOMES = {
    "Estimate": "tagger.engine.dry_run",
    "Run": "tagger.engine.options",
    "TagOptions": "tagger.engine.options",
    "estimate": "tagger.engine.dry_run",
    "tag": "tagger.engine.run",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
