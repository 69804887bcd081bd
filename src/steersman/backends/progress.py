"""How far reading has come."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CaptureProgress:
    """How far a call has come.

    Attributes:
        what: "capture", "answer_states" or "complete".
        rows: prompts that are done, those from the cache among them.
        total: prompts of this call, each counted once.
        cached: prompts that the cache knew.
        tokens: tokens that the model ran, where that is known.
        seconds: since the call began.
    """

    what: str
    rows: int
    total: int
    cached: int
    tokens: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows that the model made, by the second."""
        return (self.rows - self.cached) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None until the model has made a row."""
        left = self.total - self.rows
        if not left:
            return 0.0
        return left / self.rows_per_second if self.rows_per_second else None


class Watch:
    """Counts what one call has done."""

    def __init__(
        self, what: str, total: int, tell: Callable[[CaptureProgress, CaptureProgress], None]
    ) -> None:
        self._tell = tell
        self._began = time.monotonic()
        self._now = CaptureProgress(what, 0, total, 0, 0, 0.0)
        self._tell(self._now, CaptureProgress(what, 0, 0, 0, 0, 0.0))

    def add(self, *, rows: int, cached: int = 0, tokens: int = 0) -> None:
        was = self._now
        self._now = CaptureProgress(
            was.what,
            rows=was.rows + rows,
            total=was.total,
            cached=was.cached + cached,
            tokens=was.tokens + tokens,
            seconds=time.monotonic() - self._began,
        )
        self._tell(self._now, was)
