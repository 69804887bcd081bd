"""Rows: the answers that one HTTP request waits for, between the event loop and the model."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from steersman.core.requests import Completion, Request
from steersman.core.serving import Steering
from steersman.server.errors import ApiError
from steersman.server.text import Text


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text of an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer."""

    text: str
    completion: Completion
    finish: Literal["stop", "length"]


Event = Piece | Done | ApiError


class Row:
    """One answer: made in the model's thread, told in the event loop.

    Args:
        tell: takes events, from any thread.
        streams: whether pieces are told as they are made.

    Attributes:
        cancelled: nobody waits for it any more.
        complete: all its tokens are made, though it may not be told yet.
    """

    def __init__(
        self,
        request: Request,
        text: Text,
        *,
        tell: Callable[[Event], None],
        streams: bool = False,
    ) -> None:
        self.request, self.text, self._tell, self._streams = request, text, tell, streams
        self.cancelled = self.complete = False
        self._ids: list[int] = []
        self._again = 0

    @property
    def over(self) -> bool:
        """Whether no more tokens are wanted; of an answer made anew, once it is as far again."""
        return self.cancelled or (self.text.stopped and self._again == len(self._ids))

    def take(self, token: int, *, ends: bool = False) -> None:
        """One more token.

        Args:
            ends: whether the answer ends with it.

        Raises:
            RuntimeError: the row runs anew, and says something else than the first time.
        """
        if self._again < len(self._ids):
            if self._ids[self._again] != token:
                raise RuntimeError("An answer that ran anew differed from what was told of it.")
            self._again += 1
            return
        self._ids.append(token)
        self._again += 1
        piece = self.text.push(token)
        full = len(self._ids) >= self.request.max_new_tokens
        self.complete = ends or full or self.text.stopped
        if piece and self._streams and not self.cancelled:
            self._tell(Piece(piece))

    def begin_again(self) -> None:
        """The row will run anew: what was told is not told twice."""
        self._again = 0

    def finish(self, completion: Completion) -> None:
        """The answer is whole."""
        rest = self.text.end()
        if rest and self._streams:
            self._tell(Piece(rest))
        at_length = completion.finish == "length" and not self.text.stopped
        finish: Literal["stop", "length"] = "length" if at_length else "stop"
        self._tell(Done(self.text.whole, completion, finish))

    def fail(self, error: ApiError) -> None:
        """There is no answer."""
        self._tell(error)


class Job:
    """The rows of one HTTP request, and what is told of them, in the order in which it happens.

    Args:
        timeout: seconds from now on.
        steering: how all rows are steered.
    """

    def __init__(self, *, timeout: float, steering: Steering | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self._timeout, self._deadline = timeout, self.began + timeout
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.steering = steering
        self.rows: list[Row] = []

    def add(self, request: Request, text: Text, *, streams: bool) -> None:
        """One more row."""
        index = len(self.rows)
        self.rows.append(
            Row(request, text, tell=lambda event: self._told(index, event), streams=streams)
        )

    def _told(self, index: int, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def next(self) -> tuple[int, Piece | Done]:
        """What happens next, and to which row.

        Raises:
            ApiError: a row failed, or the time is over and an answer is not complete; the other
                rows are cancelled.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                index, event = await self._events.get()
        except TimeoutError:
            if not all(row.complete for row in self.rows):
                self.cancel()
                raise ApiError(
                    504,
                    f"The answer took longer than {self._timeout:g} seconds and was stopped. Ask "
                    "for fewer tokens, or raise --timeout.",
                    code="timeout",
                ) from None
            index, event = await self._events.get()  # told when the batch ends
        if isinstance(event, ApiError):
            self.cancel()
            raise event
        return index, event

    async def all(self) -> list[Done]:
        """All answers, in the order of the rows.

        Raises:
            ApiError: as in `next`.
        """
        done: dict[int, Done] = {}
        while len(done) < len(self.rows):
            index, event = await self.next()
            if isinstance(event, Done):
                done[index] = event
        return [done[i] for i in range(len(self.rows))]

    def cancel(self) -> None:
        """Nobody waits for the answers any more."""
        for row in self.rows:
            row.cancelled = True
