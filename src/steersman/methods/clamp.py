"""Activation capping: the projection on one direction stays where wanted answers have it.

Lu et al. 2026, arXiv:2601.10387

    h_t <- h_t + strength * (clip(h_t . v^, low, high) - h_t . v^) v^
"""

import torch
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope, Site
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import (
    ContrastRule,
    ContrastSums,
    check_mean,
    contrast_parts,
    steered_rows,
)
from steersman.operators.clamp import Clamp
from steersman.synthesizers.static import StaticVector


@part("clamp")
class DirectionalClamp(Method[Dataset]):
    """h <- h + strength * (clip(h . v^, low, high) - h . v^) v^,  v = E[h+ - h-] at `site`.

    low and high are quantiles of the projections of the wanted sides' states; tokens in between
    are untouched. Paper: The Assistant Axis, arXiv:2601.10387, which caps from below at the 25 %
    quantile.

    Departs from the paper: the direction is the mean contrast instead of the mean difference
    between personas, there may be an upper bound too (by default the largest projection seen), and
    one site is written instead of a stretch of layers.
    """

    site: Site
    contrasts: ContrastRule
    behaviour: str | None = None
    low_quantile: float = 0.25
    high_quantile: float = 1.0
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low_quantile <= self.high_quantile <= 1:
            raise RecipeError(
                f"low_quantile is {self.low_quantile} and high_quantile is {self.high_quantile}. "
                "Both lie between 0 and 1, and the low one is not above the high one."
            )

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "The clamp")
        rule = self.contrasts if self.behaviour is None else self.contrasts.only(self.behaviour)
        rows = [data.rows[i] for i in steered_rows(data.rows)]
        sums = ContrastSums()
        wanted_sides: list[Tensor] = []
        for some in contrast_parts(model, rule, rows, [self.site]):
            positive, negative = some.positive[self.site], some.negative[self.site]
            sums.add([rows[i].behaviour for i in some.rows], positive - negative)
            wanted_sides.append(positive.clone())  # not a view that keeps the other side too
        vector = sums.mean(rule)
        check_mean({self.site: vector})
        along = torch.cat([states @ (vector / vector.norm()) for states in wanted_sides])
        ends = torch.tensor([self.low_quantile, self.high_quantile])
        low, high = torch.quantile(along, ends).tolist()
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=(self.site,), vectors=vector[None]),
            operator=Clamp(low=low, high=high),
            scope=self.scope,
            strength=self.strength,
        )
