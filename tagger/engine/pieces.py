"""Work in numbered pieces on the machines of a cluster, as one Ray Data stream."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tagger import errors
from tagger.engine.session import ray_session
from tagger.errors import RunError, TaggerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tagger.settings import Settings

    Work = Callable[[int], bytes]

_RESTARTS: Final = 3  # of a worker, whose machine may be lost


def in_pieces(
    make: Callable[[], Work], pieces: int, *, address: str | None, settings: Settings
) -> Iterator[tuple[int, bytes]]:
    """Do pieces of work on a cluster, each of them once, in any order.

    Args:
        make: Makes what does the work, in every worker once; travels to the workers, so it holds no secret.
        pieces: How many there are, numbered from 0.
        address: Of the cluster; None starts one on this machine.
        settings: What the environment says.

    Yields:
        Number and result of each piece.

    Raises:
        UsageError: The cluster is beyond loopback and no token is set.
        RunError: It does not answer, or a piece could not be done.
    """
    with ray_session(address, settings=settings) as resources:
        import ray
        import ray.data
        from ray.exceptions import RayError

        from tagger.engine.stream import configure

        configure()
        cpus = max(1, int(resources.get("CPU", 1)))
        workers = max(1, min(cpus - 1, pieces))  # reading the numbers takes one for a moment
        share = 1.0 if cpus > workers else 0.5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arguments that actors take and that Ray Data would rename
            dataset = ray.data.range(pieces, override_num_blocks=pieces).map_batches(
                _Worker,
                fn_constructor_args=(make,),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=share,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                max_restarts=_RESTARTS,
                max_task_retries=_RESTARTS,
            )
        done: set[int] = set()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
                    piece, result, error = (batch.column(name)[0].as_py() for name in batch.column_names)
                    if error is not None:
                        raise getattr(errors, error[0], RunError)(error[1])
                    if piece not in done:
                        done.add(piece)
                        yield piece, result
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RunError(f"the cluster could not do its part: {last}") from error
        if len(done) != pieces:
            raise RunError(f"the cluster answered {len(done)} of {pieces} parts: run the same command again")


class _Worker:
    """Columns in: `id`. Columns out: `piece`, `result`, `error`. Rows: one in, one out.

    What is raised on purpose travels as a row, because Ray keeps only the text of an exception.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self._make = make
        self._work: Work | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        piece = batch.column("id")[0].as_py()
        result, error = b"", None
        try:
            self._work = self._work or self._make()
            result = self._work(piece)
        except TaggerError as told:
            error = [type(told).__name__, str(told)]
        columns: dict[str, Any] = {
            "piece": pa.array([piece], pa.int64()),
            "result": pa.array([result], pa.large_binary()),
            "error": pa.array([error], pa.list_(pa.string())),
        }
        return pa.table(columns)
