"""Rotate: turns the state within a plane and keeps its length."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Operator


@part("rotate")
class Rotate(Operator):
    """h <- h - P h + |P h| (cos(a) b1 + sin(a) b2),  a = phi + strength * turn(angle_deg - phi)

    P projects on the plane of b1 = v / |v| and of b2, which is made orthogonal to b1. phi is the
    state's present angle in that plane and turn(.) the shorter way round, so strength 1 ends at
    `angle_deg` (0 is along v) and |h| never changes. A state without a part in the plane stays.
    """

    may_rest: ClassVar[bool] = True

    b2: Float[Tensor, " d"]
    angle_deg: float = 0.0

    def __call__(
        self, h: Float[Tensor, "t d"], v: Float[Tensor, "#t d"], strength: Float[Tensor, " t"]
    ) -> Float[Tensor, "t d"]:
        state, b1 = h.float(), unit(v.float())
        second = self.b2.float()[None]
        b2 = unit(second - (second * b1).sum(-1, keepdim=True) * b1)
        x, y = (state * b1).sum(-1), (state * b2).sum(-1)
        phi = torch.atan2(y, x)
        way = torch.remainder(math.radians(self.angle_deg) - phi + math.pi, 2 * math.pi) - math.pi
        angle, length = phi + strength * way, torch.sqrt(x * x + y * y)
        dx, dy = length * torch.cos(angle) - x, length * torch.sin(angle) - y
        turned = (state + dx[:, None] * b1 + dy[:, None] * b2).to(h.dtype)
        return torch.where((strength == 0)[:, None], h, turned)
