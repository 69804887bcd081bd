"""Random vectors of the same norm: the control that every steering result needs.

v_X uniform on the sphere of radius mean |z|, another one for each request
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import RequestMethod, Steerer
from steersman.core.types import Scope, Site
from steersman.data.rows import Dataset, Row
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import (
    ContrastRule,
    contrast_vectors,
    norm_factors,
    scaled,
    steered_rows,
)
from steersman.operators.add import Add
from steersman.synthesizers.given import GivenVector


@part("random")
class RandomVector(RequestMethod[Dataset, Row]):
    """h_t <- h_t + strength * |z| u_X with u_X uniform on the unit sphere (Norm-Rnd of L2S).

    Departs from the paper: |z| is the mean norm over the fit rows instead of the norm of the
    request's own contrast vector, so that the control needs no labels.
    """

    site: Site
    contrasts: ContrastRule
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0
    seed: int = 0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "The random vector")
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=GivenVector(),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

    def vectors(self, model: Model, data: Dataset, rows: Sequence[Row]) -> Float[Tensor, "n d"]:
        chosen = [data.rows[i] for i in steered_rows(data.rows)]
        z = contrast_vectors(model, self.contrasts, chosen, [self.site])[self.site]
        z = scaled(chosen, z, norm_factors(self.contrasts, chosen, z))
        draw = torch.Generator().manual_seed(self.seed)
        return z.norm(dim=1).mean() * unit(torch.randn(len(rows), z.shape[1], generator=draw))
