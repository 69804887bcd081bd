"""What vLLM answers to a request that was steered: passed on as it comes, with `steering` in it."""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from steersman.core.serving import told
from steersman.core.tree import Plain
from steersman.server.errors import ApiError
from steersman.server.events import Events, data_of, object_of, packed, with_object
from steersman.server.policy_routes import EngineError
from steersman.server.vllm_orders import FIELD, Order, read

Told = dict[str, Plain]
Asking = Callable[[str], Awaitable[Sequence[Told]]]
Mode = Literal["pass", "json", "stream", "error"]
ENDS = re.compile(rb'"finish_reason"\s*:\s*"')
CODED = re.compile(r"(E_[A-Z_]+): ")


class Answer:
    """The `send` of one request.

    Args:
        send: where the answer goes.
        traces: asks the workers what they did under a name.

    Attributes:
        status: of the answer; 0 before there is one.
        told: how the first choice was steered, once that is known.
        added: seconds that were spent on asking and on writing it down.
        failed: whether the client got an error of the server's.
        done: whether the whole answer has been sent.
    """

    def __init__(self, order: Order, send: Send, traces: Asking) -> None:
        self._order, self._send, self._ask = order, send, traces
        self._mode: Mode = "pass"
        self._start: Message = {}
        self._body = bytearray()
        self._events = Events()
        self._choices: dict[int, Told] = {}
        self._total = order.n * order.num_prompts
        self._held: list[tuple[bytes, dict[str, Any]]] = []
        self._ends = 0
        self._cut = False
        self.status, self.added = 0, 0.0
        self.told: Told | None = None
        self.failed = self.done = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._continue(message)
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self.status, self._start = message["status"], message
        headers = MutableHeaders(raw=list(message.get("headers", [])))
        kind = headers.get("content-type", "")
        if kind.startswith("text/event-stream") and self.status < 400:
            self._mode = "stream"
            del headers["content-length"]
            await self._send({**message, "headers": headers.raw})
        else:
            self._mode = "json" if self.status < 400 else "error"

    async def _continue(self, message: Message) -> None:
        last, body = not message.get("more_body", False), message.get("body", b"")
        if self._mode == "stream":
            events = self._events.feed(body)
            if last and (rest := self._events.rest()):
                events.append(rest)
            passed = [await self._event(event) for event in events]
            if last:
                passed.append(await self._flush())
            body = b"".join(passed)
            if body or last:
                await self._send({**message, "body": body, "more_body": not last})
            self.done = last
            return
        self._body += body
        if last:
            await self._whole(bytes(self._body))

    async def _whole(self, body: bytes) -> None:
        given = read(body)
        if self._mode == "error":
            self.failed = self.status >= 500
            await self._finish(body if given is None else _coded(body, given))
            return
        began = time.perf_counter()
        try:
            if given is None:
                raise EngineError("E_ENGINE", "vLLM's answer is not a JSON object.")
            await self._put(given, _listed(given.get("choices")))
            body = packed(given)
        except EngineError as error:
            body = self._fail(error)
        self.added += time.perf_counter() - began
        await self._finish(body)

    async def _event(self, event: bytes) -> bytes:
        """What is sent for an event: itself, or nothing yet."""
        if b"[DONE]" in event and data_of(event) == "[DONE]":
            return await self._flush() + event
        if self._cut:
            return b""
        if event.startswith(b'data: {"error"'):
            self.failed = True
        given = object_of(event) if ENDS.search(event) else None
        ended = [] if given is None else _ended(given)
        if given is None or not ended:
            return event
        self._held.append((event, given))
        self._ends += len(ended)
        return await self._flush() if self._ends >= self._total else b""

    async def _flush(self) -> bytes:
        """The events with which choices ended.

        They wait for one another, as the workers do not know which of the requests under way have
        ended, and tell of each but once.
        """
        held, self._held = self._held, []
        began = time.perf_counter()
        made: list[bytes] = []
        try:
            for event, given in held:
                await self._put(given, _ended(given))
                made.append(with_object(event, given))
        except EngineError as error:
            self._cut = True
            made.append(b"data: " + self._fail(error) + b"\n\n")
        self.added += time.perf_counter() - began
        return b"".join(made)

    async def _put(self, given: dict[str, Any], choices: Sequence[dict[str, Any]]) -> None:
        """Writes `steering` into an answer, and into each choice where there are several."""
        if not self._order.told:
            self.told = told(self._order.asked, {})
            given[FIELD] = None
            return
        several = self._total > 1
        indices = [c.get("index", 0) if several else 0 for c in choices] or [0]
        if not self._order.asked.acts:
            self._choices = dict.fromkeys(indices, told(self._order.asked, {}))
        elif not all(i in self._choices for i in indices):
            await self._learn(str(given.get("id", "")), alone=not several)
        for index in indices:
            _refuse_error(self._choices.get(index))
        given[FIELD] = self._choices[indices[0]]
        if self.told is None or indices[0] == 0:
            self.told = self._choices[indices[0]]
        if several:
            for index, choice in zip(indices, choices, strict=False):
                choice[FIELD] = self._choices[index]

    async def _learn(self, answer: str, *, alone: bool) -> None:
        for trace in await self._ask(self._order.trace):
            request = str(trace.get("request", ""))
            index = 0 if alone else self._index(request, answer)
            if index is not None:
                self._choices[index] = {k: v for k, v in trace.items() if k != "request"}

    def _index(self, request: str, answer: str) -> int | None:
        """Which choice vLLM's engine ran under this id; None if that is not to be known.

        The answer's id is in all of them: `{choice of the prompt}_{id}-{prompt}-{8 characters}`,
        where only several choices, completions and no old setting have the first, second and last.
        """
        prompt = r"-(\d+)" if answer.startswith("cmpl-") else r"()"
        found = re.fullmatch(rf"(?:(\d+)_)?{re.escape(answer)}{prompt}(?:-\w{{8}})?", request)
        if found is None:
            return None
        return int(found[2] or 0) * self._order.n + int(found[1] or 0)

    def _fail(self, error: EngineError) -> bytes:
        self.failed, self.status = True, 500
        return packed(ApiError(500, str(error), code=error.code).body())

    async def _finish(self, body: bytes) -> None:
        headers = MutableHeaders(raw=list(self._start.get("headers", [])))
        headers["content-length"] = str(len(body))
        await self._send({**self._start, "status": self.status, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})
        self.done = True


def _refuse_error(trace: Told | None) -> None:
    """Raises where steering was asked for and did not act, or nothing says that it did."""
    if trace is None:
        raise EngineError(
            "E_NO_TRACE",
            "Nothing shows that this request was steered: the engine has no record of it.",
        )
    error = trace.get("error")
    if isinstance(error, dict):
        raise EngineError(str(error.get("code", "E_ENGINE")), str(error.get("message", "")))


def _listed(given: object) -> list[dict[str, Any]]:
    items: list[Any] = given if isinstance(given, list) else []
    return [item for item in items if isinstance(item, dict)]


def _ended(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Choices that end with this event."""
    return [choice for choice in _listed(given.get("choices")) if choice.get("finish_reason")]


def _coded(body: bytes, given: dict[str, Any]) -> bytes:
    """The same error; what steering refused inside of vLLM gets its code where programs look."""
    error = given.get("error")
    found = CODED.match(str(error.get("message", ""))) if isinstance(error, dict) else None
    if found is None:
        return body
    return packed({**given, "error": {**given["error"], "code": found[1]}})
