"""Finds the model inside what wraps it, and the module whose calls carry ids and masks."""

import inspect

from torch import nn
from transformers import PreTrainedModel

from steersman.core.errors import ModelError
from steersman.models.blocks import Blocks


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, without PEFT, torch.compile or whatever lies around it.

    Raises:
        ModelError: there is none inside.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The model is {model!r}. Give a transformers model, or load one by path or id: "
            "steersman.load(...)."
        )
    found = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if found is None:
        raise ModelError(f"{type(model).__name__} holds no transformers model. Give one.")
    return found


def with_head(model: PreTrainedModel, blocks: Blocks) -> PreTrainedModel:
    """The innermost model that has both the blocks and the output head.

    Some models embed an image themselves and then call `generate` of the language model inside.
    """
    inside = [
        m
        for m in model.modules()
        if isinstance(m, PreTrainedModel)
        and m.get_output_embeddings() is not None
        and any(child is blocks.layers[0] for child in m.modules())
    ]
    return inside[-1] if inside else model


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether the model's own call can be told the position of each token."""
    return "position_ids" in inspect.signature(model.forward).parameters
