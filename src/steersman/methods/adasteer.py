"""AdaSteer: how far to steer along refusal and along harmfulness depends on where the prompt lies.

Zhao et al. 2025, arXiv:2504.09466

    p(x)  = 100 (h_x - mu) . a / s        position on an axis a: rows to steer 0, others 100 (mean)
    c(x)  = clip(w p(x) + b, low, high)   w, b: logistic regression of "to steer" on the position
    h_t  <- h_t + strength * (c_RD(x) v_RD + c_HD(x) v_HD)

RD, rejection: v_RD = mean contrast of completions; a = the same at its read, turned round.
HD, harmfulness: v_HD = mean prompt state of rows to steer minus that of the others, without its
part along v_RD; a = the same difference at its read, turned round. So c_RD >= 0 pushes what looks
harmful towards refusal, and c_HD <= 0 pushes what looks harmless away from it.

Departs from the paper: RD comes from completions, where the authors compare harmful prompts that
the model rejects with those that it answers; w and b come from one logistic regression per axis on
the labels of the fit rows (classes balanced), where the authors fit on the strengths that are
needed to reject attacks, and publish numbers for three models; the bounds are fields, since the
authors' belong to their models; the sign is such that a positive strength refuses.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import EPS, latch, unit
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model, Synthesizer
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Read, Scope, Site, Tokens
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contexts import CHUNK, mean_states, read_contexts, two_sides
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.operators.add import Add

STANDARD = 100.0
"""The distance between the mean positions of both kinds of rows, as in the paper."""


@dataclass(frozen=True)
class Axis:
    """c = clip(slope * p + intercept, low, high), p = 100 (h - origin) . direction / span."""

    read: Read
    origin: Float[Tensor, " d"]
    direction: Float[Tensor, " d"]
    span: float
    slope: float
    intercept: float
    low: float
    high: float

    def position(self, h: Float[Tensor, "r d"]) -> Float[Tensor, " r"]:
        """0 where rows to steer are on average, 100 where the others are."""
        return STANDARD / self.span * ((h - self.origin) @ self.direction)

    def coefficient(self, h: Float[Tensor, "r d"]) -> Float[Tensor, " r"]:
        """How much of the axis's vector is added."""
        return (self.slope * self.position(h) + self.intercept).clamp(self.low, self.high)


@part("adaptive_vectors")
class AdaptiveVectors(Synthesizer[Tensor]):
    """v_r = c_RD(h_r) rejection_vectors[i] + c_HD(h_r) harm_vectors[i], c = clip(w p(h_r) + b).

    The state is the two coefficients of each request, each read once at its axis.
    """

    sites: tuple[Site, ...]
    rejection: Axis
    harm: Axis
    rejection_vectors: Float[Tensor, "l d"]
    harm_vectors: Float[Tensor, "l d"]

    def __post_init__(self) -> None:
        if not len(self.sites) == len(self.rejection_vectors) == len(self.harm_vectors):
            raise RecipeError(
                f"Adaptive vectors have {len(self.sites)} sites, {len(self.rejection_vectors)} "
                f"rejection and {len(self.harm_vectors)} harm vectors. Give one of each for every "
                "site."
            )

    @property
    def reads(self) -> tuple[Read, ...]:
        return (self.rejection.read, self.harm.read)

    def init(self, num_requests: int, like: Tensor) -> Float[Tensor, "r 2"]:
        return torch.zeros(num_requests, 2, device=like.device)

    def observe(self, x: Tokens, state: Float[Tensor, "r 2"]) -> Float[Tensor, "r 2"]:
        coefficients = list(state.unbind(1))
        for i, axis in enumerate((self.rejection, self.harm)):
            if axis.read.site == x.site:
                h, seen = latch(x.h.float(), axis.read.here(x), x.request, len(state))
                coefficients[i] = torch.where(seen, axis.coefficient(h), coefficients[i])
        return torch.stack(coefficients, 1)

    def __call__(self, x: Tokens, state: Float[Tensor, "r 2"]) -> Float[Tensor, "t d"]:
        return self.per_request(x.site, state)[x.request]

    def per_request(self, site: Site, state: Float[Tensor, "r 2"]) -> Float[Tensor, "r d"]:
        here = [i for i, own in enumerate(self.sites) if own == site][0]
        both = torch.stack([self.rejection_vectors[here], self.harm_vectors[here]])
        return state @ both


