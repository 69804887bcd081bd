"""The bundled model behind the server: policies by hand, an app to call and one that listens."""

import asyncio
import base64
import io
import threading
from contextlib import contextmanager
from functools import cache, partial

import httpx
import torch
import uvicorn
from PIL import Image

from steersman.backends.hf import load
from steersman.backends.live import generate_live, groups
from steersman.core.io import Artifact, save_artifact
from steersman.core.shelf import Shelf
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.operators.add import Add
from steersman.server.app import create_app, make_service
from steersman.server.desk import Desk
from steersman.server.engine import Engine
from steersman.server.host import accept
from steersman.server.run import context_of
from steersman.server.settings import Settings
from steersman.synthesizers.given import GivenVector
from steersman.synthesizers.static import StaticVector

WIDTH = 192
HARM = "how do i make a bomb ?"
CUP = "is there a cup ?"


@cache
def model():
    return load("bundled")


def static(seed: int = 0, norm: float = 8.0, *, gate=None, scope=Scope.LAST_AND_GENERATED):
    """A random vector on block 3, behind a gate."""
    vector = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))
    vectors = vector / vector.norm() * norm
    site = Site(3)
    return Policy(
        steerers={
            "s": Steerer(
                sites=(site,), gate=gate or AlwaysOpen(),
                synthesizer=StaticVector(sites=(site,), vectors=vectors), operator=Add(),
                scope=scope,
            )
        }
    )  # fmt: skip


def prober(threshold: float, layer: int) -> ProberGate:
    """Reads the end of the prompt; at 0 it is always open, close to 1 always closed."""
    draw = torch.Generator().manual_seed(5)
    return ProberGate(
        read=Read(Site(layer)), mean=torch.zeros(WIDTH), scale=torch.ones(WIDTH),
        weight1=torch.randn(8, WIDTH, generator=draw) / 100, bias1=torch.zeros(8),
        weight2=torch.randn(8, generator=draw), bias2=torch.zeros(1), threshold=threshold,
    )  # fmt: skip


def given() -> Policy:
    """One that no server can use: every request would have to bring a vector."""
    site = Site(3)
    return Policy(
        steerers={
            "s": Steerer(
                sites=(site,), gate=AlwaysOpen(), synthesizer=GivenVector(), operator=Add()
            )
        }
    )


POLICIES = {
    "push": static(0),
    "pull": static(1),
    "behind": static(2, gate=prober(0.0, 5)),  # reads behind its site: a pass of its own
    "closed": static(3, gate=prober(0.999, 2)),
    "everywhere": static(4, 4.0, scope=Scope.ALL),
}


def put(folder, name, policy=None):
    """Writes an artifact into a folder of policies."""
    policy = POLICIES[name] if policy is None else policy
    artifact = Artifact(policy, model().spec, {"method": "by hand"}, library_version="0")
    return save_artifact(artifact, folder / name)


def shelf_of(folder, *names) -> Shelf:
    for name in names or POLICIES:
        put(folder, name)
    return Shelf(folder, spec=model().spec, accept=accept(model().spec)).open()


class Held:
    """A server that is ready to be called.

    Args:
        generate: instead of live generation.
    """

    def __init__(self, shelf, *, generate=None, images=None, **settings):
        self.settings = Settings(**settings)
        self.engine = Engine(
            generate or partial(generate_live, model()),
            partial(groups, model()),
            max_batch=self.settings.max_batch,
            max_queue=self.settings.max_queue,
        ).start()
        self.shelf = shelf
        context = context_of(model())
        self.desk = Desk(model(), shelf, self.engine, self.settings, context=context, images=images)
        self.service = make_service("bundled", model().spec, self.desk)
        self.app = create_app(self.service)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.desk.close()
        assert self.engine.stop(20)

    def call(self, method, path, **more) -> httpx.Response:
        """One request, in an event loop of its own."""
        return asyncio.run(self.acall(method, path, **more))

    async def acall(self, method, path, **more) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, timeout=60, **more)

    def post(self, path="/v1/chat/completions", **body) -> httpx.Response:
        """A body to one of the two routes."""
        return self.call("POST", path, json=body)

    def chat(self, text=HARM, **more) -> httpx.Response:
        """One question, greedily answered."""
        return self.post(**{"messages": user(text), "temperature": 0, "max_tokens": 12, **more})


def user(content) -> list[dict]:
    return [{"role": "user", "content": content}]


def picture(color="red", size=(64, 64)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def shown(text, *urls) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*parts, {"type": "text", "text": text}]


def error_of(reply) -> tuple:
    """Status, code and param of an error, whose shape is looked at too."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status_code, error["code"], error["param"]


@contextmanager
def listening(app):
    """The app behind a real socket; gives its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, lifespan="off", access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
