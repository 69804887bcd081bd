"""What server/vllm_* see of vLLM: an app with its routes and middlewares, and an engine client."""

import asyncio
import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from steersman.backends.vllm.admission import Admission
from steersman.backends.vllm.wire import KEY, Settings
from steersman.core.io import Artifact, save_artifact
from steersman.core.requests import SteererTrace
from steersman.core.roles import Gate
from steersman.core.serving import read_steering, told
from steersman.core.shelf import Shelf
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import ModelSpec, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.server.metrics import ServingMetrics
from steersman.server.vllm_front import Plugin
from steersman.synthesizers.static import StaticVector

KIND = SimpleNamespace(model="none", is_hybrid=False, is_attention_free=False)
CONFIG = SimpleNamespace(model_config=KIND)

SPEC = ModelSpec("tiny", "Tiny", d_model=4, num_layers=2)
WIDTH, SITE = 4, Site(1)
ALL = ("calm", "kind")


def put_policy(
    folder: Path, name: str, *, value: float = 1.0, gate: Gate[Any] | None = None
) -> Path:
    """A small artifact; another value is another digest."""
    vectors = torch.full((1, WIDTH), value)
    steerer = Steerer(
        sites=(SITE,), gate=gate or AlwaysOpen(), operator=Add(),
        synthesizer=StaticVector(sites=(SITE,), vectors=vectors), scope=Scope.LAST_AND_GENERATED,
    )  # fmt: skip
    provenance = {"method": "mean", "data_hash": "abc", "metrics": {"safety: asr": 0.25}}
    return save_artifact(
        Artifact(Policy(steerers={"s": steerer}), SPEC, provenance, "0.1.0"), folder / name
    )


@dataclass
class Worker:
    """One rank, with a shelf of its own."""

    shelf: Shelf
    traces: dict[str, list] = field(default_factory=dict)

    def answer(self, verb: str, *args: str) -> str:
        try:
            return json.dumps(getattr(self, verb)(*args))
        except Exception as error:
            code = getattr(error, "code", type(error).__name__)
            return json.dumps({"error": {"code": code, "message": str(error)}})

    def policies(self):
        return [{"id": n, "digest": self.shelf[n].digest} for n in self.shelf.ids]

    def load(self, name):
        return {"id": name, "digest": self.shelf.load(name).digest}

    def unload(self, name):
        self.shelf.unload(name)
        return {"id": name}

    def capabilities(self):
        return {"engine": "vllm", "refused": {"E_LORA": "no"}}

    def trace(self, name):
        return self.traces.get(name, [])


class Engine:
    """An engine client whose workers live here.

    Attributes:
        slow: seconds that every call takes.
        broken: whether calls fail.
    """

    def __init__(self, folder: Path, *, workers: int = 1, default: str | None = None) -> None:
        self.workers = [Worker(Shelf(folder).open()) for _ in range(workers)]
        admission = Admission(Settings(str(folder), default_policy=default), CONFIG)
        self.input_processor = SimpleNamespace(_steersman=admission)
        self.errored, self.broken, self.slow = False, False, 0.0
        self.calls: list[tuple] = []

    async def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        assert method == KEY
        self.calls.append(args)
        await asyncio.sleep(self.slow)
        if self.broken:
            raise RuntimeError("a worker died")
        return [worker.answer(*args) for worker in self.workers]

    def steer(self, body: dict, requests: list[str]) -> None:
        """Leaves the traces that vLLM would, under the ids that its engine would give."""
        said = json.loads(body["vllm_xargs"][KEY])
        trace = said.pop("trace")
        asked = read_steering(said, self.input_processor._steersman.shelf.ids)
        for worker in self.workers:
            worker.traces[trace] = [
                {**told(asked, did(i + 1)), "request": request}
                for i, request in enumerate(requests)
            ]


def did(num: int) -> dict:
    """A trace of so many tokens."""
    return {"s": SteererTrace(1.0, 1.0, num, num, 0.5)}


