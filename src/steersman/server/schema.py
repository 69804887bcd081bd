"""The bodies that clients send: OpenAI's fields, read strictly.

A field that is not known is refused with the nearest name, and one that would not be honoured when
it is set to anything but what it does by itself.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, ClassVar, Literal, LiteralString

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from steersman.core.errors import nearest
from steersman.server.errors import ApiError, from_validation, refused

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_STOP = 256
"""Characters of a stop."""
MAX_PROMPTS = 64
MAX_MESSAGES = 1000
MAX_PARTS = 256
MAX_VALUES = 100_000
"""Values in a body, with those inside of others."""
MAX_DEPTH = 32
SEEDS = 2**63

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that are not honoured, with the values besides null that ask for nothing."""

HARMLESS = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key")
"""OpenAI's fields that change no answer: taken, and not used."""


def is_neutral(name: str, value: object) -> bool:
    """Whether a field that is not honoured asks for nothing."""
    return value is None or any(value == v and _kind(value) == _kind(v) for v in NEUTRAL[name])


def _kind(value: object) -> type:
    return float if type(value) is int else type(value)  # 0 and 0.0 are the same, 0 and False not


class Strict(BaseModel):
    """A body, or a piece of one, that says which of its fields are not known."""

    model_config = ConfigDict(strict=True, extra="ignore")
    unused: ClassVar[tuple[str, ...]] = ()
    """Fields that are taken as long as they are null or empty."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        for name, value in given.items():
            if name in cls.model_fields:
                continue
            if name in cls.unused:
                if value:
                    raise _wrong("unsupported_parameter", name, _unused(name, value))
                continue
            known = nearest(name[:80], cls.model_fields)
            raise _wrong("unknown_parameter", name, f"There is no field {name[:80]!r}.{known}")
        return given


def _wrong(kind: LiteralString, name: str, said: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{said}", {"said": said, "param": name[:80]})


def _unused(name: str, value: object) -> str:
    shown = json.dumps(value, default=str)[:80]
    return f"{name} is {shown}, which this server does not honour. Leave it out."


class TextPart(Strict):
    """Text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where an image is: in the URL itself (data:), or somewhere that the server may fetch from."""

    url: str
    detail: Literal["auto"] | None = None


class ImagePart(Strict):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Strict):
    """One message of a chat."""

    unused = ("name", "refusal", "tool_calls", "function_call", "audio", "annotations")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]


class StreamOptions(Strict):
    """How a stream is told."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


Stop = Annotated[str, Field(max_length=MAX_STOP)]


class Body(Strict):
    """What both kinds of requests have."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    steering: Any = Field(
        None,
        description="How the answer is steered; null is not at all.",
        examples=[{"policy": "l2s", "strength": 1.0, "scope": None, "shadow": False}],
    )
    user: Any = None
    metadata: Any = None
    store: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @model_validator(mode="before")
    @classmethod
    def _honoured(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        for name in NEUTRAL:
            if name in given and not is_neutral(name, given[name]):
                raise _wrong("unsupported_parameter", name, _unused(name, given[name]))
        return {name: value for name, value in given.items() if name not in NEUTRAL}

    @property
    def stops(self) -> tuple[str, ...]:
        """Where the answer is cut."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    @property
    def steers(self) -> bool:
        """Whether the request itself says how it is steered, or that it is not."""
        return "steering" in self.model_fields_set

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)


class CompletionBody(Body):
    """`POST /v1/completions`: prompts as they are, without the chat template."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]

    @property
    def prompts(self) -> list[str]:
        """One or several, each answered by itself."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def read_body(file: bytes, model: type[Body]) -> Body:
    """A body as a client sent it, strictly read; takes a while if it is large.

    Raises:
        ValueError: it is no JSON.
        RecursionError: likewise, because it goes too deep for the parser.
        ApiError: it has too much in it, or something else than the model has.
    """
    given = json.loads(file)
    _check_size(given)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)
        raise from_validation([{**one, "loc": ("body", *one["loc"])} for one in told]) from error


def _check_size(given: object) -> None:
    """Refuses what would take long to look at, and halves of characters, which nobody can write."""
    level: list[Any] = [given]
    values = 0
    for _ in range(MAX_DEPTH):
        values += len(level)
        if values > MAX_VALUES:
            raise refused(f"The body has more than {MAX_VALUES:,} values. Send fewer.")
        inside: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                inside.extend(value)
                inside.extend(value.values())
            elif isinstance(value, list):
                inside.extend(value)
        if not inside:
            return
        level = inside
    raise refused(f"The body goes more than {MAX_DEPTH} levels deep. Send a flatter one.")


def _check_text(text: str) -> None:
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise refused("The body has half of a surrogate pair.", code="invalid_json") from None


class JsonRequest(Request):
    """A request whose body is read in a thread, so that large ones hold up nobody.

    Args:
        model: what the body is to be.
    """

    def __init__(self, request: Request, model: type[Body]) -> None:
        super().__init__(request.scope, request.receive)
        self._model = model

    async def json(self) -> Any:
        file = await self.body()
        try:
            return await asyncio.to_thread(read_body, file, self._model)
        except ApiError as error:  # FastAPI lets no other exception through
            raise HTTPException(error.status, error.body()) from error


class JsonRoute(APIRoute):
    """A route whose body is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        model = self.body_field.field_info.annotation if self.body_field else None
        assert isinstance(model, type) and issubclass(model, Body)

        async def read(request: Request) -> Response:
            return await handler(JsonRequest(request, model))

        return read
