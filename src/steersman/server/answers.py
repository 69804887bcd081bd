"""Answers in OpenAI's shapes: whole, and in pieces."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steersman.core.serving import Steering, told
from steersman.server.rows import Done


@dataclass(frozen=True, slots=True)
class Shape:
    """One of the two kinds of answers.

    Attributes:
        kind: "chat" has messages, "text" has texts.
    """

    kind: Literal["chat", "text"]

    @property
    def prefix(self) -> str:
        return "chatcmpl" if self.kind == "chat" else "cmpl"

    @property
    def strips(self) -> bool:
        """Whether white space around an answer is left out: not where it goes on with a text."""
        return self.kind == "chat"

    def object(self, *, chunk: bool) -> str:
        if self.kind == "text":
            return "text_completion"
        return "chat.completion.chunk" if chunk else "chat.completion"

    def whole(self, text: str) -> dict[str, Any]:
        """What a choice of a whole answer says."""
        if self.kind == "text":
            return {"text": text}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def first(self) -> dict[str, Any] | None:
        """What a stream says of a choice before its text."""
        if self.kind == "text":
            return None
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}

    def piece(self, text: str) -> dict[str, Any]:
        """What a stream says of a choice's text."""
        return {"text": text} if self.kind == "text" else {"delta": {"content": text}}

    def last(self) -> dict[str, Any]:
        """What a stream says of a choice when it is over."""
        return {"text": ""} if self.kind == "text" else {"delta": {}}


CHAT, TEXT = Shape("chat"), Shape("text")


class Answer:
    """What all that is said of one request has in common.

    Args:
        name: of the request.
        model: as clients call it.
        fingerprint: changes when the model does.
    """

    def __init__(
        self, shape: Shape, name: str, *, model: str, fingerprint: str, steering: Steering | None
    ) -> None:
        self.shape, self.model = shape, model
        self._steering = steering
        self._head = {
            "id": f"{shape.prefix}-{name}",
            "object": "",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def steering(self, done: Done) -> dict[str, Any] | None:
        """What steering did to one answer; None where it was not asked for."""
        if self._steering is None:
            return None
        return finite(told(self._steering, done.completion.trace))

    def whole(self, answers: Sequence[Done], num_prompts: int) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        did = [self.steering(done) for done in answers]
        choices = [
            {
                "index": i,
                **self.shape.whole(done.text),
                "logprobs": None,
                "finish_reason": done.finish,
                **({"steering": did[i]} if len(answers) > 1 else {}),
            }
            for i, done in enumerate(answers)
        ]
        head = {**self._head, "object": self.shape.object(chunk=False)}
        used = usage(answers, num_prompts)
        return {**head, "choices": choices, "usage": used, "steering": did[0]}

    def chunk(
        self, index: int, said: dict[str, Any], *, finish: str | None = None, usage: bool
    ) -> dict[str, Any]:
        """A chunk of a stream about one choice."""
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        return self._chunk([choice], {"usage": None} if usage else {})

    def end(self, index: int, done: Done, *, usage: bool) -> dict[str, Any]:
        """The chunk that ends a choice, with what steering did to it."""
        chunk = self.chunk(index, self.shape.last(), finish=done.finish, usage=usage)
        return {**chunk, "steering": self.steering(done)}

    def counted(self, answers: Sequence[Done], num_prompts: int) -> dict[str, Any]:
        """The chunk behind all others that says how many tokens there were."""
        return self._chunk([], {"usage": usage(answers, num_prompts)})

    def _chunk(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        head = {**self._head, "object": self.shape.object(chunk=True)}
        return {**head, "choices": choices, **more}


def usage(answers: Sequence[Done], num_prompts: int) -> dict[str, int]:
    """Tokens of the prompts, each counted once, and of all answers."""
    each = max(1, len(answers) // num_prompts)
    given = sum(done.completion.num_prompt_tokens for done in answers[::each])
    made = sum(len(done.completion.token_ids) for done in answers)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def event(content: object) -> bytes:
    """One server-sent event."""
    return (
        b"data: " + json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"
    )


END = b"data: [DONE]\n\n"


def finite(value: Any) -> Any:
    """The value as JSON has it: what is no number is null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
