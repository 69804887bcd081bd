"""GivenVector: every request brings its own vector."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import Synthesizer
from steersman.core.types import Read, Site, Tokens


@part("given")
class GivenVector(Synthesizer[Tensor]):
    """v_t = the vector that request r(t) carries (`Request.vectors`).

    For oracles such as P2S, controls with another random vector per request, and applications
    that compute the vector themselves.
    """

    needs_vector: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Read, ...]:
        return ()

    def init(self, num_requests: int, like: Tensor) -> Tensor:
        return like.new_zeros(num_requests, like.shape[-1])

    def observe(self, x: Tokens, state: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        return state

    def __call__(self, x: Tokens, state: Float[Tensor, "r d"]) -> Float[Tensor, "t d"]:
        return state[x.request]

    def per_request(self, site: Site, state: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        return state
