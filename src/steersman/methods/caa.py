"""CAA: the mean difference at the answer token, added for everyone.

Rimsky et al. 2023, arXiv:2312.06681

    v_l = mean over pairs of h_l(x, answer+) - h_l(x, answer-)      h_t <- h_t + strength * v_l
"""

import torch

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector


@part("caa")
class CAA(Method[Dataset]):
    """v_l = E[h_l(x, answer+) - h_l(x, answer-)] at every layer of `layers`, one vector each.

    Paper: Contrastive Activation Addition, arXiv:2312.06681. `contrasts.position` should be the
    completion's last token, the answer letter of the paper.

    Departs from the paper: several layers may be written, where it sweeps them and keeps one; rows
    of several behaviours are averaged together, with norms matched as `contrasts` says. Writes the
    last prompt token too, as the released code does from the end of the instruction on.
    """

    layers: LayerSelector
    contrasts: ContrastRule
    behaviour: str | None = None
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self.layers(model.spec)
        model.spec.check(sites, "CAA")
        vectors = mean_contrast(model, self.contrasts, data.rows, sites, self.behaviour)
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=StaticVector(
                sites=sites, vectors=torch.stack([vectors[site] for site in sites])
            ),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )
