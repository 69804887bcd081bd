"""Ablate: takes the part of the state along the vector away."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Operator


@part("ablate")
class Ablate(Operator):
    """h <- h - strength * (h . v^) v^,  v^ = v / |v|; the length of v does not matter.

    Strength 1 leaves nothing along v, 2 mirrors the state, a negative one doubles what is there.
    """

    may_rest: ClassVar[bool] = True

    def __call__(
        self, h: Float[Tensor, "t d"], v: Float[Tensor, "#t d"], strength: Float[Tensor, " t"]
    ) -> Float[Tensor, "t d"]:
        state, direction = h.float(), unit(v.float())
        along = (state * direction).sum(-1, keepdim=True)
        return (state - strength[:, None] * along * direction).to(h.dtype)
