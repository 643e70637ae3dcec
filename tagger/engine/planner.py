"""Lists and plans in a thread of the driver, while the stream already tags."""

import contextlib
import threading

from tagger.engine.plan import Plan
from tagger.engine.planstore import PlanWriter
from tagger.errors import StoreUnavailable, UsageError
from tagger.storage import Store


class Planner:
    """Runs a plan to its end in the background and stores its chunks as they come.

    Args:
        plan: The plan; closed by `close`.
        store: Folder of the run, where the chunks go.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self._writer = PlanWriter(store)
        self._changed = threading.Condition()
        self._chunk_ends: list[int] = []  # images in chunks 0..n
        self._done = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    def start(self) -> None:
        """Begin to list."""
        self._thread.start()

    @property
    def chunks(self) -> int:
        """Chunks planned so far; all of them once `done`."""
        return len(self._chunk_ends)

    @property
    def done(self) -> bool:
        """Whether the listing has ended and every chunk is stored."""
        return self._done

    def images_in(self, chunks: int) -> int:
        """Return how many images the first `chunks` chunks hold."""
        return self._chunk_ends[chunks - 1] if chunks else 0

    def raise_error(self) -> None:
        """Raise what ended the planning, if anything did."""
        if self._error is not None:
            raise self._error

    def wait_for_first_chunk(self) -> bool:
        """Wait until there is something to do; False when the plan ended without a chunk."""
        with self._changed:
            while not (self._chunk_ends or self._done or self._error):
                self._changed.wait(0.5)
        self.raise_error()
        return bool(self._chunk_ends)

    def close(self) -> None:
        """Let go of the temporary database; the listing must have ended or be of no more use."""
        self.plan.close()

    def _run(self) -> None:
        try:
            for chunk in self.plan:
                self._writer.add(chunk)
                with self._changed:
                    self._chunk_ends.append(chunk.num_rows + self.images_in(self.chunks))
                    self._changed.notify_all()
            self._writer.close()
            self._done = True
        except BaseException as error:  # shown by the main thread, which owns the run
            # The first page came: what is refused now (credentials ran out, say) is no wrong usage any more.
            self._error = StoreUnavailable(str(error)) if isinstance(error, UsageError) else error
            with contextlib.suppress(Exception):  # for readers; the run ends anyway
                self._writer.fail(str(error))
        with self._changed:
            self._changed.notify_all()
