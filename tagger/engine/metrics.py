"""What a run on a cluster counts for Prometheus, through Ray's own metrics of every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.engine.parts import Receipt


class RunMetrics:
    """Counters and gauges of one run; Ray adds `ray_` before their names, and `_total` behind counters.

    A cluster of our own has nobody who collects them, so there nothing is counted.

    Args:
        run_id: A label of everything, so that two runs on one cluster stay apart.
        collected: Whether the cluster collects metrics.
    """

    def __init__(self, run_id: str, *, collected: bool) -> None:
        self._collected = collected
        if not collected:
            return
        from ray.util.metrics import Counter, Gauge

        self._run = {"run": run_id}
        self._images: Any = Counter("tagger_images", "Images with a row.", ("run", "status"))
        self._failures: Any = Counter("tagger_failures", "Failed images by code.", ("run", "code"))
        self._seconds: Any = Counter(
            "tagger_stage_seconds", "Time by stage, added up over all workers.", ("run", "stage")
        )
        self._planned: Any = Gauge("tagger_images_planned", "Images planned so far.", ("run",))
        self._waiting: Any = Gauge("tagger_images_waiting", "Images planned and without a row.", ("run",))

    def committed(self, receipts: list[Receipt]) -> None:
        """Count what was committed."""
        if not self._collected:
            return
        for receipt in receipts:
            failed = receipt.rows - receipt.tagged
            for counter, label, counts in (
                (self._images, "status", {"tagged": receipt.tagged, "failed": failed}),
                (self._failures, "code", receipt.errors),
                (self._seconds, "stage", receipt.seconds),
            ):
                for value, count in counts.items():
                    if count:  # Ray's counters take no zero
                        counter.inc(count, {**self._run, label: value})

    def show(self, *, planned: int, done: int) -> None:
        """Tell how much is planned, and how much of it has a row."""
        if self._collected:
            self._planned.set(planned, self._run)
            self._waiting.set(planned - done, self._run)
