"""AlwaysOpen: every token, every request."""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import TokenGate
from steersman.core.types import Tokens


@part("always")
class AlwaysOpen(TokenGate):
    """g = 1: steers without asking, as L2S, CAA and most static methods do."""

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, " t"]:
        return torch.ones_like(x.offset, dtype=torch.float32)

    def per_request(self, state: None) -> float:
        return 1.0
