"""Runs the server until it is told to stop: no more requests, what runs ends, then it goes."""

import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn

from steersman.backends.hf import HFModel
from steersman.backends.live import generate_live, groups
from steersman.core.errors import RecipeError, nearest
from steersman.core.shelf import Shelf
from steersman.server.app import create_app, make_service
from steersman.server.desk import Desk
from steersman.server.engine import Engine
from steersman.server.logs import set_up_logs
from steersman.server.settings import Settings

LOG = logging.getLogger("steersman.server")
KEEP_ALIVE = 30  # seconds
CONNECTIONS = 1000


class Server(uvicorn.Server):
    """uvicorn, which tells the engine first when it is told to stop.

    Args:
        ready: called once requests are taken.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._engine, self._ready = engine, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.close()
        super().handle_exit(sig, frame)


def bound(settings: Settings) -> socket.socket:
    """The socket to listen at, before anything that takes long.

    Raises:
        RecipeError: it is taken, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise RecipeError(
            f"The server cannot listen at {settings.host}, port {settings.port}: "
            f"{error.strerror or error}. Give another --port or --host."
        ) from error


def context_of(model: HFModel) -> int | None:
    """Tokens that prompt and answer may have together; None where the model has no limit."""
    text = model.model.config.get_text_config(decoder=True)
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def make_engine(model: HFModel, settings: Settings) -> Engine:
    """The engine over live generation."""
    return Engine(
        partial(generate_live, model),
        partial(groups, model),
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        ends=lambda: model.batches.ends,
    )


def serve(
    model: HFModel,
    shelf: Shelf,
    settings: Settings,
    *,
    name: str,
    listening: socket.socket,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        name: what clients call the model.
        ready: called with the address once requests are taken.

    Raises:
        RecipeError: the default policy is not served.
    """
    if settings.default_policy is not None and settings.default_policy not in shelf.ids:
        raise RecipeError(
            f"--default-policy is {settings.default_policy!r}, which is not served."
            f"{nearest(settings.default_policy, shelf.ids)}"
        )
    set_up_logs(log_prompts=settings.log_prompts)
    engine = make_engine(model, settings).start()
    desk = Desk(model, shelf, engine, settings, context=context_of(model))
    app = create_app(make_service(name, model.spec, desk))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=CONNECTIONS + settings.max_queue,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )
    if settings.is_open:
        LOG.warning("anybody who reaches this host can use the server: there are no API keys")
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def tell() -> None:
        LOG.info("ready", extra={"fields": {"policies": [*shelf.ids], "model": name}})
        ready(f"http://{shown}:{port}")

    # uvicorn raises the signal that ended it once more; the exit status is to be 0 all the same
    before = {one: signal.signal(one, _heard) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        Server(config, engine, tell).run(sockets=[listening])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        desk.close()
        ended = engine.stop(min(settings.grace, 10.0))
        LOG.info("stopped", extra={"fields": {"in_time": ended}})


def _heard(sig: int, frame: FrameType | None) -> None:
    """A signal that was already followed."""
