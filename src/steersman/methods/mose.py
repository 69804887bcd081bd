"""MoSE: a mixture of steering vectors that the request's own state weighs.

    z_i = h(X_i, positive) - h(X_i, negative)                                    (Eq. 10)
    C   = mean of z / |z| in each cluster of K-means; K by the Calinski-Harabasz score
    v   = C^T softmax(W_K C W_Q h / sqrt(k)) + U^T beta(h)                       (Eqs. 11 to 13)
    W_Q, W_K, beta = argmin mean_i |v(h_i) - z_i|^2,  U the principal directions of z   (Eq. 14)

Weng et al. 2026, arXiv:2604.15488, known to us from its abstract, notes and released code.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import calinski_harabasz_score
from torch import Tensor, nn

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import unit
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Read, Scope, Site
from steersman.data.rows import Dataset, Row
from steersman.gates.always import AlwaysOpen
from steersman.methods.contexts import read_contexts
from steersman.methods.contrast import (
    ContrastRule,
    contrast_vectors,
    norm_factors,
    scaled,
    steered_rows,
)
from steersman.operators.add import Add
from steersman.synthesizers.mose import SteeringMixture

CLUSTER_DIMENSIONS = 256  # contrast vectors are reduced to these before they are clustered
MIN_DELTA = 1e-8  # a smaller gain on the validation rows is none


@dataclass(frozen=True)
class MixtureTraining:
    """Hyperparameters of the mixture and its training.

    Attributes:
        ks: numbers of experts that are tried; those that are not below the number of rows, or of
            which some cluster stays empty, are passed over. One number is taken as it is.
        residual_dim: principal directions beside the experts; 0 for none.
        attention_dim: width of keys and queries (the paper's is the model's).
        hidden: width of the hidden layer of beta (the paper's is the model's).
        scale: how long experts are. "paper": means of unit vectors, so at most 1, although the
            targets are as long as they come. "cluster_norm": times the mean norm of the cluster.
            "learned": times one factor, trained from the mean norm of all.
        inputs: "standardise" contexts over the rows, or take them "raw" (paper).
        targets: "unit" trains in units of the targets' mean norm, or "raw" (paper).
        validation: share of the rows held out to choose the epoch; 0 keeps the last epoch.
        patience: epochs without a better validation error before training ends.
    """

    ks: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10)
    residual_dim: int = 10
    attention_dim: int = 64
    hidden: int = 256
    scale: Literal["paper", "cluster_norm", "learned"] = "cluster_norm"
    inputs: Literal["standardise", "raw"] = "standardise"
    targets: Literal["unit", "raw"] = "unit"
    epochs: int = 100
    learning_rate: float = 5e-4
    weight_decay: float = 1e-5
    validation: float = 0.1
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (*self.ks, self.attention_dim, self.hidden, self.epochs, self.patience)
        if not self.ks or min(sizes) < 1 or self.residual_dim < 0 or self.seed < 0:
            raise RecipeError(
                "mixture: ks needs one number or more; ks, attention_dim, hidden, epochs and "
                "patience must be 1 or more, residual_dim and seed 0 or more."
            )
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.validation < 1:
            raise RecipeError(
                "mixture: learning_rate must be above 0, weight_decay 0 or more, and validation "
                "in [0, 1)."
            )


class Clusters(NamedTuple):
    """Contrast vectors in clusters.

    Attributes:
        scores: the Calinski-Harabasz score of each K that was tried.
    """

    labels: Int[Tensor, " n"]
    scores: dict[int, float]


@part("mose")
class MoSE(Method[Dataset]):
    """h_t <- h_t + strength * (C^T a(h_X) + U^T beta(h_X)), with h_X read once per request.

    FineSteer's mixture without its gate (the ablation "w/o SCS"): it steers every request. Paper:
    arXiv:2604.15488, Eqs. 10 to 14. The paper reads the input of block l and writes its output,
    `read = Site(l, "resid_pre")` and `site = Site(l, "resid_post")`, at every token; a prompt that
    comes in one pass needs no probe for that.

    With `rows = "all"` the net also learns the vector 0 for rows to be left alone (not in the
    paper, where the gate leaves them alone); clusters and U come from the steered rows alone.

    Departs from the paper, as options with the paper's value in the presets: experts keep the norm
    of their cluster, inputs are standardised, targets are trained in units of their mean norm, and
    keys, queries and beta are narrower than the model (50 million weights for 408 rows at 4096).
    Without an option: K-means starts 20 times for every K, not for the last alone; keys have no
    bias, which the softmax would cancel.
    """

    site: Site
    read: Read
    contrasts: ContrastRule
    mixture: MixtureTraining = MixtureTraining()
    rows: Literal["steered", "all"] = "steered"
    scope: Scope = Scope.ALL
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site, self.read.site], "MoSE")
        steered = [data.rows[i] for i in steered_rows(data.rows)]
        rows = steered if self.rows == "steered" else list(data.rows)
        z = contrast_vectors(model, self.contrasts, rows, [self.site])[self.site]
        z = scaled(rows, z, norm_factors(self.contrasts, rows, z))
        context = read_contexts(model, rows, self.read)
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=fit_mixture(self.mixture, self.read, context, z, rows, log=log),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )


def fit_mixture(
    plan: MixtureTraining,
    read: Read,
    contexts: Float[Tensor, "n d"],
    targets: Float[Tensor, "n d"],
    rows: Sequence[Row],
    *,
    log: FitLog = NO_LOG,
) -> SteeringMixture:
    """The synthesizer that maps contexts read at `read` to targets; rows left alone have zero.

    Raises:
        DataError: too few rows for the experts or the residual, or nothing but zero targets.
    """
    moved = targets.norm(dim=1) > 1e-9
    z = targets[moved]
    if len(z) < max(2, plan.residual_dim + 1):
        raise DataError(
            f"{len(z)} rows with a contrast vector other than zero do not give a mixture with "
            f"{plan.residual_dim} residual directions: {max(2, plan.residual_dim + 1)} are "
            "needed. Give more rows, or lower residual_dim."
        )
    clusters = cluster(plan, z)
    frozen = _frozen(plan, z, clusters.labels)
    made = _trained(plan, read, contexts, targets, frozen=frozen, log=log)
    weights = made.weights(contexts)
    names = [row.behaviour for row in rows]
    log.add(
        "expert_usage",
        experts=len(made.prototypes),
        sizes=clusters.labels.bincount().tolist(),
        scores={str(k): score for k, score in clusters.scores.items()},
        usage={
            name: weights[[n == name for n in names]].mean(0).tolist()
            for name in sorted(set(names))
        },
    )
    return made


def cluster(plan: MixtureTraining, z: Float[Tensor, "n d"]) -> Clusters:
    """The clusters of the directions of `z`, in as many as score best.

    Raises:
        DataError: the rows form none of the numbers of clusters that are tried.
    """
    directions = unit(z).double()
    left, size, _ = torch.linalg.svd(directions - directions.mean(0), full_matrices=False)
    reduced = (left * size)[:, :CLUSTER_DIMENSIONS].numpy()
    scores: dict[int, float] = {}
    found: dict[int, Tensor] = {}
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: seen below by the labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in (k for k in plan.ks if k == 1 or k < len(z)):
            search = KMeans(
                k,
                n_init=20,  # type: ignore[arg-type]  # the stubs know "auto" alone
                max_iter=500,
                random_state=plan.seed,
            )
            labels = search.fit_predict(reduced)
            if len(np.unique(labels)) < k:
                continue
            found[k] = torch.from_numpy(labels).long()
            if k > 1 and len(plan.ks) > 1:
                scores[k] = float(calinski_harabasz_score(reduced, labels))
    if not found:
        raise DataError(
            f"{len(z)} contrast vectors do not form {' or '.join(map(str, plan.ks))} clusters. "
            "Give more rows that differ, or smaller numbers in ks."
        )
    best = max(found, key=lambda k: scores.get(k, 0.0))
    return Clusters(found[best], scores)


class Frozen(NamedTuple):
    """What is not trained: the experts, their directions and the residual directions."""

    prototypes: Float[Tensor, "e d"]
    directions: Float[Tensor, "e d"]
    residual: Float[Tensor, "m d"]


def _frozen(plan: MixtureTraining, z: Tensor, labels: Tensor) -> Frozen:
    groups = [labels == k for k in range(int(labels.max()) + 1)]
    directions = torch.stack([unit(z[mine]).mean(0) for mine in groups])
    norms = z.norm(dim=1)
    length = {
        "paper": torch.ones(len(groups)),
        "cluster_norm": torch.stack([norms[mine].mean() for mine in groups]),
        "learned": norms.mean().expand(len(groups)),
    }[plan.scale]
    residual = torch.linalg.svd(z - z.mean(0), full_matrices=False)[2][: plan.residual_dim]
    return Frozen(directions * length[:, None], directions, residual.contiguous())


class Net(nn.Module):
    """The mixture; lives only while it is trained."""

    def __init__(self, frozen: Frozen, unit_length: float, plan: MixtureTraining) -> None:
        super().__init__()
        d, k, m = frozen.directions.shape[1], plan.attention_dim, len(frozen.residual)
        self.frozen, self.unit_length, self.width = frozen, unit_length, k
        self.query, self.key = nn.Linear(d, k), nn.Linear(d, k, bias=False)
        self.factor = nn.Parameter(torch.ones(()), requires_grad=plan.scale == "learned")
        self.beta = (nn.Linear(d, plan.hidden), nn.Linear(plan.hidden, m)) if m else None
        if self.beta:
            self.first, self.last = self.beta  # as attributes they are trained

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        scores = self.query(x) @ self.key(self.frozen.directions).T / self.width**0.5
        mixed = self.factor / self.unit_length * scores.softmax(-1) @ self.frozen.prototypes
        if not self.beta:
            return mixed
        first, last = self.beta
        return mixed + last(torch.relu(first(x))) @ self.frozen.residual


def _trained(
    plan: MixtureTraining,
    read: Read,
    contexts: Tensor,
    targets: Tensor,
    *,
    frozen: Frozen,
    log: FitLog,
) -> SteeringMixture:
    """The net's weights, with standardisation and units multiplied into them."""
    d = contexts.shape[1]
    mean, spread, length = torch.zeros(d), torch.ones(d), 1.0
    if plan.inputs == "standardise":
        mean, spread = contexts.mean(0), contexts.std(0).clamp_min(1e-5)
    if plan.targets == "unit":
        # Entries of about 1 rather than rows of length 1: the loss is a mean over d.
        length = float(targets[targets.norm(dim=1) > 1e-9].norm(dim=1).mean()) / d**0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        net = Net(frozen, length, plan)
    _optimise(plan, net, (contexts - mean) / spread, targets / length, log=log)

    def from_raw(layer: nn.Linear) -> tuple[Tensor, Tensor]:
        weight = layer.weight.detach() / spread
        return weight, layer.bias.detach() - weight @ mean

    query, query_bias = from_raw(net.query)
    weight1, bias1, weight2 = torch.zeros(0, d), torch.zeros(0), torch.zeros(0, 0)
    bias2 = torch.zeros(0)
    if net.beta:
        first, last = net.beta
        weight1, bias1 = from_raw(first)
        weight2, bias2 = last.weight.detach() * length, last.bias.detach() * length
    return SteeringMixture(
        read=read,
        prototypes=frozen.prototypes * net.factor.detach(),
        keys=net.key(frozen.directions).detach(),
        query=query,
        query_bias=query_bias,
        residual=frozen.residual,
        weight1=weight1,
        bias1=bias1,
        weight2=weight2,
        bias2=bias2,
    )


def _optimise(plan: MixtureTraining, net: Net, x: Tensor, z: Tensor, *, log: FitLog) -> None:
    """Full-batch AdamW; the weights of the best validation error are kept."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(plan.seed))
    held = order[: round(plan.validation * len(x))]
    rows = order[len(held) :]
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    training: list[float] = []
    validation: list[float] = []
    best, at, kept = float("inf"), plan.epochs - 1, {}
    for epoch in range(plan.epochs):
        loss = F.mse_loss(net(x[rows]), z[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        training.append(float(loss.detach()))
        if not len(held):
            continue
        with torch.no_grad():
            validation.append(float(F.mse_loss(net(x[held]), z[held])))
        if validation[-1] < best - MIN_DELTA:
            best, at = validation[-1], epoch
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        elif epoch - at >= plan.patience:
            break
    if kept:
        net.load_state_dict(kept)
    log.add("training", what="mixture", train=training, validation=validation, kept=at)
