"""Add: h + strength * v."""

from jaxtyping import Float
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import Operator


@part("add")
class Add(Operator):
    """h <- h + strength * v, computed in float32 and returned in the state's own type."""

    def __call__(
        self, h: Float[Tensor, "t d"], v: Float[Tensor, "#t d"], strength: Float[Tensor, " t"]
    ) -> Float[Tensor, "t d"]:
        return (h.float() + strength[:, None] * v.float()).to(h.dtype)
