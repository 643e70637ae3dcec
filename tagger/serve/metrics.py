"""What the server counts, for Prometheus."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

STAGES: Final = (
    "upload",
    "decode_and_model",
    "search",
    "recommend",
    "read_image",
    "render",
    "explain",
    "products",
    "decisions",
)


class Metrics:
    """Counters of one server; labels take few values, whatever callers send."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "tagger_requests", "Requests answered.", ("endpoint", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "tagger_request_seconds",
            "From a request's headers to its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stage = Histogram(
            "tagger_stage_seconds",
            "Time in a stage of the work.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.connections = Gauge("tagger_connections", "Open connections.", registry=self._registry)
        self.in_flight = Gauge("tagger_requests_in_flight", "Requests at work.", registry=self._registry)
        self.images = Gauge("tagger_index_images", "Images in the served index.", registry=self._registry)
        self.loaded_at = Gauge(
            "tagger_index_loaded_timestamp_seconds", "When it was loaded.", registry=self._registry
        )
        self.reloads = Counter(
            "tagger_index_reloads", "Looks at a new index version.", ("outcome",), registry=self._registry
        )
        self.products = Gauge(
            "tagger_catalog_products", "Products of the served catalog.", registry=self._registry
        )
        self.decisions = Gauge(
            "tagger_decisions", "Tags of images accepted or rejected.", registry=self._registry
        )
        self.cache_bytes = Gauge(
            "tagger_thumbnail_cache_bytes", "Thumbnails in memory.", registry=self._registry
        )
        self.batch = Histogram(
            "tagger_picture_batch",
            "Query pictures that went through the model together.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self._stages = {name: self._stage.labels(name) for name in STAGES}

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one of `STAGES`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name].observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """Return everything in the text format."""
        return generate_latest(self._registry)
