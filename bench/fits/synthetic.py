"""A model whose states are drawn, and rows for it: what fitting costs without a language model."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steersman.core.types import Activations, AnswerStates, ModelSpec, Position, Prompt, Site
from steersman.data.contrast import Contrast
from steersman.data.rows import Dataset, Row
from steersman.methods.contrast import ContrastRule

SITE = Site(0)
KINDS, SHARED, BLOCK = 12, 30, 512
FURTHER = 500  # rows for the prober's loss
RULE = ContrastRule(behaviours={"harmful": Contrast(positive="yes", negative="no")})


class Synthetic:
    """A model whose states are drawn: the row is the prompt's number, the side its completion."""

    def __init__(self, d: int) -> None:
        self.spec = ModelSpec("synthetic", "Synthetic", d, 1)
        draw = torch.Generator().manual_seed(0)
        self.places, self.contrasts = (torch.randn(KINDS, d, generator=draw) for _ in range(2))
        self.shared, self.shown = (
            torch.randn(SHARED, d, generator=draw) / SHARED**0.5 for _ in range(2)
        )
        self.seconds = 0.0

    def capture(
        self, prompts: Sequence[Prompt], sites: Sequence[Site], position: Position = Position()
    ) -> Activations:
        began = time.perf_counter()
        number = torch.tensor([int(p.text) for p in prompts])
        wanted = torch.tensor([p.completion == "yes" for p in prompts]).float()[:, None]
        made = torch.empty(len(prompts), self.spec.d_model)
        for block in number.div(BLOCK, rounding_mode="floor").unique().tolist():
            mine = (number.div(BLOCK, rounding_mode="floor") == block).nonzero()[:, 0]
            own = number[mine] - block * BLOCK
            states, contrasts = self._block(block)
            made[mine] = states[own] + wanted[mine] * contrasts[own]
        self.seconds += time.perf_counter() - began
        return Activations(dict.fromkeys(sites, made))

    def _block(self, block: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(block)
        kind = torch.arange(BLOCK) % KINDS
        mixed = torch.randn(BLOCK, SHARED, generator=draw)
        noise = torch.randn(2, BLOCK, self.spec.d_model, generator=draw)
        contrasts = self.contrasts[kind] + mixed.relu() @ self.shown + 0.5 * noise[1]
        return self.places[kind] + mixed @ self.shared + noise[0], contrasts

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        raise NotImplementedError

    def answer_states(self, prompts: Sequence[Prompt]) -> AnswerStates:
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        raise NotImplementedError


def dataset(n: int, *, alone: bool) -> Dataset:
    """n rows; with `alone`, every other one is to be left alone, in a pair with the one before."""
    made = [
        Row(
            id=str(i),
            prompt=str(i),
            behaviour="none" if alone and i % 2 else "harmful",
            labels={"pair": str(i // 2)} if alone else {},
        )
        for i in range(n)
    ]
    return Dataset(tuple(made), {}, "synthetic", "synthetic")


def states(model: Synthetic, numbers: Sequence[int], completion: str = "") -> Tensor:
    """Whole matrices, as the references want them."""
    prompts = [Prompt(str(i), completion=completion or None) for i in numbers]
    return model.capture(prompts, [SITE])[SITE]


def further(model: Synthetic, n: int) -> tuple[Tensor, np.ndarray]:
    """Rows that no prober was fitted on, and which of them are to be steered."""
    return states(model, range(n, n + FURTHER)), np.arange(n, n + FURTHER) % 2 == 0


def contrasts_of(model: Synthetic, n: int) -> Tensor:
    return states(model, range(n), "yes") - states(model, range(n), "no")