class Server:
    """The app, as vLLM builds it: plugin first, then its own middlewares, then the engine.

    Attributes:
        seen: bodies that reached vLLM, as they were parsed, with the length that was announced.
        pieces: what a stream is made of, in the messages in which it is sent; None writes one.
        after: runs in the middle of a request.
    """

    def __init__(
        self, engine: Engine, folder: Path, *, api_key: str | None = None, processes=None, **more
    ) -> None:
        self.engine, self.seen, self.pieces, self.after = engine, [], None, None
        self.traced = True
        self.metrics = ServingMetrics()
        self.app = FastAPI()
        settings = {"policies": str(folder), **more}
        args = Namespace(
            additional_config={KEY: settings}, data_parallel_size=1, api_server_count=processes
        )
        self.app.state.args = args
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize"):
            self.app.add_api_route(path, self.complete, methods=["POST"])
        plugin = Plugin(self.metrics)
        plugin.attach_router(self.app)
        if api_key is not None:
            self.app.add_middleware(Authentication, key=api_key)
        asyncio.run(plugin.init_state(engine, self.app.state, args))

    async def complete(self, request: Request):
        raw = await request.body()
        try:
            body = json.loads(raw)
        except ValueError:
            return JSONResponse({"error": {"message": "bad JSON", "code": 400}}, 400)
        self.seen.append((body, request.headers.get("content-length")))
        if self.after is not None:
            await self.after(request)
        if body.get("model") == "unknown":
            return JSONResponse({"error": {"message": "no model", "code": 404}}, 404)
        if body.get("model") == "lora":
            message = "E_LORA: A policy is fitted on the states of one model."
            return JSONResponse({"error": {"message": message, "code": 400}}, 400)
        if body.get("model") == "boom":
            raise ArithmeticError("boom")
        chat = "messages" in body
        n, prompts = body.get("n", 1), body.get("prompt", "")
        num = len(prompts) if isinstance(prompts, list) else 1
        name = "chatcmpl-x" if chat else "cmpl-x"
        if KEY in (body.get("vllm_xargs") or {}) and self.traced:
            self.engine.steer(body, list(requests(name, n, num, chat=chat)))
        if body.get("stream"):
            pieces = self.pieces or stream(name, n * num)
            return StreamingResponse(of(pieces), media_type="text/event-stream")
        choices = [{"index": i, "text": "é", "finish_reason": "stop"} for i in range(n * num)]
        return JSONResponse({"id": name, "choices": choices}, headers={"x-own": "kept"})


async def of(pieces):
    if hasattr(pieces, "__aiter__"):
        async for piece in pieces:
            yield piece
        return
    for piece in pieces:
        yield piece


def requests(name: str, n: int, prompts: int, *, chat: bool):
    """Ids of the engine's requests, in the order of the answer's choices."""
    for p in range(prompts):
        for i in range(n):
            front = f"{i}_" if n > 1 else ""
            yield f"{front}{name}-deadbeef" if chat else f"{front}{name}-{p}-deadbeef"


def stream(name: str, num: int, *, usage: bool = True) -> list[bytes]:
    """Events as vLLM writes them."""
    made = []
    for word in ("a", '"finish_reason": "no"', "é"):
        for i in range(num):
            choice = {"index": i, "delta": {"content": word}, "finish_reason": None}
            made.append({"id": name, "choices": [choice]})
    for i in range(num):
        made.append({"id": name, "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        made.append({"id": name, "choices": [], "usage": {"total_tokens": 3}})
    events = [f"data: {json.dumps(m, ensure_ascii=False)}\n\n".encode() for m in made]
    return [*events, b"data: [DONE]\n\n"]


class Authentication:
    """vLLM's: guards what begins with /v1."""

    def __init__(self, app, key: str) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope, receive, send):
        sent = dict(scope.get("headers", [])).get(b"authorization", b"").decode()
        guarded = scope["type"] == "http" and scope["path"].startswith("/v1")
        if guarded and sent != f"Bearer {self.key}":
            return await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
        return await self.app(scope, receive, send)


@dataclass
class Reply:
    """An answer, with the messages in which its body came."""

    status: int
    headers: dict[str, str]
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["error"]["code"]


def call(app, path: str, body=None, *, method="POST", headers=None, pieces=1, leave=False) -> Reply:
    """One request by ASGI; its body in so many messages, and the client gone after it if asked."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "server": ("here", 80), "client": ("there", 1), "state": {},
        "headers": [*sent, (b"content-type", b"application/json"),
                    (b"content-length", str(len(raw)).encode())],
    }  # fmt: skip
    size = max(1, -(-len(raw) // pieces))
    cut = [raw[i : i + size] for i in range(0, len(raw), size)] or [b""]
    queue = [
        {"type": "http.request", "body": piece, "more_body": i < len(cut) - 1}
        for i, piece in enumerate(cut)
    ]
    if leave:
        queue.append({"type": "http.disconnect"})
    got: list[dict] = []

    async def receive():
        if queue:
            return queue.pop(0)
        return await asyncio.Event().wait()

    async def send(message):
        got.append(message)

    asyncio.run(app(scope, receive, send))
    start = next((m for m in got if m["type"] == "http.response.start"), None)
    if start is None:
        return Reply(0, {}, [])
    bodies = [m for m in got if m["type"] == "http.response.body"]
    told_headers = {k.decode(): v.decode() for k, v in start["headers"]}
    return Reply(start["status"], told_headers, [m.get("body", b"") for m in bodies])
