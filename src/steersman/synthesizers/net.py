"""SteeringNet: a two-layer net predicts the vector from the request's own context."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import ContextSynthesizer
from steersman.core.types import Read


@part("steering_net")
class SteeringNet(ContextSynthesizer):
    """v_r = scale * W2 f(W1 (h_r - mean) / spread + b1), with h_r read once per request.

    The released L2S nets have mean 0, spread 1 and scale 1. Source: L2S (arXiv:2508.12815, Eq. 7
    and the released checkpoints: encoder with bias, decoder without).
    """

    read: Read
    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    encoder: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]
    decoder: Float[Tensor, "d k"]
    scale: float = 1.0
    activation: Literal["tanh", "relu"] = "tanh"

    def synthesize(self, context: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        hidden = (context - self.mean) / self.spread @ self.encoder.T + self.bias
        hidden = torch.tanh(hidden) if self.activation == "tanh" else torch.relu(hidden)
        return self.scale * (hidden @ self.decoder.T)