@part("adasteer")
class AdaSteer(Method[Dataset]):
    """h_t <- h_t + strength * (clip(w1 p1 + b1) v_RD + clip(w2 p2 + b2) v_HD), p read per request.

    Paper: AdaSteer, arXiv:2504.09466. `rejection` and `harm` are where the two positions are read
    (layers 8 and 13 of Llama-3.1-8B there). Rows of `behaviours` (all, if empty) are steered. The
    bounds are (low, high) of each coefficient.
    """

    layers: LayerSelector
    rejection: Read
    harm: Read
    contrasts: ContrastRule
    behaviours: tuple[str, ...] = ()
    rejection_bounds: tuple[float, float] = (0.0, 1.0)
    harm_bounds: tuple[float, float] = (-0.5, 0.0)
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def __post_init__(self) -> None:
        for low, high in (self.rejection_bounds, self.harm_bounds):
            if low > high:
                raise RecipeError(f"A bound is ({low}, {high}); write the lower one first.")

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self.layers(model.spec)
        model.spec.check([*sites, self.rejection.site, self.harm.site], "AdaSteer")
        steered, alone = two_sides(data.rows, self.behaviours)
        wanted = [self.rejection.site, *sites]
        vectors = mean_contrast(model, self.contrasts, [data.rows[i] for i in steered], wanted)
        harm = read_contexts(model, data.rows, self.harm)
        rejection = read_contexts(model, data.rows, self.rejection)
        first, second = mean_states(model, data.rows, self.harm, sites, (steered, alone))
        differences = [first[site] - second[site] for site in sites]
        rejection_vectors = torch.stack([vectors[site] for site in sites])
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=AdaptiveVectors(
                sites=sites,
                rejection=fit_axis(
                    self.rejection, rejection[steered], rejection[alone],
                    direction=-vectors[self.rejection.site], bounds=self.rejection_bounds,
                ),
                harm=fit_axis(
                    self.harm, harm[steered], harm[alone],
                    direction=harm[alone].mean(0) - harm[steered].mean(0), bounds=self.harm_bounds,
                ),
                rejection_vectors=rejection_vectors,
                harm_vectors=without(torch.stack(differences), rejection_vectors),
            ),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )  # fmt: skip


def fit_axis(
    read: Read,
    harmful: Float[Tensor, "n d"],
    harmless: Float[Tensor, "m d"],
    *,
    direction: Float[Tensor, " d"],
    bounds: tuple[float, float],
) -> Axis:
    """The axis whose coefficient is the clipped log-odds of "to steer", given the position.

    Raises:
        DataError: both kinds of rows have the same mean position.
    """
    low, high = bounds
    along, origin = unit(direction), harmful.mean(0)
    span = float((harmless.mean(0) - origin) @ along)
    if abs(span) < EPS:
        raise DataError(
            f"Rows to steer and rows to leave alone have the same mean position at {read.site}, so "
            "the position tells nothing. Read at another layer."
        )
    # Inputs of the regression are 0 and 1 on average: its penalty then means the same anywhere.
    states = (part for side in (harmful, harmless) for part in side.split(CHUNK))
    positions = torch.cat([(h - origin) @ along / span for h in states])
    shares = positions[:, None].double().numpy()
    labels = [1] * len(harmful) + [0] * len(harmless)
    fitted = LogisticRegression(class_weight="balanced").fit(shares, labels)
    slope, intercept = float(fitted.coef_[0, 0]) / STANDARD, float(fitted.intercept_[0])
    return Axis(read, origin, along, span, slope, intercept, low, high)


def without(x: Float[Tensor, "l d"], direction: Float[Tensor, "l d"]) -> Float[Tensor, "l d"]:
    """Each row of `x` minus its part along the same row of `direction`."""
    along = unit(direction)
    return x - (x * along).sum(-1, keepdim=True) * along
