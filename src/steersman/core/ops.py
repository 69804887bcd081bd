"""Tensor arithmetic shared by parts. Pure, without host synchronisation."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPS = 1e-12


def unit(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows scaled to length 1; a zero row stays zero."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(EPS)


def latch(
    rows: Float[Tensor, "t d"],
    here: Bool[Tensor, " t"],
    request: Int[Tensor, " t"],
    num_requests: int,
) -> tuple[Float[Tensor, "r d"], Bool[Tensor, " r"]]:
    """The marked token of each request, and which requests had one.

    Tokens that are not marked are sent to a slot behind the last request, which is dropped: the
    shapes do not depend on the data, so nothing waits for the device.
    """
    slot = torch.where(here, request, num_requests)
    taken = rows.new_zeros(num_requests + 1, rows.shape[-1]).index_copy(0, slot, rows)
    seen = torch.zeros(num_requests + 1, dtype=torch.bool, device=rows.device)
    seen = seen.index_fill(0, slot, True)
    return taken[:num_requests], seen[:num_requests]


def per_request_sum(
    values: Float[Tensor, " t"], request: Int[Tensor, " t"], num_requests: int
) -> Float[Tensor, " r"]:
    """Sums a per-token quantity over the tokens of each request."""
    return values.new_zeros(num_requests).index_add(0, request, values)
