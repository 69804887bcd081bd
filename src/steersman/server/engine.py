"""The thread that owns the model: whatever waits when the model becomes free runs as one batch."""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from steersman.core.errors import DataError, NotSteeredError, RecipeError
from steersman.core.requests import Completion, Request
from steersman.server.errors import ApiError, broken, refused
from steersman.server.rows import Row

LOG = logging.getLogger("steersman.server")


class Generate(Protocol):
    """`backends.live.generate_live` with its model."""

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        sink: Callable[[int, int], None],
        cancelled: Callable[[int], bool],
    ) -> list[Completion | NotSteeredError]: ...


class Engine:
    """Rows wait in the order in which they came; batches take them from the front.

    Args:
        generate: runs requests as one batch.
        groups: which of the requests that wait can run together, by index.
        max_batch: rows of one batch at most.
        max_queue: rows that may wait at most.
        ends: tells the tokens that end answers.
    """

    def __init__(
        self,
        generate: Generate,
        groups: Callable[[Sequence[Request]], Sequence[Sequence[int]]],
        *,
        max_batch: int,
        max_queue: int,
        ends: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._generate, self._groups, self._ends = generate, groups, ends
        self.max_batch, self.max_queue = max_batch, max_queue
        self._waiting: list[Row] = []
        self._running: list[Row] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="steersman-model", daemon=True)

    def start(self) -> "Engine":
        """Begins to work."""
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether rows are taken and answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def closing(self) -> bool:
        return self._closed

    @property
    def num_waiting(self) -> int:
        with self._changed:
            return sum(not row.cancelled for row in self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(self, rows: Sequence[Row]) -> None:
        """Lets rows wait for the model, all of them or none.

        Raises:
            ApiError: too many wait already, or the server is going down.
        """
        with self._changed:
            if not self.alive:
                raise going_down()
            self._waiting = [row for row in self._waiting if not row.cancelled]
            if len(self._waiting) + len(rows) > self.max_queue:
                raise ApiError(
                    429,
                    f"{len(self._waiting)} answers wait already, and {self.max_queue} may. Try "
                    "again in a moment.",
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            self._waiting.extend(rows)
            self._changed.notify()

    def close(self) -> None:
        """Takes no more rows; those that wait are still answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def stop(self, seconds: float) -> bool:
        """Ends the thread, and tells whether it ended in time.

        What has not been answered after half of it is cancelled.
        """
        self.close()
        self._thread.join(seconds / 2)
        with self._changed:
            for row in (*self._waiting, *self._running):
                row.cancelled = True
        self._thread.join(seconds / 2)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            self._run(batch)
            self._running = []

    def _next(self) -> list[Row] | None:
        """The row that waited longest, and those that can run with it; None at the end."""
        with self._changed:
            while True:
                self._waiting = [row for row in self._waiting if not row.cancelled]
                if self._waiting or self._closed:
                    break
                self._changed.wait()
            if not self._waiting:
                return None
            waiting = list(self._waiting)
        together = self._together([row.request for row in waiting])  # it may have to count tokens
        batch = [waiting[i] for i in together]
        with self._changed:
            self._waiting = [row for row in self._waiting if row not in batch]
            self._running = batch
        return batch

    def _together(self, requests: Sequence[Request]) -> list[int]:
        try:
            for group in self._groups(requests):
                if 0 in group:
                    return sorted(group)[: self.max_batch]
        except Exception as error:  # whose request it is shows when it runs alone
            LOG.warning("requests could not be grouped; the oldest runs alone", exc_info=error)
        return [0]

    def _run(self, batch: Sequence[Row]) -> None:
        """Answers all rows; if that fails, each half by itself, until no row spoils another."""
        error = self._answered(batch)
        if error is None:
            return
        if len(batch) == 1:
            batch[0].fail(_said(error))
            return
        LOG.warning("a batch of %d failed; its halves run apart", len(batch), exc_info=error)
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            rows = [row for row in half if not row.cancelled]
            for row in rows:
                row.begin_again()
            if rows:
                self._run(rows)

    def _answered(self, batch: Sequence[Row]) -> Exception | None:
        """Runs the batch; the error, if it is not answered."""
        try:
            ends = frozenset(self._ends())
            made = self._generate(
                [row.request for row in batch],
                sink=lambda i, token: batch[i].take(token, ends=token in ends),
                cancelled=lambda i: batch[i].over,
            )
        except Exception as error:
            return error
        for row, completion in zip(batch, made, strict=True):
            try:
                if isinstance(completion, NotSteeredError):
                    raise completion
                row.finish(completion)
            except Exception as error:
                row.fail(_said(error))
        return None


def _said(error: Exception) -> ApiError:
    """What a client is told of it."""
    if isinstance(error, NotSteeredError):
        return ApiError(500, str(error), code="not_steered", param="steering")
    if isinstance(error, (RecipeError, DataError)):
        return refused(str(error))
    LOG.error("a request failed", exc_info=error)
    return broken()


def going_down() -> ApiError:
    """What is told while the server ends."""
    return ApiError(
        503,
        "The server is going down and takes no more requests. Try another one, or again later.",
        code="shutting_down",
        headers={"Retry-After": "5"},
    )
