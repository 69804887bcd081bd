"""P2S: steer every request with its own contrast vector. An oracle: it needs the labels.

    h_t <- h_t + strength * z_X          (L2S, arXiv:2508.12815, Eqs. 5 and 6)

What L2S learns to predict, and its upper bound. Not something that can be deployed.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import RequestMethod, Steerer
from steersman.core.types import Scope, Site
from steersman.data.rows import Dataset, Row
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, contrast_vectors, norm_factors, scaled
from steersman.operators.add import Add
from steersman.synthesizers.given import GivenVector


@part("p2s")
class P2S(RequestMethod[Dataset, Row]):
    """h_t <- h_t + strength * z_X, with z_X from the labels of the request itself (oracle).

    Paper: Learning to Steer, arXiv:2508.12815, Eqs. 5 and 6. Departs from the released code: the
    factors that match norms across behaviours come from the fit rows, not from all rows.
    """

    site: Site
    contrasts: ContrastRule
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "P2S")
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=GivenVector(),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

    def vectors(self, model: Model, data: Dataset, rows: Sequence[Row]) -> Float[Tensor, "n d"]:
        fitted = contrast_vectors(model, self.contrasts, data.rows, [self.site])[self.site]
        factors = norm_factors(self.contrasts, data.rows, fitted)
        z = contrast_vectors(model, self.contrasts, rows, [self.site])[self.site]
        return scaled(rows, z, factors)
