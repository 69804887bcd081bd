"""Reduces the states of a padded batch to what `capture` was asked for."""

import torch
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.types import Position
from steersman.models.chat import Batch


def _span(batch: Batch, position: Position) -> tuple[Tensor, Tensor]:
    """Tokens of the span, and tokens behind it, of each row."""
    if position.span == "prompt":
        return batch.prompt_length, batch.completion_length
    return batch.completion_length, torch.zeros_like(batch.completion_length)


def check_span(batch: Batch, position: Position) -> None:
    length, _ = _span(batch, position)
    if int((length - position.skip_last).min()) < 1:
        raise RecipeError(
            f"capture reads the {position.span}, and a prompt has no token there (skip_last is "
            f"{position.skip_last}). Give a completion, or skip fewer tokens."
        )


def reduced(states: Tensor, batch: Batch, position: Position) -> Tensor:
    """`(b, s, d)` to `(b, d)`: the last token of a span, or its mean; padding is on the left."""
    length, behind = _span(batch, position)
    width = states.shape[1]
    end = (width - behind - position.skip_last).to(states.device)  # first column behind the span
    start = (width - behind - length).to(states.device)
    if position.reduce == "last":
        return states[torch.arange(len(states), device=states.device), end - 1].float()
    column = torch.arange(width, device=states.device)[None]
    inside = ((column >= start[:, None]) & (column < end[:, None])).float()
    return (states.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
