"""Runs a model on tokens behind others whose keys and values it already has."""

from copy import copy
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from steersman.backends.edge import Stop


class Prefix(DynamicCache):
    """Keys and values of prompts; ends the pass that makes them once block `last` has its own.

    A block that also keeps a state of another kind runs to its end.
    """

    last: int | None = None

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **more: object,
    ) -> tuple[Tensor, Tensor]:
        made = super().update(key_states, value_states, layer_idx, *args, **more)
        layer = self.layers[layer_idx]
        if layer_idx == self.last and not isinstance(layer, LinearAttentionCacheLayerMixin):
            raise Stop
        return made

    def forked(self, rows: Int[Tensor, " b"]) -> "Prefix":
        """The same for some rows, each as often as it is named; this one stays as it is."""
        made = copy(self)
        made.last = None
        made.layers = [copy(layer) for layer in self.layers]
        for layer in made.layers:
            for name, value in vars(layer).items():
                if isinstance(value, (dict, list)):  # states that a layer keeps by number
                    setattr(layer, name, copy(value))
            layer.reorder_cache(rows)  # pyright: ignore[reportArgumentType]  # any whole numbers do
        return made


class Places(NamedTuple):
    """Where tokens are, and the next one behind them."""

    own: Int[Tensor, "c b s"]
    behind: Int[Tensor, "c b"]


def places_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Places | None:
    """The positions of prompts, in models that number text and image by several axes.

    None in all others: they count tokens. Padding is left out, which such a model does not do by
    itself where it sees no image.

    Args:
        inputs: a whole prompt in each row, padded on the left, with its images.
    """
    if not isinstance(model, GenerationMixin):
        return None
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    # What `generate` itself asks: no public call tells it.
    found = model._prepare_position_ids_for_generation(  # pyright: ignore[reportPrivateUsage]
        inputs["input_ids"], rest
    )
    if found.dim() < 3:
        return None
    real = inputs["attention_mask"].bool()
    last = found.masked_fill(~real, -1).amax(-1)  # (c, b)
    text = len(last) - 3  # a channel of its own counts tokens
    behind = last[text:].amax(0, keepdim=True).expand(3, -1)
    return Places(found, torch.cat([last[:text], behind]) + 1)
