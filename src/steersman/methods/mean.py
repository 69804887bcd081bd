"""Mean vector: everyone gets the average of the contrast vectors.

v = mean over steered fit rows of z_X          h_t <- h_t + strength * v
"""

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope, Site
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector


@part("mean")
class MeanVector(Method[Dataset]):
    """v = E[z_X] over the fit rows that are not to be left alone; the static baseline of L2S.

    With `behaviour` set, every row is contrasted as that behaviour: Mean-S(BA) of the paper
    (arXiv:2508.12815, section 4), which can do one thing only.

    Departs from the released code: norms are matched across behaviours as for L2S, so that both
    average the same vectors; the released mean file is not matched.
    """

    site: Site
    contrasts: ContrastRule
    behaviour: str | None = None
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "The mean vector")
        vector = mean_contrast(model, self.contrasts, data.rows, [self.site], self.behaviour)
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=(self.site,), vectors=vector[self.site][None]),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )
