"""SAS: how alike the directions are in which pairs differ.  AutoSteer, Wu et al. 2025

arXiv:2507.13255, Eqs. 7 and 8
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import LayerScore


class DirectionSums(NamedTuple):
    """By block: the sum of unit differences, how many are not zero, and how many pairs."""

    total: Float[Tensor, "b d"]
    num_nonzero: Float[Tensor, " b"]
    num_pairs: Float[Tensor, " b"]


@part("sas")
class SafetyAwareness(LayerScore[DirectionSums]):
    """SAS = (|s|^2 - N) / (N (N - 1)),  s = sum_j u_j,  u_j = unit(positive_j - negative_j).

    The mean cosine between the differences of any two pairs, as AutoSteer (arXiv:2507.13255,
    Eqs. 7 and 8) defines it, in closed form: O(N d) time for a layer, and memory for one vector a
    block, where the released code makes an N x N matrix. A pair without a difference has the
    cosine 0 with every other.

    Departs from the paper: no sampling, all pairs count.
    """

    def init(self, width: int, num_blocks: int) -> DirectionSums:
        zeros = torch.zeros(num_blocks, dtype=torch.float64)
        return DirectionSums(zeros.new_zeros(num_blocks, width), zeros, zeros)

    def update(
        self,
        state: DirectionSums,
        positive: Float[Tensor, "n d"],
        negative: Float[Tensor, "n d"],
        block: Int[Tensor, " n"],
    ) -> DirectionSums:
        u = unit(positive.double() - negative.double())
        nonzero = u.any(1).double()
        return DirectionSums(
            state.total.index_add(0, block, u),
            state.num_nonzero.index_add(0, block, nonzero),
            state.num_pairs.index_add(0, block, torch.ones_like(nonzero)),
        )

    def finish(self, state: DirectionSums) -> tuple[float, Float[Tensor, " b"]]:
        whole = DirectionSums(*(x.sum(0, keepdim=True) for x in state))
        without = DirectionSums(*(w - x for w, x in zip(whole, state, strict=True)))
        return float(_mean_cosine(whole)[0]), _mean_cosine(without)


def _mean_cosine(sums: DirectionSums) -> Float[Tensor, " b"]:
    n = sums.num_pairs
    made = (sums.total.pow(2).sum(1) - sums.num_nonzero) / (n * (n - 1))
    return torch.where(n > 1, made, torch.nan)
