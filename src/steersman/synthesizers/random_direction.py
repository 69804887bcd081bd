"""RandomDirection: another synthesizer's vectors, turned at random; a control for any policy."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Synthesizer
from steersman.core.types import Read, Site, Tokens


@part("random_direction")
class RandomDirection(Synthesizer[Any]):
    """v_t = |inner_t| u, with u uniform on the unit sphere, drawn from `seed`.

    Keeps when and how strongly a policy acts, and removes what it says.
    """

    inner: Synthesizer[Any]
    seed: int = 0

    @property
    def reads(self) -> tuple[Read, ...]:
        return self.inner.reads

    def init(self, num_requests: int, like: Tensor) -> Any:
        draw = torch.Generator().manual_seed(self.seed)
        direction = unit(torch.randn(1, like.shape[-1], generator=draw)).to(like.device)
        # One row per request: every leaf of a state has the request axis first.
        return self.inner.init(num_requests, like), direction.expand(num_requests, -1)

    def observe(self, x: Tokens, state: Any) -> Any:
        inner, direction = state
        return self.inner.observe(x, inner), direction

    def __call__(self, x: Tokens, state: Any) -> Float[Tensor, "t d"]:
        inner, direction = state
        vector = self.inner(x, inner).float()
        length = vector.norm(dim=-1, keepdim=True)
        return length * _as_wide(direction, vector.shape[-1])[x.request]

    def per_request(self, site: Site, state: Any) -> Float[Tensor, "r d"] | None:
        inner, direction = state
        vector = self.inner.per_request(site, inner)
        if vector is None:
            return None
        length = vector.float().norm(dim=-1, keepdim=True)
        return length * _as_wide(direction, vector.shape[-1])


def _as_wide(direction: Float[Tensor, "r d"], wide: int) -> Float[Tensor, "r w"]:
    """Unit rows of another width: attention heads side by side need not have the model's."""
    width = direction.shape[-1]
    return direction if wide == width else unit(direction.repeat(1, -(-wide // width))[:, :wide])
