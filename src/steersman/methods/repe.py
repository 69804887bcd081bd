"""RepE / LAT: the first principal component of normalised differences.

Zou et al. 2023, arXiv:2310.01405

    u_l = PC1 { e_i z_i / |z_i| },  z_i = h_l(x_i, positive) - h_l(x_i, negative),  e_i = +1 or -1
    h_t <- h_t + strength * c_l u_l
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import DataError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import (
    ContrastRule,
    contrast_vectors,
    norm_factors,
    scaled,
    steered_rows,
)
from steersman.methods.principal import about_mean, leading, principal
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

EXACT = 1000  # rows, or dimensions, up to which all components are cheap
ITERATIONS = 7  # of the search for one component, beyond: as in scikit-learn


@part("repe")
class RepE(Method[Dataset]):
    """v_l = c_l u_l,  u_l = PC1 of the pairs' unit differences in a random order of each pair.

    Paper: Representation Engineering, arXiv:2310.01405 (linear artificial tomography, section 3).
    The random order e_i, drawn from `seed`, makes the principal component pass through the
    origin; u_l points to where the wanted sides lie on average.

    Departs from the paper: `norm = "mean"` sets c_l = E|z|, so that strength means what it means
    for a mean vector; "unit" sets c_l = 1, as the paper. The sign comes from the mean projection of
    the differences, not from a vote over labelled pairs.
    """

    layers: LayerSelector
    contrasts: ContrastRule
    behaviour: str | None = None
    norm: Literal["mean", "unit"] = "mean"
    seed: int = 0
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self.layers(model.spec)
        model.spec.check(sites, "RepE")
        rule = self.contrasts if self.behaviour is None else self.contrasts.only(self.behaviour)
        rows = [data.rows[i] for i in steered_rows(data.rows)]
        if len(rows) < 2:
            raise DataError(
                "A principal component needs two rows to steer or more; there is one. Add rows."
            )
        found = contrast_vectors(model, rule, rows, sites)
        vectors: list[Tensor] = []
        for site in sites:
            z = found.pop(site)
            vectors.append(self._vector(scaled(rows, z, norm_factors(rule, rows, z))))
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=sites, vectors=torch.stack(vectors)),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

    def _vector(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        draw = torch.Generator().manual_seed(self.seed)
        order = 2 * torch.randint(0, 2, (len(z), 1), generator=draw) - 1
        pairs = about_mean(z, torch.arange(len(z)), lambda some, at: order[at] * unit(some))
        if min(z.shape) <= EXACT:
            direction = principal(pairs).directions(1)
            if not len(direction):
                raise DataError(
                    f"The {len(z)} differences are all alike in the order that the seed "
                    f"{self.seed} draws, so they have no principal component. Add rows."
                )
        else:
            direction = leading(pairs, 1, seed=self.seed, iterations=ITERATIONS)
        direction = unit(direction[0].float())
        if float((z @ direction).mean()) < 0:
            direction = -direction
        return direction * (z.norm(dim=1).mean() if self.norm == "mean" else 1.0)
