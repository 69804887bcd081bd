"""AlphaSteer: a linear map that is zero on benign prompts and refuses the others.

Sheng et al. 2025, arXiv:2506.07022. Per layer, with the last prompt token's states at the input of
the block, H_h of rows to steer and H_b of rows to leave alone, and the wanted direction r:

    P = I - V V^T,   V the (1 - null_space) d right singular vectors of H_b with the largest values
    D = pinv(X^T X + regularisation P) X^T 1 r^T,   X = H_h P
    h <- h + strength * S^T h_r,   S = P D

Every harmful row has the same target r, so S = u r^T has rank 1, and only u and r are kept:

    u = X^T (X X^T + regularisation I)^-1 1          h <- h + strength * (h_r . u) r

which is exact: on the range of P the two inverses push through each other. It costs the principal
directions of H_b and one system of size min(n, d); nothing larger than n x n or d x d is made.

Departs from the paper: r is the mean contrast of completions and strength counts towards it (the
authors' r points the other way and their strengths are negative, -0.05 to -0.5); r is of the rows'
own contrasts, not a fixed vector of another work; directions that no benign row uses always belong
to the null space, where the authors' d x d decomposition drops some of them at random if there are
fewer benign rows than (1 - null_space) d; the coefficients of all layers come from unsteered states
(a probe pass where there is more than one layer), while the released code reads each layer behind
the edit of the one before; null_space is one number, not one for each layer.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import latch
from steersman.core.part import part
from steersman.core.roles import LayerSelector, Model, Synthesizer
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Read, Scope, Site, Tokens
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contexts import read_sites, two_sides
from steersman.methods.contrast import ContrastRule, mean_contrast
from steersman.methods.principal import about_origin, principal
from steersman.operators.add import Add


@part("rank_one_field")
class RankOneField(Synthesizer[Tensor]):
    """v_r = (h_r . inputs[i]) outputs[i] at the i-th of `sites`, h_r read at the i-th context.

    The state is one coefficient per request and site.
    """

    sites: tuple[Site, ...]
    contexts: tuple[Read, ...]
    inputs: Float[Tensor, "l d"]
    outputs: Float[Tensor, "l d"]

    def __post_init__(self) -> None:
        counts = {len(self.sites), len(self.contexts), len(self.inputs), len(self.outputs)}
        if len(counts) != 1:
            raise RecipeError(
                f"A rank-one field has {len(self.sites)} sites, {len(self.contexts)} contexts, "
                f"{len(self.inputs)} inputs and {len(self.outputs)} outputs. Give one of each for "
                "every site."
            )

    @property
    def reads(self) -> tuple[Read, ...]:
        return self.contexts

    def init(self, num_requests: int, like: Tensor) -> Float[Tensor, "r l"]:
        return torch.zeros(num_requests, len(self.sites), device=like.device)

    def observe(self, x: Tokens, state: Float[Tensor, "r l"]) -> Float[Tensor, "r l"]:
        coefficients = list(state.unbind(1))
        for i, read in enumerate(self.contexts):
            if read.site == x.site:
                h, seen = latch(x.h.float(), read.here(x), x.request, len(state))
                coefficients[i] = torch.where(seen, h @ self.inputs[i], coefficients[i])
        return torch.stack(coefficients, 1)

    def __call__(self, x: Tokens, state: Float[Tensor, "r l"]) -> Float[Tensor, "t d"]:
        return self.per_request(x.site, state)[x.request]

    def per_request(self, site: Site, state: Float[Tensor, "r l"]) -> Float[Tensor, "r d"]:
        here = [i for i, own in enumerate(self.sites) if own == site]
        return state[:, here[0]][:, None] * self.outputs[here[0]]


@part("alphasteer")
class AlphaSteer(Method[Dataset]):
    """h_t <- h_t + strength * (h_r . u_l) r_l, with h_r . u_l about 1 on rows to steer, else 0.

    Paper: AlphaSteer, arXiv:2506.07022 (null_space 0.3 to 0.6 by layer, regularisation 10). Rows
    of `behaviours` (all, if empty) are steered. `layers` at the point "resid_pre" is the paper's.
    """

    layers: LayerSelector
    contrasts: ContrastRule
    behaviours: tuple[str, ...] = ()
    offset: int = -1
    null_space: float = 0.6
    regularisation: float = 10.0
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.null_space <= 1:
            raise RecipeError(f"null_space is {self.null_space}; give a share in (0, 1].")
        if self.regularisation <= 0:
            raise RecipeError(f"regularisation is {self.regularisation}; give a number above 0.")

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        sites = self.layers(model.spec)
        model.spec.check(sites, "AlphaSteer")
        steered, alone = two_sides(data.rows, self.behaviours)
        h = read_sites(model, data.rows, Read(sites[0], offset=self.offset), sites)
        vectors = mean_contrast(model, self.contrasts, [data.rows[i] for i in steered], sites)
        inputs: list[Tensor] = []
        for site in sites:
            states = h.pop(site)
            u = refusal_input(
                states[steered], states[alone], null_space=self.null_space,
                regularisation=self.regularisation,
            )  # fmt: skip
            inputs.append(u)
        return Steerer(
            sites=sites,
            gate=AlwaysOpen(),
            synthesizer=RankOneField(
                sites=sites,
                contexts=tuple(Read(site, offset=self.offset) for site in sites),
                inputs=torch.stack(inputs),
                outputs=torch.stack([vectors[site] for site in sites]),
            ),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )


def refusal_input(
    harmful: Float[Tensor, "n d"],
    benign: Float[Tensor, "m d"],
    *,
    null_space: float,
    regularisation: float,
) -> Float[Tensor, " d"]:
    """u: near 1 on the rows to steer, 0 on the directions that benign rows use. In float64.

    With as many rows as directions or more, both inverses are of the same d x d system.
    """
    n, d = harmful.shape
    num_used = d - int(null_space * d)
    benign_rows = about_origin(benign, torch.arange(len(benign)))
    used = principal(benign_rows).directions(num_used)  # (k, d)
    if n < d:
        x = harmful.double()
        x = x - x @ used.T @ used
        gram = x @ x.T + regularisation * torch.eye(n, dtype=x.dtype)
        return (x.T @ torch.linalg.solve(gram, torch.ones(n, dtype=x.dtype))).float()
    gram, total = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    for x in about_origin(harmful, torch.arange(n)).parts(torch.float64):
        x = x - x @ used.T @ used
        gram.addmm_(x.T, x)
        total += x.sum(0)
    gram.diagonal().add_(regularisation)
    return torch.linalg.solve(gram, total).float()
