"""Loads a model and its processor by path or hub id, without code from the hub."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from steersman.core.errors import ModelError
from steersman.models.processors import load_processor

BUNDLED = "bundled"
LOADING = (
    *(OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError),
    AssertionError,  # torch's answer to a device that it was built without
)


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
    source: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Loaded:
    """`source` is "bundled", a folder, or an id on the Hugging Face hub.

    Raises:
        ModelError: it cannot be loaded; says why.
    """
    path = str(bundled_path()) if source == BUNDLED else source
    looks_local = Path(path).is_absolute() or path.startswith(".")
    if looks_local and not Path(path).is_dir():
        raise ModelError(
            f"There is no model at {path}. Give a folder with config.json, or a hub id."
        )
    try:
        with _quietly(warnings=source != BUNDLED):
            return _loaded(source, path, device, dtype)
    except LOADING as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The model {source!r} could not be loaded: {first} Give a folder that holds a "
            "transformers model with its processor, a hub id, or 'bundled'."
        ) from error


def _loaded(source: str, path: str, device: str, dtype: torch.dtype) -> Loaded:
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    pictures = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
    model = auto.from_pretrained(path, config=config, dtype=dtype, trust_remote_code=False)
    processor = (
        load_processor(path, config.model_type)
        if pictures
        else AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    )
    return Loaded(source, model.to(device).eval(), processor)


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
