"""Which tokens of a prompt are read, and how the states of its parts become one row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.types import Position, Site

How = Literal["last", "mean", "each"]


@dataclass(frozen=True, slots=True)
class Interval:
    """The tokens of one prompt that are read: from `start` to `stop`, not included."""

    start: int
    stop: int

    def within(self, start: int, stop: int) -> "Interval":
        """The part of it between two tokens; empty if its stop is not behind its start."""
        return Interval(max(self.start, start), min(self.stop, stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def interval(position: Position | None, prompt_length: int, length: int) -> Interval:
    """What is read of a prompt with so many tokens, `length` with its completion.

    Args:
        position: None reads every token that a completion's token is predicted from.

    Raises:
        RecipeError: there is no such token.
    """
    span, skip = ("completion", 0) if position is None else (position.span, position.skip_last)
    if skip < 0:
        raise RecipeError(
            f"skip_last is {skip}; write 0 to leave nothing out, or a count of tokens."
        )
    start, stop = (0, prompt_length) if span == "prompt" else (prompt_length, length)
    stop -= skip
    if stop - start < 1:
        raise RecipeError(
            f"capture reads the {span}, and a prompt has no token there (skip_last is {skip}). "
            "Give a completion, or skip fewer tokens."
        )
    if position is None and not start:
        raise RecipeError(
            "An answer's first token is predicted from the last token of the prompt, and a prompt "
            "is empty. Give it a text."
        )
    if position is None:
        return Interval(start - 1, stop - 1)
    return Interval(stop - 1, stop) if position.reduce == "last" else Interval(start, stop)


@dataclass(frozen=True)
class Segments:
    """Stretches of tokens in one forward pass, and which prompts they belong to.

    Attributes:
        row, column: of every token that is read, stretch by stretch.
        lengths: tokens of each stretch.
        prompts: by stretch, the prompts that share it.
    """

    row: Int[Tensor, " k"]
    column: Int[Tensor, " k"]
    lengths: Int[Tensor, " n"]
    prompts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, found: Sequence[tuple[int, int, int, tuple[int, ...]]]) -> "Segments":
        """From row, first column, length and prompts of each stretch."""
        rows = torch.tensor([row for row, _, _, _ in found], dtype=torch.long)
        lengths = torch.tensor([num for _, _, num, _ in found], dtype=torch.long)
        columns = [torch.arange(start, start + num) for _, start, num, _ in found]
        return cls(
            rows.repeat_interleave(lengths),
            torch.cat(columns) if columns else rows,
            lengths,
            tuple(prompts for *_, prompts in found),
        )

    def read(self, h: Float[Tensor, "b s d"], how: How) -> Float[Tensor, "n d"]:
        """The states of all stretches in float32, on the CPU; sums over each for a mean."""
        picked = h[self.row.to(h.device), self.column.to(h.device)].float()
        if how == "mean":
            picked = torch.segment_reduce(picked, "sum", lengths=self.lengths.to(h.device))
        return picked.cpu()


@dataclass
class Parts:
    """What was read so far of prompts that are not complete."""

    how: How
    states: dict[int, dict[Site, list[Tensor]]] = field(default_factory=dict)

    def add(self, segments: Segments, site: Site, read: Float[Tensor, "n d"]) -> None:
        sizes = [1] * len(segments.prompts) if self.how == "mean" else segments.lengths.tolist()
        for prompts, part in zip(segments.prompts, read.split(sizes), strict=True):
            for prompt in prompts:
                self.states.setdefault(prompt, {}).setdefault(site, []).append(part)

    def take(self, prompts: Sequence[int], site: Site, num: Sequence[int]) -> Float[Tensor, "t d"]:
        """The rows of complete prompts.

        Args:
            num: tokens that were read of each.
        """
        parts = [self.states[prompt][site] for prompt in prompts]
        if self.how == "mean":
            sums = [sum(some[1:], some[0]) for some in parts]
            return torch.cat(sums) / torch.tensor(num)[:, None]
        return torch.cat([part for some in parts for part in some])
