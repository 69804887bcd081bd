"""Steersman: steer a language or vision-language model while it runs, without retraining it."""

import importlib
from typing import TYPE_CHECKING

from steersman.core.errors import SteersmanError
from steersman.core.io import Artifact, load_artifact, save_artifact
from steersman.core.recipe import Recipe, read_recipe
from steersman.core.requests import Completion, Request
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Prompt, Read, Scope, Site, Span

if TYPE_CHECKING:
    from steersman.backends.cached import CachedModel
    from steersman.backends.hf import HFModel, load
    from steersman.data.load import load as load_data
    from steersman.data.store import RowStore
    from steersman.methods.fit import fit_policy

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "CachedModel",
    "Completion",
    "HFModel",
    "Policy",
    "Prompt",
    "Read",
    "Recipe",
    "Request",
    "RowStore",
    "Scope",
    "Site",
    "Span",
    "Steerer",
    "SteersmanError",
    "fit_policy",
    "load",
    "load_artifact",
    "load_data",
    "read_recipe",
    "save_artifact",
]

_LATER = {
    "CachedModel": ("steersman.backends.cached", "CachedModel"),
    "HFModel": ("steersman.backends.hf", "HFModel"),
    "RowStore": ("steersman.data.store", "RowStore"),
    "fit_policy": ("steersman.methods.fit", "fit_policy"),
    "load": ("steersman.backends.hf", "load"),
    "load_data": ("steersman.data.load", "load"),
}


def __getattr__(name: str) -> object:
    """Names that need transformers or scikit-learn, imported when they are first used."""
    if name not in _LATER:
        raise AttributeError(f"module 'steersman' has no attribute {name!r}")

    module, attribute = _LATER[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
