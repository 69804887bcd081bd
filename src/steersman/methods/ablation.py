"""Directional ablation: no layer may write along one direction.

Arditi et al. 2024, arXiv:2406.11717

    r = mean over rows to steer of h - mean over rows to leave alone of h
    h_t <- h_t - strength * (h_t . r^) r^      at every layer, for every token
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Point, Read, Scope, Site
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contexts import mean_states, two_sides
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.operators.ablate import Ablate
from steersman.selectors.layers import FractionalDepth
from steersman.synthesizers.static import StaticVector


@part("ablation")
class Ablation(Method[Dataset]):
    """h <- h - strength * (h . r^) r^  at `points` of every block of `layers`, r read at `site`.

    Paper: Refusal in Language Models Is Mediated by a Single Direction, arXiv:2406.11717. With
    `source = "prompts"`, r is the difference of the two means of the last prompt token: as a
    control, it shows what a model does that cannot represent "this is such a request". With
    `source = "completions"`, r is the mean of the contrast vectors.

    Departs from the paper: `site` and the token are given, where the paper tries all and keeps the
    pair with the best refusal scores; weights stay as they are; the embedding is ablated as the
    `resid_pre` of the first block.
    """

    site: Site
    layers: LayerSelector = FractionalDepth(start=0.0)
    points: tuple[Point, ...] = ("resid_pre", "attn_out", "mlp_out")
    source: Literal["prompts", "completions"] = "prompts"
    contrasts: ContrastRule | None = None
    behaviour: str | None = None
    scope: Scope = Scope.ALL
    strength: float = 1.0

    def __post_init__(self) -> None:
        if (self.source == "completions") != (self.contrasts is not None):
            raise RecipeError(
                f'The source of ablation is "{self.source}", and contrasts are '
                f"{'missing' if self.contrasts is None else 'given'}. Give contrasts for "
                '"completions", and none for "prompts".'
            )

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        blocks = dict.fromkeys(site.layer for site in self.layers(model.spec))
        sites = tuple(Site(layer, point) for layer in blocks for point in self.points)
        model.spec.check([self.site, *sites], "Ablation")
        direction = self._direction(model, data)
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=sites, vectors=direction.repeat(len(sites), 1)),
            operator=Ablate(),
            scope=self.scope,
            strength=self.strength,
        )

    def _direction(self, model: Model, data: Dataset) -> Float[Tensor, " d"]:
        if self.contrasts is not None:
            rows = data.rows
            return mean_contrast(model, self.contrasts, rows, [self.site], self.behaviour)[
                self.site
            ]
        steered, alone = two_sides(data.rows, () if self.behaviour is None else (self.behaviour,))
        first, second = mean_states(
            model, data.rows, Read(self.site), [self.site], (steered, alone)
        )
        return first[self.site] - second[self.site]
