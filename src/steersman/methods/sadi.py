"""SADI: amplify what the input itself has in the elements that matter.

Wang et al. 2024, arXiv:2410.12299 (ICLR 2025), hidden-state variant

    D_l  = mean(h+_l) - mean(h-_l)                      states of both completions, all layers
    m    = 1 at the `num_elements` entries of D (layers x width) with the largest |D|, 0 elsewhere
    h_t <- h_t + strength * h_t * m_l                   element by element

Departs from the paper: layers are those of the recipe, not all; every token in scope is scaled, by
its own state (the paper scales the last token); the variants for attention heads and for neurons of
the feed-forward layers are not offered. Nothing in the formula says which way an element should
move: it grows in the direction it already has, whichever completion is wanted.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model, TokenSynthesizer
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope, Site, Tokens
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, contrast_sums, steered_rows
from steersman.operators.add import Add


@part("masked_input")
class MaskedInput(TokenSynthesizer):
    """v_t = h_t * masks[i] at the i-th of `sites`, element by element."""

    sites: tuple[Site, ...]
    masks: Float[Tensor, "l d"]

    def __post_init__(self) -> None:
        if len(self.sites) != len(self.masks):
            raise RecipeError(
                f"A masked input has {len(self.sites)} sites and {len(self.masks)} masks. Give one "
                "mask for each site."
            )

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, "t d"]:
        here = [i for i, site in enumerate(self.sites) if site == x.site]
        return x.h.float() * self.masks[here[0]]


@part("sadi")
class SADI(Method[Dataset]):
    """h_t <- h_t + strength * h_t * m, m = 1 at the elements where both completions differ most.

    Paper: SADI, arXiv:2410.12299. `num_elements` counts over all layers together. Rows of
    `behaviours` (all, if empty) are contrasted.
    """

    layers: LayerSelector
    contrasts: ContrastRule
    num_elements: int
    behaviours: tuple[str, ...] = ()
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.num_elements < 1:
            raise RecipeError(f"num_elements is {self.num_elements}; give at least 1.")

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self.layers(model.spec)
        model.spec.check(sites, "SADI")
        known = self.behaviours
        rows = [r for r in data.rows if (r.behaviour in known if known else True)]
        rows = [rows[i] for i in steered_rows(rows)]
        sums = contrast_sums(model, self.contrasts, rows, sites)
        masks = top_mask(torch.stack([sums[site].mean() for site in sites]), self.num_elements)
        used = [i for i in range(len(sites)) if bool(masks[i].any())]
        return Steerer(
            sites=tuple(sites[i] for i in used),
            gate=AlwaysOpen(),
            synthesizer=MaskedInput(sites=tuple(sites[i] for i in used), masks=masks[used]),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )


def top_mask(difference: Float[Tensor, "l d"], num_elements: int) -> Float[Tensor, "l d"]:
    """1 at the entries of largest size, 0 elsewhere.

    Raises:
        RecipeError: there are not so many.
    """
    if num_elements > difference.numel():
        raise RecipeError(
            f"num_elements is {num_elements}, but {len(difference)} layers of width "
            f"{difference.shape[1]} have {difference.numel()}. Give a smaller number."
        )
    chosen = difference.abs().flatten().topk(num_elements).indices
    return torch.zeros(difference.numel()).index_fill(0, chosen, 1.0).view_as(difference)
