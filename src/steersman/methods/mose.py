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
from threadpoolctl import threadpool_limits
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
from steersman.methods.net_training import Pairs
from steersman.methods.principal import about_mean, principal
from steersman.operators.add import Add
from steersman.synthesizers.mose import SteeringMixture

CHUNK = 1024  # rows that are run at once
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
    norms = targets.norm(dim=1)
    moved = (norms > 1e-9).nonzero()[:, 0]
    if len(moved) < max(2, plan.residual_dim + 1):
        raise DataError(
            f"{len(moved)} rows with a contrast vector other than zero do not give a mixture with "
            f"{plan.residual_dim} residual directions: {max(2, plan.residual_dim + 1)} are "
            "needed. Give more rows, or lower residual_dim."
        )
    clusters = cluster(plan, targets, moved)
    frozen = _frozen(plan, targets, moved, clusters.labels)
    length = float(norms[moved].mean()) / targets.shape[1] ** 0.5
    made = _trained(plan, read, contexts, targets, frozen=frozen, length=length, log=log)
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


def cluster(
    plan: MixtureTraining, targets: Float[Tensor, "m d"], chosen: Int[Tensor, " n"]
) -> Clusters:
    """The clusters of the directions of the chosen targets, in as many as score best.

    K-means runs in one OpenMP thread: with more, the order of its sums would be up to chance.

    Raises:
        DataError: the rows form none of the numbers of clusters that are tried.
    """
    directions = about_mean(targets, chosen, lambda z, _at: unit(z))
    basis = principal(directions).directions(CLUSTER_DIMENSIONS)
    if not len(basis):  # all alike: one cluster may be wanted
        basis = torch.zeros(1, targets.shape[1], dtype=torch.float64)
    reduced = torch.cat([z @ basis.T for z in directions.parts(torch.float64)]).numpy()
    scores: dict[int, float] = {}
    found: dict[int, Tensor] = {}
    with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
        # Fewer distinct rows than clusters: seen below by the labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in (k for k in plan.ks if k == 1 or k < len(chosen)):
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
            f"{len(chosen)} contrast vectors do not form {' or '.join(map(str, plan.ks))} "
            "clusters. Give more rows that differ, or smaller numbers in ks."
        )
    best = max(found, key=lambda k: scores.get(k, 0.0))
    return Clusters(found[best], scores)


class Frozen(NamedTuple):
    """What is not trained: the experts, their directions and the residual directions."""

    prototypes: Float[Tensor, "e d"]
    directions: Float[Tensor, "e d"]
    residual: Float[Tensor, "m d"]


def _frozen(plan: MixtureTraining, targets: Tensor, chosen: Tensor, labels: Tensor) -> Frozen:
    num, d = int(labels.max()) + 1, targets.shape[1]
    sums, lengths = torch.zeros(num, d, dtype=torch.float64), torch.zeros(num, dtype=torch.float64)
    for at, own in zip(chosen.split(CHUNK), labels.split(CHUNK), strict=True):
        z = targets[at].double()
        sums.index_add_(0, own, unit(z))
        lengths.index_add_(0, own, z.norm(dim=1))
    sizes = labels.bincount()
    directions = (sums / sizes[:, None]).float()
    length = {
        "paper": torch.ones(num),
        "cluster_norm": (lengths / sizes).float(),
        "learned": (lengths.sum() / len(chosen)).float().expand(num),
    }[plan.scale]
    residual = torch.zeros(0, d)
    if plan.residual_dim:
        residual = principal(about_mean(targets, chosen)).directions(plan.residual_dim).float()
    return Frozen(directions * length[:, None], directions, residual)


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
    length: float,
    log: FitLog,
) -> SteeringMixture:
    """The net's weights, with standardisation and units multiplied into them.

    Args:
        length: the targets' mean norm over sqrt(d): entries of about 1 rather than rows of length
            1, since the loss is a mean over d.
    """
    d = contexts.shape[1]
    mean, spread = torch.zeros(d), torch.ones(d)
    if plan.inputs == "standardise":
        mean, spread = contexts.mean(0), contexts.std(0).clamp_min(1e-5)
    if plan.targets == "raw":
        length = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        net = Net(frozen, length, plan)
    _optimise(plan, net, Pairs(contexts, targets, mean, spread, length), log=log)

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


def _optimise(plan: MixtureTraining, net: Net, pairs: Pairs, *, log: FitLog) -> None:
    """Full-batch AdamW; the weights of the best validation error are kept."""
    n = len(pairs.contexts)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(plan.seed))
    held = order[: round(plan.validation * n)]
    rows = order[len(held) :]
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    training: list[float] = []
    validation: list[float] = []
    best, at, kept = float("inf"), plan.epochs - 1, {}
    for epoch in range(plan.epochs):
        optimiser.zero_grad()
        training.append(_error(net, pairs, rows))
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if not len(held):
            continue
        with torch.no_grad():
            validation.append(_error(net, pairs, held))
        if validation[-1] < best - MIN_DELTA:
            best, at = validation[-1], epoch
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        elif epoch - at >= plan.patience:
            break
    if kept:
        net.load_state_dict(kept)
    log.add("training", what="mixture", train=training, validation=validation, kept=at)


def _error(net: Net, pairs: Pairs, rows: Int[Tensor, " n"]) -> float:
    """The mean squared error over the rows; its gradient is added up, some rows at a time."""
    total, count = 0.0, len(rows) * pairs.targets.shape[1]
    for chosen in rows.split(CHUNK):
        x, z = pairs.at(chosen)
        error = F.mse_loss(net(x), z, reduction="sum") / count
        if torch.is_grad_enabled():
            error.backward()
        total += float(error.detach())
    return total
