"""Linear fields: the vector of each token is a linear function of the token's own state."""

from jaxtyping import Float
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import TokenSynthesizer
from steersman.core.types import Tokens


@part("linear_field")
class LinearField(TokenSynthesizer):
    """v_t = W h_t, in float32.

    With `add` at `head_in` and the strength e, the logits are those of the output embedding
    E + e E W: LM-Steer (arXiv:2305.12798) without touching E.
    """

    matrix: Float[Tensor, "d d"]

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, "t d"]:
        return x.h.float() @ self.matrix.T


@part("low_rank_field")
class LowRankField(TokenSynthesizer):
    """v_t = identity * h_t + left (right h_t), in float32: `linear_field` in 2 d k numbers."""

    left: Float[Tensor, "d k"]
    right: Float[Tensor, "k d"]
    identity: float = 1.0

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, "t d"]:
        h = x.h.float()
        return self.identity * h + (h @ self.right.T) @ self.left.T
