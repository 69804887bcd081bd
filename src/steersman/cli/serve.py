"""`steersman serve`: a model and its policies behind OpenAI's API."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steersman.cli.console import say
from steersman.cli.shared import open_model
from steersman.core.errors import MissingExtraError, RecipeError, nearest
from steersman.core.shelf import Shelf
from steersman.core.tree import Plain

ENGINES = ("embedded", "vllm")
NEEDS = ("fastapi", "httpx", "prometheus_client", "uvicorn")
WITH_VLLM = ("host", "port", "api_keys", "admin_keys", "default_policy", "max_body")
"""Settings that hold for vLLM too; it has flags of its own for the others."""


@dataclass(frozen=True, slots=True)
class ServeJob:
    """What was asked for on the command line.

    Attributes:
        dtype: None leaves it to the engine: float32 embedded, vLLM's own choice there.
        extra: arguments for `vllm serve`.
        settings: fields of `server.settings.Settings`.
    """

    model: str
    policies: Path
    engine: str
    device: str
    dtype: str | None
    force: bool
    extra: tuple[str, ...]
    settings: Mapping[str, Any]


def run_serve(job: ServeJob) -> None:
    """Serves until it is told to stop.

    Raises:
        RecipeError: a setting cannot be used.
        ArtifactError: a policy cannot be read, or does not fit the model.
        ModelError: the model cannot be loaded, or its settings do not go token by token.
        MissingExtraError: what serves is not installed.
    """
    if job.engine not in ENGINES:
        raise RecipeError(f"There is no engine {job.engine!r}.{nearest(job.engine, ENGINES)}")
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise MissingExtraError(
            f"Serving needs {', '.join(missing)}, which is not installed. Run: pip install "
            "'steersman[serve]'"
        )
    if job.engine == "vllm":
        _with_vllm(job)
    else:
        _embedded(job)


def _embedded(job: ServeJob) -> None:
    from steersman.backends.live import check_live
    from steersman.server.host import accept
    from steersman.server.run import bound, serve
    from steersman.server.settings import Settings, served_name

    if job.extra:
        raise RecipeError(
            f"{job.extra[0]!r} is for vLLM, and the embedded engine takes no such arguments. Leave "
            "it out, or add --engine vllm."
        )
    settings = Settings(**job.settings)
    with bound(settings) as listening:
        model = open_model(
            job.model,
            device=job.device,
            dtype=job.dtype or "float32",
            batch_size=settings.max_batch,
        )
        check_live(model)
        shelf = Shelf(job.policies, spec=model.spec, accept=accept(model.spec), force=job.force)
        serve(
            model,
            shelf.open(),
            settings,
            name=served_name(job.model),
            listening=listening,
            ready=lambda url: say(f"Serving {len(shelf.ids)} policies at {url}/v1"),
        )


def _with_vllm(job: ServeJob) -> None:
    from steersman.server.settings import Settings
    from steersman.server.vllm_launch import launch

    settings, usual = Settings(**job.settings), Settings()
    for name in Settings.__slots__:
        if name not in WITH_VLLM and getattr(settings, name) != getattr(usual, name):
            raise RecipeError(
                f"--{name.replace('_', '-')} is a setting of the embedded engine. vLLM has its own "
                "flags, which go behind --: -- --max-num-seqs 64."
            )
    if job.device != "cpu":
        raise RecipeError(
            f"--device is {job.device}, and vLLM chooses the device itself. Leave it out."
        )
    for variable, keys in (
        ("VLLM_API_KEY", settings.api_keys),
        ("STEERSMAN_ADMIN_KEY", settings.admin_keys),
    ):
        if len(keys) > 1:
            raise RecipeError(f"{len(keys)} keys were given, and vLLM takes one. Leave out others.")
        if keys:
            os.environ[variable] = keys[0]  # not in the arguments, which other users can see
    told: dict[str, Plain] = {"max_body": settings.max_body, "force": job.force}
    if settings.default_policy is not None:
        told["default_policy"] = settings.default_policy
    extra = (*(("--dtype", job.dtype) if job.dtype is not None else ()), *job.extra)
    launch(
        job.model, job.policies, host=settings.host, port=settings.port, extra=extra, settings=told
    )
