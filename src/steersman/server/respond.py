"""From a job to the response: whole or streamed, given up when the client is gone."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steersman.core.serving import Steering
from steersman.server.answers import END, Answer, event
from steersman.server.errors import ApiError, Json
from steersman.server.metrics import ServingMetrics
from steersman.server.rows import Done, Job, Piece

T = TypeVar("T")
GONE = 499  # as nginx writes it into its logs; nobody is there to read it


class Report:
    """What the log and the metrics are told of one request, once.

    Args:
        told: fields of its line in the log.
        texts: whether the log is told what was asked and answered.
    """

    def __init__(
        self, metrics: ServingMetrics, told: dict[str, Any], *, texts: bool = False
    ) -> None:
        self._metrics, self._told, self._texts = metrics, told, texts
        self._steering: Steering | None = None

    def asked(self, steering: Steering | None, **fields: object) -> None:
        """What was asked for."""
        self._steering = steering
        self._told |= fields
        if steering is not None:
            self._told |= {"policy": steering.policy, "strength": steering.strength}
            self._told |= {"scope": steering.scope, "shadow": steering.shadow}

    def prompts(self, texts: list[str]) -> None:
        """What was asked, if the log may know it."""
        if self._texts:
            self._told["prompts"] = texts

    def answered(self, answer: Answer, done: list[Done], seconds: float) -> None:
        """All answers are there."""
        self._told["tokens"] = sum(len(d.completion.token_ids) for d in done)
        self._told["finish"] = done[0].finish
        if self._texts:
            self._told["answers"] = [d.text for d in done]
        for one in done:
            did = answer.steering(one)
            if did is None or self._steering is None:
                continue
            if one is done[0]:
                self._told |= {"gate": did["gate"], "tokens_written": did["tokens_written"]}
            self._metrics.answered(self._steering, did, seconds=seconds)

    def failed(self, error: ApiError, policy: str | None) -> None:
        """There is an error instead."""
        self._told["error"] = error.code
        if policy is None:
            return
        if error.status >= 500:
            self._metrics.failed(policy)
        else:
            self._metrics.refused(policy)


class GoneError(Exception):
    """The client does not wait any more."""


async def while_connected(request: Request, job: Job, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, unless the client goes; then the job is given up.

    Raises:
        GoneError: it went.
        ApiError: the job failed.
    """
    made, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({made, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            raise GoneError
        return made.result()
    except BaseException:
        job.cancel()
        raise
    finally:
        made.cancel()
        gone.cancel()
        await asyncio.gather(made, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def seconds_of(job: Job) -> float:
    """Since it was asked for."""
    return asyncio.get_running_loop().time() - job.began


async def whole(
    request: Request, job: Job, answer: Answer, report: Report, num_prompts: int
) -> Response:
    """An answer in one piece.

    Raises:
        ApiError: there is none.
    """
    try:
        done = await while_connected(request, job, job.all())
    except GoneError:
        request.scope["state"]["told"]["error"] = "client_gone"
        return Response(status_code=GONE)
    body = answer.whole(done, num_prompts)
    report.answered(answer, done, seconds_of(job))
    return Json(body)


class Stream(StreamingResponse):
    """Server-sent events; the job is given up when nobody reads them any more."""

    def __init__(self, job: Job, content: AsyncIterator[bytes]) -> None:
        super().__init__(
            content,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def streamed(
    request: Request, job: Job, answer: Answer, report: Report, *, num_prompts: int, usage: bool
) -> Response:
    """An answer in pieces. What fails before the first of them is an error of HTTP.

    Raises:
        ApiError: there is no first piece.
    """
    try:
        first = await while_connected(request, job, job.next())
    except GoneError:
        request.scope["state"]["told"]["error"] = "client_gone"
        return Response(status_code=GONE)

    async def events() -> AsyncIterator[bytes]:
        done: dict[int, Done] = {}
        for index in range(len(job.rows)):
            if (said := answer.shape.first()) is not None:
                yield event(answer.chunk(index, said, usage=usage))
        index, happened = first
        try:
            while True:
                if isinstance(happened, Piece):
                    said = answer.shape.piece(happened.text)
                    yield event(answer.chunk(index, said, usage=usage))
                else:
                    done[index] = happened
                    yield event(answer.end(index, happened, usage=usage))
                if len(done) == len(job.rows):
                    break
                index, happened = await job.next()
            ordered = [done[i] for i in range(len(job.rows))]
            report.answered(answer, ordered, seconds_of(job))
            if usage:
                yield event(answer.counted(ordered, num_prompts))
        except ApiError as error:
            report.failed(error, job.steering.policy if job.steering else None)
            yield event(error.body())
        yield END

    return Stream(job, events())
