"""Weights that accelerate keeps elsewhere, on the CPU or on disk, and fetches while they are used.

Their parameters are on the meta device: they have a shape and no numbers.
"""

import torch
from torch import Tensor, nn

from steersman.core.errors import ModelError


def offloaded(model: nn.Module, name: str) -> Tensor:
    """The numbers of a weight on the meta device, by its name in the model's state.

    Raises:
        ModelError: nothing says where they are.
    """
    path, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(path), "_hf_hook", None)
    kept = getattr(hook, "weights_map", None)
    if kept is None:
        raise ModelError(
            f"The weight {name} of {type(model).__name__} is on the meta device and accelerate "
            "did not offload it, so the model has no numbers to run with. Load its weights first."
        )
    return kept[leaf]


def runs_on(model: nn.Module) -> torch.device | None:
    """Where the first weights are when they are used; None if the model has none, or no numbers."""
    owner = next((m for m in model.modules() if next(m.parameters(False), None) is not None), None)
    if owner is None:
        return None
    device = next(owner.parameters(False)).device
    if device.type != "meta":
        return device
    hook = getattr(owner, "_hf_hook", None)
    if getattr(hook, "weights_map", None) is None:
        return None
    return torch.device(getattr(hook, "execution_device", None) or "cpu")
