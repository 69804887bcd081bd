"""Loads a model and its processor by path or hub id, without code from the hub."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from steersman.core.errors import MissingExtraError, ModelError, RecipeError
from steersman.models.processors import load_processor
from steersman.models.sharded import among_processes, refuse_copies

BUNDLED = "bundled"
LOADING = (
    *(OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError),
    AssertionError,  # torch's answer to a device that it was built without
)


DeviceMap = str | Mapping[str, int | str | torch.device]
MaxMemory = Mapping[int | str, int | str]
Shared = Literal["auto"]


@dataclass(frozen=True)
class Placement:
    """Where the weights go.

    Attributes:
        device: all of them; None is "cpu" unless one of the next says otherwise.
        device_map: over several devices, the CPU and the disk, as accelerate does it: "auto",
            "balanced", "sequential", or a device for each module.
        max_memory: what `device_map` may use of each device: {0: "20GiB", "cpu": "60GiB"}.
        offload_folder: where `device_map` may write weights that are not stored as they are used.
        tp: "auto" shares them among the processes of torchrun, as transformers plans it.

    Raises:
        RecipeError: two of these exclude each other.
    """

    device: str | None = None
    device_map: DeviceMap | None = None
    max_memory: MaxMemory | None = None
    offload_folder: str | Path | None = None
    tp: Shared | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("device", "device_map", "tp") if getattr(self, n) is not None]
        if len(given) > 1:
            raise RecipeError(
                f"{' and '.join(given)} each say where the weights go. Give one of them."
            )
        for name in ("max_memory", "offload_folder"):
            if getattr(self, name) is not None and self.device_map is None:
                raise RecipeError(f'{name} needs a device_map. Add device_map="auto".')
        if self.tp is not None and self.tp not in get_args(Shared):
            raise RecipeError(
                f'tp is {self.tp!r}. Write tp="auto": torchrun says how many processes there are.'
            )

    @property
    def needs_accelerate(self) -> bool:
        """Whether the weights go to more than one place."""
        return self.device_map is not None or self.tp is not None

    def arguments(self, config: PreTrainedConfig) -> dict[str, object]:
        """What `from_pretrained` is told."""
        if self.tp is not None:
            return {"distributed_config": among_processes(config)}
        if self.device_map is None:
            return {}
        spread = self.device_map if isinstance(self.device_map, str) else dict(self.device_map)
        memory = None if self.max_memory is None else dict(self.max_memory)
        folder = None if self.offload_folder is None else str(self.offload_folder)
        return {"device_map": spread, "max_memory": memory, "offload_folder": folder}


@dataclass(frozen=True)
class Loaded:
    """A model with what prepares its inputs."""

    id: str
    model: PreTrainedModel
    processor: ProcessorMixin | PreTrainedTokenizerBase


def bundled_path() -> Path:
    """The folder of the model that comes with this package."""
    return Path(str(files("steersman.world") / "bundled"))


def load_pretrained(
    source: str, *, where: Placement = Placement(), dtype: torch.dtype = torch.float32
) -> Loaded:
    """`source` is "bundled", a folder, or an id on the Hugging Face hub.

    Raises:
        ModelError: it cannot be loaded; says why.
        MissingExtraError: accelerate is not installed, and the placement needs it.
    """
    if where.needs_accelerate:
        _require_accelerate()
    path = str(bundled_path()) if source == BUNDLED else source
    looks_local = Path(path).is_absolute() or path.startswith(".")
    if looks_local and not Path(path).is_dir():
        raise ModelError(
            f"There is no model at {path}. Give a folder with config.json, or a hub id."
        )
    try:
        with _quietly(warnings=source != BUNDLED):
            return _loaded(source, path, where, dtype)
    except LOADING as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The model {source!r} could not be loaded: {first} Give a folder that holds a "
            "transformers model with its processor, a hub id, or 'bundled'."
        ) from error


def _loaded(source: str, path: str, where: Placement, dtype: torch.dtype) -> Loaded:
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    pictures = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
    model = auto.from_pretrained(
        path, config=config, dtype=dtype, trust_remote_code=False, **where.arguments(config)
    )
    processor = (
        load_processor(path, config.model_type)
        if pictures
        else AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    )
    if where.tp is not None:
        refuse_copies(model)
    if not where.needs_accelerate:
        model = model.to(where.device or "cpu")
    return Loaded(source, model.eval(), processor)


def _require_accelerate() -> None:
    try:
        import_module("accelerate")
    except ImportError as error:
        raise MissingExtraError(
            "A model larger than one device (device_map, tp) needs the package `accelerate`, which "
            "is not installed. Run: pip install 'steersman[large]'"
        ) from error


@contextmanager
def _quietly(*, warnings: bool) -> Iterator[None]:
    """Without progress bars where nobody watches, and without warnings about the bundled model.

    transformers warns of a default that Idefics3 fills in and this model does not use.
    """
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    if bars and not (warnings and sys.stderr.isatty()):
        log.disable_progress_bar()
    if not warnings:
        log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
