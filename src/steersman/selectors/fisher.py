"""Fisher's criterion: how far apart the two sides lie, in units of their own spread."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import LayerScore

NO_SPREAD = 1e-12  # of the squared length: less is rounding


class Moments(NamedTuple):
    """By side (positive, negative) and block: sums of states and of squared lengths, and counts."""

    total: Float[Tensor, "2 b d"]
    squares: Float[Tensor, "2 b"]
    num_pairs: Float[Tensor, " b"]


@part("fisher")
class Fisher(LayerScore[Moments]):
    """|mu+ - mu-|^2 / (tr S+ + tr S-), S the covariance of each side's states.

    The two sides need not be paired for it. Only traces are needed, so one vector a side and block
    is kept; sums are float64, since squared lengths are much larger than the spread.
    """

    def init(self, width: int, num_blocks: int) -> Moments:
        count = torch.zeros(num_blocks, dtype=torch.float64)
        return Moments(count.new_zeros(2, num_blocks, width), count.new_zeros(2, num_blocks), count)

    def update(
        self,
        state: Moments,
        positive: Float[Tensor, "n d"],
        negative: Float[Tensor, "n d"],
        block: Int[Tensor, " n"],
    ) -> Moments:
        both = torch.stack([positive, negative]).double()
        return Moments(
            state.total.index_add(1, block, both),
            state.squares.index_add(1, block, both.pow(2).sum(2)),
            state.num_pairs.index_add(0, block, torch.ones(len(block), dtype=torch.float64)),
        )

    def finish(self, state: Moments) -> tuple[float, Float[Tensor, " b"]]:
        whole = Moments(
            state.total.sum(1, keepdim=True),
            state.squares.sum(1, keepdim=True),
            state.num_pairs.sum(0, keepdim=True),
        )
        without = Moments(*(w - x for w, x in zip(whole, state, strict=True)))
        return float(_criterion(whole)[0]), _criterion(without)


def _criterion(sums: Moments) -> Float[Tensor, " b"]:
    n = sums.num_pairs
    mean = sums.total / n[:, None]
    spread = (sums.squares - n * mean.pow(2).sum(2)) / (n - 1)
    least = NO_SPREAD * sums.squares.sum(0) / n
    within = torch.maximum(spread.sum(0), least.clamp_min(torch.finfo(torch.float64).tiny))
    return torch.where(n > 1, (mean[0] - mean[1]).pow(2).sum(1) / within, torch.nan)
