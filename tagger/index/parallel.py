"""Filling an index on a Ray cluster: one task a partition, merged on the driver.

On one machine a process does without: FAISS, Parquet and BLAS use all cores from threads, and nothing has to
be started, pickled or merged.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.collection.parts import part_key
from tagger.collection.reading import scan_parts
from tagger.engine.session import ray_session
from tagger.index.building import Partition, partitions
from tagger.index.codes import Codes
from tagger.index.filling import BATCH_ROWS, ROW_COLUMNS, Filled, fill
from tagger.index.vectors import padded_rows
from tagger.settings import load_settings
from tagger.spill import spill_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tagger.collection import Collection, LivePart
    from tagger.index.building import FillAll
    from tagger.index.probe import Probe
    from tagger.settings import Settings
    from tagger.storage import Store

_LEAST_ROWS: Final = 16_384  # of a partition: a task has to be worth its start
_MOST_ROWS: Final = 1_000_000
_TASKS_A_CPU: Final = 2  # so that one slow task is not waited for by all
_RETRIES: Final = 3


@contextmanager
def fill_on_ray(collection: Collection, address: str | None, settings: Settings) -> Iterator[FillAll]:
    """Connect to a cluster, and give a function that fills an index on it.

    Args:
        collection: Whose table is read, by the tasks themselves.
        address: Of the cluster; None starts one on this machine.
        settings: What the environment says.

    Raises:
        UsageError: The cluster is beyond loopback and no token is set.
        RunError: It does not answer.
    """
    with ray_session(address, settings=settings) as resources:
        cpus = max(1, int(resources.get("CPU", 1)))

        def fill_all(
            parts: Sequence[LivePart], codes: Codes | None, probe: Probe, version: str
        ) -> Iterator[Filled]:
            return _filled(collection, parts, codes, probe, version=version, cpus=cpus)

        yield fill_all


def _filled(
    collection: Collection,
    parts: Sequence[LivePart],
    codes: Codes | None,
    probe: Probe,
    *,
    version: str,
    cpus: int,
) -> Iterator[Filled]:
    import ray

    total = sum(part.rows for part in parts)
    rows = min(_MOST_ROWS, max(_LEAST_ROWS, -(-total // (_TASKS_A_CPU * cpus))))
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_fill_partition)
    trained = ray.put(None if codes is None else codes.empty_copy().to_bytes())
    sizes = {part.path: part.size_bytes for part in parts}
    start, waiting = 0, []
    for partition in partitions(parts, rows):
        mine = {path: sizes[path] for path in partition.parts}
        waiting.append(
            task.remote(
                collection.store,
                partition,
                mine,
                trained,
                probe,
                version=version,
                start=start,
                dim=collection.config.dim,
            )
        )
        # A task cannot know how many rows of those before it are of failed images: it takes room for all.
        start += padded_rows(partition.rows, collection.config.dim)
    for reference in waiting:
        yield ray.get(reference)


def _fill_partition(
    store: Store,
    partition: Partition,
    sizes: Mapping[str, int],
    trained: Any,
    probe: Probe,
    *,
    version: str,
    start: int,
    dim: int,
) -> Filled:
    """Fill one partition, in a process of the cluster. Doing it again writes the same file again."""
    import faiss

    faiss.omp_set_num_threads(1)
    codes = None if trained is None else Codes.from_bytes(np.array(trained))
    files = [(path, part_key(path), sizes[path]) for path in partition.parts]
    batches = scan_parts(store, files, columns=list(ROW_COLUMNS), batch_rows=BATCH_ROWS)
    with spill_folder(load_settings().cache_dir, f"index-{version}-{start}") as folder:
        filled = fill(
            store,
            batches,
            version=version,
            start=start,
            dim=dim,
            codes=codes,
            probe=probe,
            folder=folder,
            reserve=partition.rows,
        )
    filled.codes = None if codes is None else codes.to_bytes()
    return filled
