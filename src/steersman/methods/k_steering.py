"""K-Steering: one step down the gradient of a classifier of behaviours.

Oozeer et al. 2025, arXiv:2505.24535

    f(h)  = W2 relu(W1 (h - mean) / spread + b1) + b2              one logit for each behaviour
    L(h)  = - mean of f_k over wanted k + mean of f_k over avoided k
    h_t  <- h_t - strength * grad L(h_t)

f is trained (binary cross entropy, several labels) on the states of the completions: the positive
one of a row has its behaviour's label, the negative one none. For this f the gradient is a formula,

    - grad L(h) = W1^T (1[W1 (h - mean) / spread + b1 > 0] * W2^T w) / spread,
    w = 1 / num_wanted at wanted k, - 1 / num_avoided at avoided k

so that it needs no autograd when the model runs; the paper's code calls it at every token.

Departs from the paper: one hidden layer, where the authors' net is deeper; one step, without the
loop of steps that decay; inputs are standardised; labels come from forced completions, not from
the model's own answers in each tone; with norm "unit" the step has the mean length of the contrast
vectors, so that strengths compare with other methods' ("raw" is the paper's).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Model, TokenSynthesizer
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope, Site, Tokens
from steersman.data.rows import Dataset, Row
from steersman.gates.always import AlwaysOpen
from steersman.methods.contrast import ContrastRule, contrast_states, steered_rows
from steersman.methods.groups import members, row_groups
from steersman.operators.add import Add


@part("classifier_step")
class ClassifierStep(TokenSynthesizer):
    """v_t = scale * u(g_t), g = W1^T (1[W1 (h - mean) / spread + b1 > 0] * W2^T w) / spread.

    g is the gradient of w . f(h) for a classifier f with one hidden layer of ReLUs; u makes it a
    unit vector if norm is "unit" and leaves it if "raw".
    """

    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    weight1: Float[Tensor, "k d"]
    bias1: Float[Tensor, " k"]
    weight2: Float[Tensor, "c k"]
    bias2: Float[Tensor, " c"]
    weights: Float[Tensor, " c"]
    norm: Literal["raw", "unit"] = "raw"
    scale: float = 1.0

    def logits(self, h: Float[Tensor, "t d"]) -> Float[Tensor, "t c"]:
        """f(h), one logit for each behaviour."""
        hidden = torch.relu((h - self.mean) / self.spread @ self.weight1.T + self.bias1)
        return hidden @ self.weight2.T + self.bias2

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, "t d"]:
        inner = (x.h.float() - self.mean) / self.spread @ self.weight1.T + self.bias1  # (t, k)
        step = ((inner > 0) * (self.weights @ self.weight2)) @ self.weight1 / self.spread
        return self.scale * (unit(step) if self.norm == "unit" else step)


@part("k_steering")
class KSteering(Method[Dataset]):
    """h_t <- h_t - strength * grad L(h_t), L = - mean wanted logit + mean avoided logit.

    Paper: K-Steering, arXiv:2505.24535. The classes are the behaviours of `contrasts`; `wanted`
    (all that are not avoided, if empty) and `avoided` name some of them. `validation` is the share
    of the rows, by group, that chooses the epoch.
    """

    site: Site
    contrasts: ContrastRule
    wanted: tuple[str, ...] = ()
    avoided: tuple[str, ...] = ()
    norm: Literal["raw", "unit"] = "unit"
    hidden: int = 64
    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    validation: float = 0.2
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise RecipeError(f"validation is {self.validation}; give a share between 0 and 1.")

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "K-Steering")
        weights = self._weights(tuple(self.contrasts.behaviours))
        rows = [data.rows[i] for i in steered_rows(data.rows)]
        positive, negative = contrast_states(model, self.contrasts, rows, [self.site])[self.site]
        states = torch.cat([positive, negative])
        mean, spread = states.mean(0), states.std(0).clamp_min(1e-5)
        labels = torch.zeros(len(states), len(weights))
        names = list(self.contrasts.behaviours)
        labels[range(len(rows)), [names.index(row.behaviour) for row in rows]] = 1.0
        first, last = self._trained((states - mean) / spread, labels, rows, log)
        length = float((positive - negative).norm(dim=1).mean())
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=ClassifierStep(
                mean=mean,
                spread=spread,
                weight1=first.weight.detach(),
                bias1=first.bias.detach(),
                weight2=last.weight.detach(),
                bias2=last.bias.detach(),
                weights=weights,
                norm=self.norm,
                scale=length if self.norm == "unit" else 1.0,
            ),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

    def _weights(self, known: Sequence[str]) -> Float[Tensor, " c"]:
        """w: what each behaviour's logit counts in -L."""
        for name in (*self.wanted, *self.avoided):
            if name not in known:
                raise RecipeError(f"There is no behaviour {name!r}.{nearest(name, known)}")
        wanted = self.wanted or tuple(name for name in known if name not in self.avoided)
        if not wanted or set(wanted) & set(self.avoided):
            raise RecipeError(
                f"wanted is {list(wanted)} and avoided {list(self.avoided)}. Want at least one "
                "behaviour, and avoid none that is wanted."
            )
        up = torch.tensor([float(name in wanted) for name in known]) / len(wanted)
        down = torch.tensor([float(name in self.avoided) for name in known])
        return up - down / max(1, len(self.avoided))

    def _trained(
        self, x: Tensor, y: Tensor, rows: Sequence[Row], log: FitLog
    ) -> tuple[nn.Linear, nn.Linear]:
        """The two layers of the classifier, of the epoch with the least validation loss."""
        curves: dict[str, list[float]] = {"train": [], "validation": []}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            kept, held = _both_sides(rows, self.validation)
            first, last = nn.Linear(x.shape[1], self.hidden), nn.Linear(self.hidden, y.shape[1])
            net = nn.Sequential(first, nn.ReLU(), last)
            best = {name: value.clone() for name, value in net.state_dict().items()}
            optimiser = torch.optim.AdamW(
                net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            for epoch in range(self.epochs):
                for chosen in kept[torch.randperm(len(kept))].split(self.batch_size):
                    loss = F.binary_cross_entropy_with_logits(net(x[chosen]), y[chosen])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                with torch.no_grad():
                    for name, part_ in (("train", kept), ("validation", held)):
                        loss = F.binary_cross_entropy_with_logits(net(x[part_]), y[part_])
                        curves[name].append(float(loss))
                if curves["validation"].index(min(curves["validation"])) == epoch:
                    best = {name: value.clone() for name, value in net.state_dict().items()}
        net.load_state_dict(best)
        found = curves["validation"]
        log.add("training", what="classifier", **curves, kept=found.index(min(found)))
        return first, last


def _both_sides(rows: Sequence[Row], share: float) -> tuple[Tensor, Tensor]:
    """Indices of states to learn from and of those held out; a group's states stay together.

    Both completions of row i are the states i and i + len(rows).

    Raises:
        DataError: there is one group only.
    """
    groups = members(row_groups(rows))
    if len(groups) < 2:
        raise DataError(
            f"The {len(rows)} rows to steer are one group (same labels.pair or image), so none can "
            "be held out. Add rows."
        )
    held: list[int] = []
    for g in torch.randperm(len(groups)).tolist():
        if len(held) < share * len(rows) and len(held) + len(groups[g]) < len(rows):
            held += groups[g]
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[held] = True
    both = torch.cat([chosen, chosen])
    return (~both).nonzero()[:, 0], both.nonzero()[:, 0]
