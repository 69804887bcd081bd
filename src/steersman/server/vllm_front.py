"""The HTTP side of steering in vLLM: a plugin of its API server. Imports nothing of vLLM.

It adds the routes about policies, and a middleware that moves the field `steering` of a request to
where the engine finds it, and puts `steering` into the answer. Streams stay streams.

With several API server processes (`--api-server-count`) each asks the engine once a second, while
there are steered requests, what is served: what was loaded or unloaded through another one holds
from then on. Their metrics are summed by prometheus_client's multiprocess mode, which vLLM sets up.
"""

import logging
import os
import time
from argparse import Namespace
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.backends.vllm.admission import Admission
from steersman.backends.vllm.wire import Settings, settings_of
from steersman.core.errors import RecipeError
from steersman.core.serving import RefusedError
from steersman.server.errors import ApiError, of_steering
from steersman.server.metrics import ServingMetrics, shared
from steersman.server.policy_routes import EngineError, add_policy_routes
from steersman.server.vllm_answers import Answer
from steersman.server.vllm_host import EngineClient, EngineHost
from steersman.server.vllm_orders import FIELD, Order, may_steer, named, order_of, read

LOG = logging.getLogger("steersman.server")
STEERED = ("/v1/chat/completions", "/v1/completions")
UNSTEERED = (
    *("/v1/chat/completions/batch", "/v1/responses", "/v1/messages", "/invocations"),
    *("/inference/v1/generate", "/cohere/v2/chat", "/generative_scoring", "/v1/systemone"),
)
"""vLLM's other routes that write text: a field that they do not read must not be lost there."""


class Front:
    """What routes and middleware share; the engine comes when the server has one.

    Args:
        metrics: where requests are counted.
        several: whether other processes serve the same engine.
    """

    def __init__(
        self, settings: Settings, metrics: ServingMetrics, *, several: bool = False
    ) -> None:
        self.settings, self.metrics, self._several = settings, metrics, several
        self._host: EngineHost | None = None
        self._admission: Admission | None = None

    @property
    def host(self) -> EngineHost:
        """The engine's policies.

        Raises:
            EngineError: there is no engine yet.
        """
        if self._host is None:
            raise EngineError("E_ENGINE", "The server has no engine yet. Ask again.")
        return self._host

    async def start(self, client: EngineClient) -> None:
        """Asks the engine which policies it has.

        Raises:
            EngineError: it does not say.
            RecipeError: the default policy is not among them.
        """
        default = self.settings.default_policy
        admission = _admission(client)
        host = EngineHost(
            client, admission.shelf, changed=self.metrics.loaded, fixed=default,
            max_body=self.settings.max_body,
        )  # fmt: skip
        await host.policies()
        if default is not None and default not in host.known:
            raise RecipeError(
                f"default_policy is {default!r}, and the engine has {', '.join(host.known)}. Name "
                "one of these, or put it into the folder of policies."
            )
        self._host, self._admission = host, admission

    async def order(self, given: dict[str, Any]) -> Order | None:
        """What a body asks for; a policy that is not known may have been loaded elsewhere.

        Raises:
            ApiError: it cannot be served.
        """
        try:
            if self._several:
                await self.host.refresh()
            order = await self._order(given)
            if order is not None and order.asked.acts and self._admission is not None:
                self._admission.scoped(order.asked)
            return order
        except RefusedError as error:
            self.metrics.refused(named(given))
            raise of_steering(error) from error
        except EngineError as error:
            self.metrics.failed(named(given))
            raise ApiError(503, str(error), code=error.code) from error

    async def _order(self, given: dict[str, Any]) -> Order | None:
        default = self.settings.default_policy
        try:
            return order_of(given, self.host.known, default)
        except RefusedError as error:
            if error.code != "E_UNKNOWN_POLICY" or not await self.host.refresh():
                raise
            return order_of(given, self.host.known, default)


