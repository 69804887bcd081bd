"""ITI: shifts the attention heads that tell the wanted answer from the other one best.

Li et al. 2023, arXiv:2306.03341

    x_t^{l,p} <- x_t^{l,p} + strength * sigma_lp * theta_lp      for the K best heads (l, p)
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import ModelSpec, Scope, Site
from steersman.data.rows import Dataset, Row
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, contrast_states, steered_rows
from steersman.methods.groups import row_groups
from steersman.operators.add import Add
from steersman.selectors.layers import FractionalDepth
from steersman.synthesizers.static import StaticVector

Heads = Float[np.ndarray, "n p w"]


@part("iti")
class ITI(Method[Dataset]):
    """x_head <- x_head + strength * sigma * theta at the `top_heads` heads with the best probes.

    A head's probe is a logistic regression of the wanted against the other completion on its
    output, scored by its accuracy on held-out rows. theta is the unit mass-mean shift E[x+] - E[x-]
    over all fit rows, or the probe's unit weights; sigma is the standard deviation of x . theta.
    Paper: Inference-Time Intervention, arXiv:2306.03341, with top_heads (K) 48 and strength
    (alpha) 15, the defaults. Under grouped queries the heads are those of the queries.

    The scope is the paper's: the last token of every step, from the last prompt token on.

    Departs from the paper: the two sides are completions as `contrasts` says, not questions with
    true and false answers; rows that share the label "pair" or an image are held out together.
    """

    contrasts: ContrastRule
    layers: LayerSelector = FractionalDepth(start=0.0, point="attn_heads")
    top_heads: int = 48
    direction: Literal["mass_mean", "probe"] = "mass_mean"
    validation: float = 0.2
    behaviour: str | None = None
    seed: int = 0
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 15.0

    def __post_init__(self) -> None:
        if self.top_heads < 1 or not 0 < self.validation < 1:
            raise RecipeError(
                f"top_heads is {self.top_heads} and validation {self.validation}. Give at least "
                "one head, and a share of rows between 0 and 1."
            )

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self._sites(model.spec)
        rule = self.contrasts if self.behaviour is None else self.contrasts.only(self.behaviour)
        rows = [data.rows[i] for i in steered_rows(data.rows)]
        held_out = self._held_out(rows)
        states = contrast_states(model, rule, rows, sites)
        accuracy, shift = [], []
        for site in sites:
            positive, negative = (_heads(side, model.spec, site) for side in states[site])
            found = [
                self._head(positive[:, p], negative[:, p], held_out)
                for p in range(model.spec.num_heads)
            ]
            accuracy += [score for score, _ in found]
            shift.append(torch.cat([vector for _, vector in found]))
        best = np.argsort(-np.array(accuracy), kind="stable")[: self.top_heads]
        return self._steerer(
            sites, torch.stack(shift), torch.from_numpy(best), model.spec.num_heads
        )

    def _sites(self, spec: ModelSpec) -> tuple[Site, ...]:
        """Where the heads are.

        Raises:
            RecipeError: not at heads, heads unknown to the model, or fewer than asked for.
        """
        sites = self.layers(spec)
        spec.check(sites, "ITI")
        if wrong := [site for site in sites if site.point != "attn_heads"]:
            raise RecipeError(
                f"ITI writes attention heads, but its layers name {wrong[0]}. Set layers.point to "
                '"attn_heads".'
            )
        if not spec.num_heads or len(sites) * spec.num_heads < self.top_heads:
            raise RecipeError(
                f"ITI is to choose {self.top_heads} heads, but {spec.id} has {spec.num_heads} in "
                f"each of the {len(sites)} layers named. Lower top_heads, or name more layers."
            )
        return sites

    def _held_out(self, rows: Sequence[Row]) -> Bool[np.ndarray, " n"]:
        """Rows that score the probes; those of a pair, or with one image, are on one side."""
        groups = row_groups(rows)
        if len(set(groups)) < 2:
            raise DataError(
                f"ITI scores its probes on held-out rows, but the {len(rows)} rows to steer are "
                "one group (same labels.pair or image). Add rows."
            )
        split = GroupShuffleSplit(1, test_size=self.validation, random_state=self.seed)
        _, chosen = next(split.split(rows, groups=groups))
        held_out = np.zeros(len(rows), dtype=bool)
        held_out[chosen] = True
        return held_out

    def _head(
        self,
        positive: Float[np.ndarray, "n w"],
        negative: Float[np.ndarray, "n w"],
        held_out: Bool[np.ndarray, " n"],
    ) -> tuple[float, Float[Tensor, " w"]]:
        """Accuracy of one head's probe, and sigma * theta."""
        x, y = np.concatenate([positive, negative]), np.repeat([1, 0], len(positive))
        test = np.tile(held_out, 2)
        probe = LogisticRegression(max_iter=1000, tol=1e-6).fit(x[~test], y[~test])
        theta = probe.coef_[0]
        if self.direction == "mass_mean":
            theta = positive.mean(0) - negative.mean(0)
        theta = theta / max(float(np.linalg.norm(theta)), 1e-12)
        shift = float((x @ theta).std()) * theta
        return float(probe.score(x[test], y[test])), torch.from_numpy(shift).float()

    def _steerer(
        self,
        sites: tuple[Site, ...],
        shift: Float[Tensor, "l d"],
        best: Int[Tensor, " k"],
        num_heads: int,
    ) -> Steerer:
        """The chosen heads' shifts; zero for the other heads, and no site without a chosen one."""
        chosen = torch.zeros(len(sites) * num_heads).index_fill(0, best, 1.0)
        chosen = chosen.reshape(len(sites), num_heads)
        vectors = shift * chosen.repeat_interleave(shift.shape[1] // num_heads, dim=1)
        kept = [i for i in range(len(sites)) if bool(chosen[i].any())]
        written = tuple(sites[i] for i in kept)
        return Steerer(
            sites=written,
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=written, vectors=vectors[kept]),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )


def _heads(states: Float[Tensor, "n d"], spec: ModelSpec, site: Site) -> Heads:
    """The output of each head, in float64."""
    if states.shape[1] % spec.num_heads:
        raise RecipeError(
            f"{site} has the width {states.shape[1]}, which {spec.num_heads} heads cannot share. "
            "Name layers whose attention has heads of one width."
        )
    return states.double().reshape(len(states), spec.num_heads, -1).numpy()
