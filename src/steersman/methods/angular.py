"""Angular steering: turns states within one plane, to an angle that is chosen.

Vu & Nguyen 2025, arXiv:2510.26243

    h_t <- h_t - P h_t + |P h_t| (cos(angle) b1 + sin(angle) b2)      P projects on span(b1, b2)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.operators.rotate import Rotate
from steersman.selectors.layers import FractionalDepth
from steersman.synthesizers.static import StaticVector

FLAT = 1e-4  # directions that differ by no more than this span no plane


@part("angular")
class Angular(Method[Dataset]):
    """h <- h - P h + |P h| (cos(angle_deg) b1 + sin(angle_deg) b2) at `layers`, one plane for all.

    Each layer of `candidates` gives one direction, its unit mean contrast. b1 is the one with the
    highest mean cosine to all of them, b2 the first principal component of all of them, made
    orthogonal to b1 and pointing to the deepest. Strength interpolates from the state's present
    angle (0) to `angle_deg` (1); 0 degrees is along b1. Paper: Angular Steering, arXiv:2510.26243.

    Departs from the paper: directions come from contrasted completions, not from harmful against
    harmless prompts; the residual stream is written, not the outputs of every norm. The paper's
    adaptive variant, which leaves tokens with a negative projection on b1 alone, is not included.
    """

    layers: LayerSelector
    contrasts: ContrastRule
    candidates: LayerSelector = FractionalDepth(start=0.0)
    angle_deg: float = 0.0
    behaviour: str | None = None
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites, tried = self.layers(model.spec), self.candidates(model.spec)
        model.spec.check([*sites, *tried], "Angular steering")
        if len(set(tried)) < 2:
            raise RecipeError(
                f"Angular steering spans its plane by the directions of several layers, and "
                f"candidates names {len(tried)}. Name two layers or more."
            )
        found = mean_contrast(model, self.contrasts, data.rows, tried, self.behaviour)
        b1, b2 = plane(torch.stack([found[site] for site in tried]))
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=sites, vectors=b1.repeat(len(sites), 1)),
            operator=Rotate(b2=b2, angle_deg=self.angle_deg),
            scope=self.scope,
            strength=self.strength,
        )


def plane(candidates: Float[Tensor, "l d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Two orthonormal directions: the candidate most like the others, and where they differ most.

    Raises:
        RecipeError: the candidates do not differ.
    """
    directions = unit(candidates.double())
    b1 = directions[(directions @ directions.T).mean(1).argmax()]
    spread = directions - directions.mean(0)
    first = torch.linalg.svd(spread, full_matrices=False).Vh[0]
    rest = first - (first @ b1) * b1
    if float((spread @ first).norm()) <= FLAT or float(rest.norm()) <= FLAT:
        raise RecipeError(
            "The candidate layers of angular steering all have the same direction, so they span "
            "no plane. Name candidates that lie further apart."
        )
    b2 = unit(rest) if float(directions[-1] @ rest) >= 0 else -unit(rest)
    return b1.float(), b2.float()