class SteeringMiddleware:
    """Reads requests and answers of completions, and lets everything else pass as it is."""

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self.app, self.front = app, front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        read_here = path in STEERED or path in UNSTEERED
        if scope["type"] != "http" or scope["method"] != "POST" or not read_here:
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        try:
            body = await _body(scope, receive, self.front.settings.max_body)
            if body is None:
                return
            order = await self._order(path, body)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if order is None:
            await self.app(scope, _replay(body, receive), send)
        else:
            await self._steered(order, scope, receive, send, began=began)

    async def _order(self, path: str, body: bytes) -> Order | None:
        default = self.front.settings.default_policy
        if not may_steer(body) and (default is None or path in UNSTEERED):
            return None
        given = read(body)
        if given is None:
            return None
        if path in STEERED:
            return await self.front.order(given)
        if given.get(FIELD) is not None:
            self.front.metrics.refused(named(given))
            raise ApiError(
                400, f"{path} does not read the field steering. Use {' or '.join(STEERED)}.",
                code="E_ENDPOINT", param=FIELD,
            )  # fmt: skip
        return None

    async def _steered(
        self, order: Order, scope: Scope, receive: Receive, send: Send, *, began: float
    ) -> None:
        answer = Answer(order, send, self.front.host.trace)
        answer.added = time.perf_counter() - began
        returned = False
        try:
            await self.app(_resized(scope, order.body), _replay(order.body, receive), answer)
            returned = True
        finally:
            self._count(order, answer, began=began, broke=not returned)

    def _count(self, order: Order, answer: Answer, *, began: float, broke: bool) -> None:
        metrics, policy = self.front.metrics, order.asked.policy
        if broke or answer.failed:
            metrics.failed(policy)
        elif answer.status >= 400:
            metrics.refused(policy)
        elif answer.done and answer.told is not None:
            seconds = time.perf_counter() - began
            metrics.answered(order.asked, answer.told, seconds=seconds, added=answer.added)


class Plugin:
    """The plugin that vLLM's API server loads where VLLM_PLUGINS names it.

    Without `steersman` in `--additional-config` it adds nothing.

    Args:
        metrics: where requests are counted; vLLM's own `/metrics` shows those of the process.
    """

    name = "steersman"
    required_tasks = ("generate",)

    def __init__(self, metrics: ServingMetrics | None = None) -> None:
        self._metrics = metrics
        self._front: Front | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Adds routes and middleware; those that vLLM adds later, as for its keys, come before."""
        args = app.state.args
        settings = settings_of(args.additional_config)
        if settings is None:
            LOG.info("steersman does nothing: --additional-config has no steersman.")
            return
        _refuse_replicas(args)
        several = (vars(args).get("api_server_count") or 1) > 1
        front = Front(settings, self._metrics or shared(), several=several)
        self._front = front
        key = os.environ.get(settings.admin_key_env, "")
        add_policy_routes(app, lambda _: front.host, admin_keys=[key])
        app.add_middleware(SteeringMiddleware, front=front)

    async def init_state(
        self, engine_client: EngineClient | None, state: State, args: Namespace
    ) -> None:
        """Connects them with the engine."""
        if self._front is not None and engine_client is not None:
            await self._front.start(engine_client)


def _admission(client: EngineClient) -> Admission:
    """What checks requests when they enter vLLM in this process."""
    admission = vars(client.input_processor).get("_steersman")
    if not isinstance(admission, Admission):
        raise EngineError(
            "E_ENGINE",
            "vLLM did not load the general plugin steersman. Install steersman into vLLM's "
            "environment, and let VLLM_PLUGINS name it.",
        )
    return admission


def plugin() -> Plugin:
    """What the entry point `vllm.endpoint_plugins` names."""
    return Plugin()


def _refuse_replicas(args: Namespace) -> None:
    """Of several replicas behind one server only the first would say how it steered."""
    given = vars(args)
    size = given.get("data_parallel_size") or 1
    if size > 1 and not given.get("data_parallel_external_lb"):
        raise RecipeError(
            f"data_parallel_size is {size}. vLLM asks only the first replica how a request was "
            "steered. Run one server for each replica behind a load balancer, or add "
            "--data-parallel-external-lb."
        )


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if the client went away.

    Raises:
        ApiError: it is larger than allowed.
    """
    length = Headers(scope=scope).get("content-length", "0")
    body = bytearray()
    more, size = True, int(length) if length.isdecimal() else 0
    while more:
        if max(len(body), size) > limit:
            raise ApiError(413, f"The body has more than {limit} bytes.", code="body_too_large")
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > limit:
        raise ApiError(413, f"The body has more than {limit} bytes.", code="body_too_large")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, and then what comes: the client's going away."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _resized(scope: Scope, body: bytes) -> Scope:
    """The same request, with the length of its new body."""
    kept = [
        (n, v) for n, v in scope["headers"] if n not in (b"content-length", b"transfer-encoding")
    ]
    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
