"""Trains the net of L2S: contexts in, contrast vectors out."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.types import Read
from steersman.methods.principal import about_mean, leading
from steersman.synthesizers.net import SteeringNet

EVALUATED = 1024  # held-out rows that are run at once
SVD_ITERATIONS = 5  # of the search for the decoder's start: TruncatedSVD's


@dataclass(frozen=True)
class NetTraining:
    """Hyperparameters of the net and its training.

    Per row, with targets z and weights from the fields (L2S, App. B.1):

        loss = l2 * mean_d (g - z)^2 + l1 * mean_d |g - z| - cosine * cos(g, z)

    Attributes:
        hidden: width of the hidden layer (K in the paper: 100; 400 for Qwen2-VL on POPE).
        activation: "relu" can predict an exact zero (the paper's VLGuard nets), "tanh" else.
        decoder: how the decoder begins: from the singular vectors of the centred targets ("svd",
            POPE), from a dictionary with positive codes ("dictionary", safety), or at random. The
            dictionary takes minutes for 2,000 targets of width 4096, and copies of all of them.
        inputs: "standardise" contexts over the fit rows, or take them "raw" (paper).
        targets: "unit" scales them by their mean norm, or "raw" (paper).
        cosine_ramp: whether the cosine weight grows linearly from 0 over the epochs (POPE).
        schedule: "constant", "linear" to zero, or "cosine" with `warmup` epochs before it.
        balance: "rows" weighs rows alike; "groups" weighs answers or behaviours alike (POPE).
        validation: share of the rows held out to choose the epoch; 0 keeps the last epoch.
    """

    hidden: int = 100
    activation: Literal["tanh", "relu"] = "tanh"
    decoder: Literal["svd", "dictionary", "random"] = "svd"
    inputs: Literal["standardise", "raw"] = "standardise"
    targets: Literal["unit", "raw"] = "unit"
    l2: float = 1.0
    l1: float = 0.0
    cosine: float = 0.1
    cosine_ramp: Literal["none", "linear"] = "none"
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: int = 0
    balance: Literal["rows", "groups"] = "rows"
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.epochs < 1 or self.batch_size < 1:
            raise RecipeError("net: hidden, epochs and batch_size must be 1 or more.")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.seed < 0 or self.warmup < 0:
            raise RecipeError(
                "net: learning_rate must be above 0; weight_decay, seed and warmup 0 or more."
            )
        if not 0 <= self.validation < 1:
            raise RecipeError(f"net.validation is {self.validation}; it must be in [0, 1).")


class Net(nn.Module):
    """Linear, activation, linear without bias; lives only while it is trained."""

    def __init__(self, d: int, plan: NetTraining) -> None:
        super().__init__()
        self.encoder = nn.Linear(d, plan.hidden)
        self.decoder = nn.Linear(plan.hidden, d, bias=False)
        self.activation = torch.tanh if plan.activation == "tanh" else torch.relu

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.decoder(self.activation(self.encoder(x)))


class Pairs(NamedTuple):
    """Contexts and targets, which are standardised as they are taken: never all at once."""

    contexts: Float[Tensor, "n d"]
    targets: Float[Tensor, "n d"]
    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    scale: float

    def at(self, rows: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """What the net sees of some rows, and what it is to make of them."""
        x = (self.contexts[rows] - self.mean) / self.spread
        return x, self.targets[rows] / self.scale


def train_net(
    plan: NetTraining,
    read: Read,
    contexts: Float[Tensor, "n d"],
    targets: Float[Tensor, "n d"],
    groups: Sequence[str],
    *,
    log: FitLog = NO_LOG,
) -> SteeringNet:
    """The synthesizer that maps contexts read at `read` to targets.

    Args:
        log: is told the losses ("training").

    Raises:
        DataError: too few rows, or nothing but zero targets.
    """
    n, d = contexts.shape
    norms = targets.norm(dim=1)
    moved = norms > 1e-9
    if n - round(plan.validation * n) < 2 or not bool(moved.any()):
        raise DataError(
            f"{n} rows (of which {plan.validation:.0%} are held out) do not teach a net: it needs "
            "two or more, and contrast vectors that are not all zero. Give more rows, or contrasts "
            "whose completions differ at the site."
        )
    mean, spread = torch.zeros(d), torch.ones(d)
    if plan.inputs == "standardise":
        mean, spread = contexts.mean(0), contexts.std(0).clamp_min(1e-5)
    scale = 1.0
    if plan.targets == "unit":
        # Entries of about 1 rather than rows of length 1: losses are means over d.
        scale = float(norms[moved].mean()) / d**0.5
    pairs = Pairs(contexts, targets, mean, spread, scale)
    net = _optimised(plan, pairs, groups, log)
    return SteeringNet(
        read=read,
        mean=mean,
        spread=spread,
        encoder=net.encoder.weight.detach(),
        bias=net.encoder.bias.detach(),
        decoder=net.decoder.weight.detach(),
        scale=scale,
        activation=plan.activation,
    )


def _optimised(plan: NetTraining, pairs: Pairs, groups: Sequence[str], log: FitLog) -> Net:
    n, d = pairs.contexts.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        net = Net(d, plan)
        order = torch.randperm(n)
        held = order[: round(plan.validation * n)]
        rows = order[len(held) :]
        net.decoder.weight.data = _decoder(plan, pairs, rows, net.decoder.weight.data)
        weight = _row_weights(plan, groups)
        optimiser = torch.optim.Adam(
            net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        best, kept, kept_epoch = float("inf"), {}, plan.epochs - 1
        losses, validation = [], []
        for epoch in range(plan.epochs):
            for group in optimiser.param_groups:
                group["lr"] = plan.learning_rate * _rate(plan, epoch)
            ramp = epoch / plan.epochs if plan.cosine_ramp == "linear" else 1.0
            shuffled = rows[torch.randperm(len(rows))]
            total = 0.0
            for chosen in shuffled.split(plan.batch_size):
                x, z = pairs.at(chosen)
                loss = (_loss(plan, net(x), z, ramp) * weight[chosen]).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(chosen)
            losses.append(total / len(rows))
            if len(held):
                now = _held_out_loss(plan, net, pairs, held, weight)
                validation.append(now)
                if now < best:
                    best, kept_epoch = now, epoch
                    kept = {k: v.clone() for k, v in net.state_dict().items()}
    log.add("training", what="steering net", train=losses, validation=validation, kept=kept_epoch)
    if kept:
        net.load_state_dict(kept)
    return net


def _held_out_loss(
    plan: NetTraining, net: Net, pairs: Pairs, held: Tensor, weight: Tensor
) -> float:
    """The mean loss over the held-out rows, some at a time, at the final cosine weight."""
    total = 0.0
    with torch.no_grad():
        for chosen in held.split(EVALUATED):
            x, z = pairs.at(chosen)
            total += float((_loss(plan, net(x), z, 1.0) * weight[chosen]).sum())
    return total / len(held)


def _loss(plan: NetTraining, made: Tensor, wanted: Tensor, ramp: float) -> Float[Tensor, " n"]:
    """Per row; a zero target has no direction, so no cosine term."""
    error = made - wanted
    loss = plan.l2 * error.pow(2).mean(1) + plan.l1 * error.abs().mean(1)
    moved = (wanted.norm(dim=1) > 1e-9).float()
    return loss - plan.cosine * ramp * moved * F.cosine_similarity(made, wanted)


def _row_weights(plan: NetTraining, groups: Sequence[str]) -> Float[Tensor, " n"]:
    if plan.balance == "rows":
        return torch.ones(len(groups))
    names = sorted(set(groups))
    count = {name: groups.count(name) for name in names}
    return torch.tensor([len(groups) / (len(names) * count[g]) for g in groups])


def _rate(plan: NetTraining, epoch: int) -> float:
    if epoch < plan.warmup:
        return (epoch + 1) / plan.warmup
    done = (epoch - plan.warmup) / max(1, plan.epochs - plan.warmup)
    if plan.schedule == "linear":
        return 1 - done
    if plan.schedule == "cosine":
        return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
    return 1.0


def _decoder(plan: NetTraining, pairs: Pairs, rows: Tensor, default: Tensor) -> Tensor:
    if plan.decoder == "random":
        return default
    most = min(plan.hidden, len(rows), pairs.targets.shape[1])  # further columns start at random
    if plan.decoder == "svd":
        centred = about_mean(pairs.targets, rows, lambda z, _at: z / pairs.scale)
        start = leading(centred, most, seed=plan.seed, iterations=SVD_ITERATIONS)
    else:
        search = DictionaryLearning(
            most,
            positive_code=True,
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
            max_iter=50,
            random_state=plan.seed,
        )
        with warnings.catch_warnings():
            # A start need not have converged: training goes on from it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(pairs.targets[rows].div_(pairs.scale).numpy())
        start = torch.tensor(search.components_, dtype=torch.float32)
    return torch.cat([start.T, default[:, most:]], dim=1).contiguous()
