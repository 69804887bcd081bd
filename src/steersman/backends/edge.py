"""What a run must be told: of the model, and of the prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from steersman.core.errors import ModelError
from steersman.core.steerer import Policy
from steersman.models.blocks import Blocks


class Stop(Exception):
    """Ends a forward pass behind the deepest site that is read. Never leaves this package."""


@dataclass(frozen=True)
class Edge:
    """What the runtime must know of a model.

    Attributes:
        root: the module whose forward is called; its hook sees ids and masks.
        suffix: tokens of the generation prompt, if the chat template appends them.
    """

    root: PreTrainedModel
    blocks: Blocks
    image_token: int | None
    suffix: int | None

    def refuse_recomputation(self) -> None:
        """Refuses a pass whose blocks would run again while gradients are computed.

        Raises:
            ModelError: gradient checkpointing is on.
        """
        if torch.is_grad_enabled() and self.root.is_gradient_checkpointing:
            raise ModelError(
                "Gradient checkpointing runs blocks a second time, when steering no longer knows "
                "their tokens. Call gradient_checkpointing_disable() before the `with`."
            )

    def refuse_padding(self, real: Bool[Tensor, "b s"]) -> None:
        """Refuses rows of different length in models that padding disturbs.

        Raises:
            ModelError: some columns hold padding.
        """
        if self.blocks.padding_disturbs and not bool(real.all()):
            raise ModelError(
                "In this model padding changes what comes behind it, so rows of different length "
                "cannot run in one batch. Give prompts of one length, or one prompt at a time."
            )

    def refuse_pieces(self, policies: Sequence[Policy], width: int) -> None:
        """Refuses prompts in pieces, of which the first has `width` tokens.

        Raises:
            ModelError: a policy reads their end before it writes.
        """
        for policy in policies:
            for name in policy.probed(self.suffix, chunked=True):
                raise ModelError(
                    f"The steerer {name!r} must read the end of the prompt before the first token "
                    f"is written, and the prompt comes in pieces ({width} tokens first). Give it "
                    "whole, or choose the scope last_and_generated."
                )


def refuse_packed(inputs: Mapping[str, object], real: Bool[Tensor, "b s"]) -> None:
    """Refuses rows that hold several sequences, told by positions that begin again.

    Raises:
        ModelError: some do.
    """
    position, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    told = mask is None or (isinstance(mask, Tensor) and mask.dim() == 4)
    if not told or not isinstance(position, Tensor) or position.dim() != 2:
        return  # under a mask of two dimensions, a row is one sequence
    again = (position.diff(dim=1) <= 0) & real[:, 1:] & real[:, :-1]
    if bool(again.any()):
        raise ModelError(
            "The positions of a row begin again, so it holds several sequences, and steering "
            "takes a row for one. Give one sequence a row."
        )


@dataclass(frozen=True)
class Given:
    """What the caller knows of the prompts.

    Attributes:
        prompt_tokens: of each plan's prompt, where the first pass is not exactly the prompts.
        num_generated: how many generated tokens the first pass holds at most, if it holds the whole
            prompts; None if it may not.
        ids: of the whole prompts, for models that are called with embeddings.
        bare: prompts without generation prompt, for reads that need them.
        ends: token ids that end an answer; tokens behind them are not counted.
        going: tells which rows go on, in passes behind the first; for callers that end rows
            themselves, instead of `ends`.
    """

    prompt_tokens: tuple[int, ...] | None = None
    num_generated: int | None = None
    ids: Tensor | None = None
    bare: Mapping[str, Tensor] | None = None
    ends: Tensor | None = None
    going: Callable[[], Bool[Tensor, " b"]] | None = None


UNTOLD = Given()
"""Where the first pass is the prompts, and nothing else is known of them."""
