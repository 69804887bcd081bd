"""SteeringMixture: experts are vectors, and the request's own state says how they are mixed."""

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.part import part
from steersman.core.roles import ContextSynthesizer
from steersman.core.types import Read


@part("mose")
class SteeringMixture(ContextSynthesizer):
    """v_r = C^T a(h_r) + U^T beta(h_r), with h_r read once per request.

        a    = softmax(keys (W_Q h + b_Q) / sqrt(k))             one weight per expert
        beta = W_2 relu(W_1 h + b_1) + b_2                       m coefficients of the residual

    Rows of `prototypes` C are the experts, rows of `residual` U the residual directions; m = 0
    leaves the residual out. `keys` is the paper's W_K C, multiplied out: W_K is only trained.
    Source: FineSteer's mixture of steering experts (arXiv:2604.15488, Eqs. 10 to 14).
    """

    read: Read
    prototypes: Float[Tensor, "e d"]
    keys: Float[Tensor, "e k"]
    query: Float[Tensor, "k d"]
    query_bias: Float[Tensor, " k"]
    residual: Float[Tensor, "m d"]
    weight1: Float[Tensor, "f d"]
    bias1: Float[Tensor, " f"]
    weight2: Float[Tensor, "m f"]
    bias2: Float[Tensor, " m"]

    def weights(self, context: Float[Tensor, "r d"]) -> Float[Tensor, "r e"]:
        """How much of each expert a request gets; they sum to 1."""
        query = context @ self.query.T + self.query_bias
        return torch.softmax(query @ self.keys.T / sqrt(self.keys.shape[1]), dim=-1)

    def synthesize(self, context: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        hidden = torch.relu(context @ self.weight1.T + self.bias1)
        beta = hidden @ self.weight2.T + self.bias2
        return self.weights(context) @ self.prototypes + beta @ self.residual
