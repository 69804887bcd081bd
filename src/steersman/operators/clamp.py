"""Clamp: keeps the projection on the vector inside an interval."""

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Operator


@part("clamp")
class Clamp(Operator):
    """h <- h + strength * (clip(h . v^, low, high) - h . v^) v^,  v^ = v / |v|.

    A token whose projection lies in [low, high] keeps its bits.
    """

    may_rest: ClassVar[bool] = True

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise RecipeError(
                f"low is {self.low} and high is {self.high}. Give finite numbers, low not above "
                "high."
            )

    def __call__(
        self, h: Float[Tensor, "t d"], v: Float[Tensor, "#t d"], strength: Float[Tensor, " t"]
    ) -> Float[Tensor, "t d"]:
        state, direction = h.float(), unit(v.float())
        along = (state * direction).sum(-1, keepdim=True)
        missing = along.clamp(self.low, self.high) - along
        return (state + strength[:, None] * missing * direction).to(h.dtype)
