"""SCANS: add the refusal direction to harmful requests, take it from all others.

Cao et al. 2024, arXiv:2408.11491

    t_r   = h_r(start) - h_r(end)                   the transition between two tokens of the prompt
    q     = mean of t_r over rows to steer          the reference transition
    s_r   = +1 if cos(t_r, q) >= theta, else -1
    h_t  <- h_t + strength * s_r * v_l              at every layer l written

Departs from the paper: `end` is a token of the prompt itself (the last one), since a request is
not run a second time with "Sure" forced behind it; `start` is where the user's turn ends, as there.
The transition is read in one layer, where the authors average the cosine over layers. theta is the
one with the best F1 on rows held out by group; the authors take 0.75 (0.65 to 0.75 by data set). v
is the mean contrast of completions with its own length, not the unit difference of the mean prompt
states times 3.5.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import latch, unit
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model, Synthesizer
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Read, Scope, Site, Tokens
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contexts import read_contexts, two_sides
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.methods.threshold import best_cut, hold_out, log_cut
from steersman.operators.add import Add


@part("signed_vector")
class SignedVector(Synthesizer[Tensor]):
    """v_r = +vectors[i] if cos(h_r(start) - h_r(end), reference) >= threshold, else -vectors[i].

    The state holds both tokens of each request, since they may come in different passes.
    """

    start: Read
    end: Read
    reference: Float[Tensor, " d"]
    threshold: float
    sites: tuple[Site, ...]
    vectors: Float[Tensor, "l d"]

    def __post_init__(self) -> None:
        if len(self.sites) != len(self.vectors):
            raise RecipeError(
                f"A signed vector has {len(self.sites)} sites and {len(self.vectors)} vectors. "
                "Give one vector for each site."
            )
        if self.start == self.end:
            raise RecipeError(
                f"start and end are both {self.start.site} at {self.start.offset}, so there is no "
                "transition. Read two different tokens."
            )

    @property
    def reads(self) -> tuple[Read, ...]:
        return (self.start, self.end)

    def init(self, num_requests: int, like: Tensor) -> Float[Tensor, "r 2 d"]:
        return torch.zeros(num_requests, 2, like.shape[-1], device=like.device)

    def observe(self, x: Tokens, state: Float[Tensor, "r 2 d"]) -> Float[Tensor, "r 2 d"]:
        ends = list(state.unbind(1))
        for i, read in enumerate(self.reads):
            if read.site == x.site:
                found, seen = latch(x.h.float(), read.here(x), x.request, len(state))
                ends[i] = torch.where(seen[:, None], found, ends[i])
        return torch.stack(ends, 1)

    def __call__(self, x: Tokens, state: Float[Tensor, "r 2 d"]) -> Float[Tensor, "t d"]:
        return self.per_request(x.site, state)[x.request]

    def per_request(self, site: Site, state: Float[Tensor, "r 2 d"]) -> Float[Tensor, "r d"]:
        here = [i for i, own in enumerate(self.sites) if own == site]
        similarity = transition_similarity(state[:, 0] - state[:, 1], self.reference)
        sign = torch.where(similarity >= self.threshold, 1.0, -1.0)
        return sign[:, None] * self.vectors[here[0]]


def transition_similarity(
    transition: Float[Tensor, "r d"], reference: Float[Tensor, " d"]
) -> Float[Tensor, " r"]:
    """cos(transition, reference); 0 where nothing changed."""
    return unit(transition) @ unit(reference)


@part("scans")
class SCANS(Method[Dataset]):
    """h_t <- h_t + strength * s_r * v_l, s_r = +1 for requests that look harmful, else -1.

    Paper: SCANS, arXiv:2408.11491. `start` and `end` are the two tokens of the transition. Rows
    of `behaviours` (all, if empty) are the harmful ones; `held_out` is the share of the rows on
    which the threshold is chosen.
    """

    layers: LayerSelector
    start: Read
    end: Read
    contrasts: ContrastRule
    behaviours: tuple[str, ...] = ()
    held_out: float = 0.25
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0
    seed: int = 0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self.layers(model.spec)
        model.spec.check([*sites, self.start.site, self.end.site], "SCANS")
        steered, _ = two_sides(data.rows, self.behaviours)
        kept, held = hold_out(data.rows, steered, share=self.held_out, seed=self.seed)
        start, end = (read_contexts(model, data.rows, read) for read in (self.start, self.end))
        transition = start - end
        positive = torch.zeros(len(transition), dtype=torch.bool)
        positive[steered] = True
        reference = transition[kept][positive[kept]].mean(0)
        scores = transition_similarity(transition[held], reference)
        cut = best_cut(scores, positive[held])
        rows = [data.rows[i] for i in held]
        log_cut(log, cut, rows, scores, positive[held], gate="signed_vector", score="cosine")
        vectors = mean_contrast(model, self.contrasts, [data.rows[i] for i in steered], sites)
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=SignedVector(
                start=self.start,
                end=self.end,
                reference=reference,
                threshold=cut.threshold,
                sites=sites,
                vectors=torch.stack([vectors[site] for site in sites]),
            ),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )
