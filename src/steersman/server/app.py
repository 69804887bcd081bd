"""The app: routes of OpenAI, routes about steering, health and metrics."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp

from steersman import __version__
from steersman.core.errors import nearest
from steersman.core.serving import RefusedError
from steersman.core.types import ModelSpec
from steersman.server.answers import CHAT, TEXT, Answer, Shape
from steersman.server.desk import Asked, Desk
from steersman.server.engine import going_down
from steersman.server.errors import (
    ApiError,
    Json,
    add_error_handlers,
    of_steering,
    refused,
)
from steersman.server.host import EmbeddedHost
from steersman.server.logs import RequestLog
from steersman.server.metrics import ServingMetrics
from steersman.server.policy_routes import add_policy_routes
from steersman.server.respond import Report, streamed, whole
from steersman.server.schema import Body, ChatBody, CompletionBody, JsonRoute
from steersman.server.security import BodyLimit, KeyGuard

PLAIN_TOKENS = 16
"""What OpenAI's completions give who asks for no number of tokens."""


@dataclass(frozen=True)
class Service:
    """What the routes work with.

    Attributes:
        name: what clients call the model.
    """

    name: str
    spec: ModelSpec
    desk: Desk
    host: EmbeddedHost
    metrics: ServingMetrics
    began: int

    @property
    def fingerprint(self) -> str:
        """Changes with the model and with this library."""
        told = json.dumps([__version__, dict(self.spec.fingerprint)], sort_keys=True)
        return f"fp_{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def model(self) -> dict[str, Any]:
        """The model as `/v1/models` has it."""
        told = {"id": self.name, "object": "model", "created": self.began}
        return {**told, "owned_by": "steersman", "max_model_len": self.desk.context}

    def check_model(self, given: str | None) -> None:
        """Refuses requests that are meant for another model."""
        if given is not None and given != self.name:
            raise ApiError(
                404,
                f"There is no model {given[:80]!r}.{nearest(given[:80], [self.name])}",
                code="model_not_found",
                param="model",
            )

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """Answers a chat."""
        return await self._respond(body, request, CHAT)

    async def complete(self, body: CompletionBody, request: Request) -> Response:
        """Goes on with texts."""
        return await self._respond(body, request, TEXT)

    async def _respond(self, body: Body, request: Request, shape: Shape) -> Response:
        state = request.scope["state"]
        report = Report(self.metrics, state["told"], texts=self.desk.settings.log_prompts)
        try:
            return await self._made(body, request, shape, report)
        except RefusedError as error:
            told = of_steering(error)
            report.failed(told, self._policy(body))
            raise told from error
        except ApiError as error:
            report.failed(error, self._policy(body))
            raise

    async def _made(self, body: Body, request: Request, shape: Shape, report: Report) -> Response:
        self.check_model(body.model)
        steering = self.desk.steering(body)
        streams = bool(body.stream)
        report.asked(steering, stream=streams)
        if body.stream_options is not None and not streams:
            raise refused("stream_options is set, but stream is not. Set stream to true, or leave "
                          "it out.", param="stream_options")  # fmt: skip
        asked, most = await self._read(body)
        report.prompts([one.prompt.text for one in asked])
        job = self.desk.job(body, asked, most, strip=shape.strips)
        request.scope["state"]["told"]["prompt_tokens"] = sum(one.tokens for one in asked)
        name = request.scope["state"]["id"]
        answer = Answer(
            shape, name, model=self.name, fingerprint=self.fingerprint, steering=steering
        )
        if not streams:
            return await whole(request, job, answer, report, len(asked))
        return await streamed(
            request, job, answer, report, num_prompts=len(asked), usage=body.wants_usage
        )

    async def _read(self, body: Body) -> tuple[Sequence[Asked], int | None]:
        """The prompts, and how many tokens an answer may have."""
        if isinstance(body, ChatBody):
            given = {n for n in (body.max_tokens, body.max_completion_tokens) if n is not None}
            if len(given) > 1:
                raise refused(
                    "max_tokens and max_completion_tokens differ. Give one of them.",
                    param="max_completion_tokens",
                )
            return [await self.desk.chat(body)], next(iter(given), None)
        assert isinstance(body, CompletionBody)
        most = PLAIN_TOKENS if body.max_tokens is None else body.max_tokens
        return await self.desk.plain(body), most

    def _policy(self, body: Body) -> str | None:
        """The policy that steers a request, as it was named; None if nothing does."""
        if not body.steers:
            return self.desk.settings.default_policy
        if not isinstance(body.steering, dict):
            return None if body.steering is None else ""
        return str(body.steering.get("policy", ""))


def create_app(service: Service) -> ASGIApp:
    """The whole server as one ASGI app."""
    settings = service.desk.settings
    app = FastAPI(title="steersman", version=__version__, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    engine = service.desk.engine

    async def health() -> Response:
        if engine.closing:
            raise going_down()
        if not engine.alive:
            raise ApiError(503, "The model's thread has ended. Restart the server.", code="dead")
        return Json({"status": "ok", "waiting": engine.num_waiting, "running": engine.num_running})

    async def exposition() -> Response:
        text, kind = service.metrics.exposition()
        return Response(text, media_type=kind)

    async def models() -> Response:
        return Json({"object": "list", "data": [service.model()]})

    async def model(model: str) -> Response:
        service.check_model(model)
        return Json(service.model())

    async def chat(body: ChatBody, request: Request) -> Response:
        return await service.chat(body, request)

    async def completions(body: CompletionBody, request: Request) -> Response:
        return await service.complete(body, request)

    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/metrics", exposition, methods=["GET"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", model, methods=["GET"])
    for path, asked in (("/v1/chat/completions", chat), ("/v1/completions", completions)):
        app.router.add_api_route(path, asked, methods=["POST"], route_class_override=JsonRoute)
    add_policy_routes(app, lambda _: service.host, admin_keys=settings.admin_keys)
    bounded = BodyLimit(app, settings.max_body)
    keys = (*settings.api_keys, *settings.admin_keys) if settings.api_keys else ()
    return RequestLog(KeyGuard(bounded, keys))


def make_service(
    name: str, spec: ModelSpec, desk: Desk, metrics: ServingMetrics | None = None
) -> Service:
    """Puts the pieces together."""
    metrics = metrics or ServingMetrics()
    host = EmbeddedHost(
        desk.shelf, spec, desk.settings, context=desk.context, changed=metrics.loaded
    )
    return Service(name, spec, desk, host, metrics, int(time.time()))
