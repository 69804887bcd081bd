"""What a run must be told: of the model, and of the prompts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steersman.core.errors import ModelError
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
    """

    prompt_tokens: tuple[int, ...] | None = None
    num_generated: int | None = None
    ids: Tensor | None = None
    bare: Mapping[str, Tensor] | None = None
    ends: Tensor | None = None


UNTOLD = Given()
"""Where the first pass is the prompts, and nothing else is known of them."""
