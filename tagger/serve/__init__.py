"""The HTTP API and the web page of a collection.

    serve(collection, ServeOptions(port=8000))        until SIGTERM
    create_app(served)                                an ASGI application
    tagger.serve.deployment                           the same on Ray Serve

Importing this package loads neither FastAPI nor an index.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.serve.app import create_app
    from tagger.serve.metrics import Metrics
    from tagger.serve.options import ServeOptions, read_keys
    from tagger.serve.served import Served
    from tagger.serve.server import serve

__all__ = ["Metrics", "ServeOptions", "Served", "create_app", "read_keys", "serve"]

_HOMES = {
    "Metrics": "metrics",
    "ServeOptions": "options",
    "Served": "served",
    "create_app": "app",
    "read_keys": "options",
    "serve": "server",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
