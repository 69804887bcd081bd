"""SCS: requests to steer fill a subspace; how much of a state lies in it opens the gate.

    M    = states of the requests to steer, mean(M) = mu, V = top k directions of M - mu    (Eq. 6)
    s(h) = |V^T (h - mu)|^2 / |h - mu|^2                                                  (Eq. 7)
    g    = min(1, F(s) / epsilon)^gamma,  F from requests to steer alone                  (Eq. 8)
    g    = sigmoid(w s + b),  w and b from both sides                                     (Eq. 9)

Weng et al. 2026, arXiv:2604.15488, known to us from its abstract, notes and released notebooks.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import EPS
from steersman.core.part import part
from steersman.core.roles import GateMethod, Model
from steersman.core.types import Read
from steersman.data.rows import LEAVE_ALONE, Dataset, Row
from steersman.gates.subspace import Logistic, Quantile, SubspaceGate
from steersman.methods.contexts import read_contexts, two_sides
from steersman.methods.groups import members, row_groups
from steersman.methods.principal import (
    Principal,
    about_mean,
    about_origin,
    completed,
    principal,
)
from steersman.methods.prober_quality import figures, kinds_of, reliability

FOLDS = 4  # the curve that judges a row was fitted on the other three quarters
DECISION = {"logistic": 0.5, "quantile": 1.0}  # the curve's value at the paper's hard threshold
GRADED_FLOOR = 0.05
CHUNK = 2048  # rows whose ratios are computed at once


class Subspace(NamedTuple):
    """Principal directions of states about `mean`, of which up to `most` may be used."""

    found: Principal
    mean: Float[Tensor, " d"]
    most: int

    def basis(self, k: int) -> Float[Tensor, "k d"]:
        """The first k directions, float32; arbitrary ones behind those that have energy."""
        return completed(self.found.directions(k), k).float()

    def ratios(
        self, x: Float[Tensor, "m d"], rows: Int[Tensor, " n"], ks: Sequence[int]
    ) -> Float[Tensor, "n c"]:
        """The energy ratio of some rows of `x` in the first k directions, for each of `ks`."""
        basis, columns = self.basis(max(ks)), torch.tensor(ks) - 1
        made = [torch.zeros(0, len(ks))]
        for at in rows.split(CHUNK):
            z = x[at] - self.mean
            total = z.pow(2).sum(1, keepdim=True).clamp_min(EPS)
            inside = (z @ basis.T).pow(2).cumsum(1)[:, columns]
            made.append((inside / total).clamp(0, 1))
        return torch.cat(made)


class Judged(NamedTuple):
    """Held-out rows, with the value of a curve that was fitted without them."""

    kinds: Sequence[str | None]
    groups: Sequence[int]
    ratio: Float[Tensor, " n"]
    value: Float[Tensor, " n"]
    steer: Bool[Tensor, " n"]


@part("scs_fit")
class SCSFit(GateMethod[Dataset]):
    """Fits a `subspace` gate: g = curve(s), s the energy ratio of FineSteer (arXiv:2604.15488).

    Rows (pairs and rows with one picture stay together) are dealt to a part for the subspace and,
    `held_out` of them, to a part for the curve: on its own rows a subspace holds more energy than
    on any other. `k = None` is chosen: the fewest directions with the share `energy` of the rows'
    energy, or those of `ks` with the best AUROC on one half of the held-out rows, in which case
    the other half alone makes the curve. The quantile curve needs no rows to be left alone.

    `floor` is where the gate begins to open; None takes 0.05 for graded gates (the paper's never
    close) and the paper's thresholds for hard ones: 0.5 (logistic), 1 (quantile).

    The log has figures of held-out rows, each judged by a curve that was fitted without it. A row
    whose gate reaches the floor counts as opened: graded gates touch it, if only a little.

    Departs from the paper: the curve is not made on the subspace's own rows; the logistic one is
    the optimum of the released loss (mean cross entropy + `l2` w^2, b free) instead of 100 epochs
    of Adam towards it; epsilon and gamma are not published.
    """

    read: Read
    behaviours: tuple[str, ...] = ()
    k: int | None = None
    choose_k: Literal["energy", "auroc"] = "energy"
    energy: float = 0.9
    ks: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    centre: Literal["mean", "origin"] = "mean"
    curve: Literal["logistic", "quantile"] = "logistic"
    l2: float = 1e-4
    epsilon: float = 0.1
    gamma: float = 4.0
    opening: Literal["graded", "hard"] = "graded"
    floor: float | None = None
    held_out: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or not 0 < self.energy < 1 or self.l2 <= 0:
            raise RecipeError(
                f"held_out is {self.held_out}, energy {self.energy} and l2 {self.l2}; the first "
                "two lie between 0 and 1, l2 above 0."
            )
        if self.seed < 0 or not self.ks or min(*self.ks, 1 if self.k is None else self.k) < 1:
            raise RecipeError("k and every number in ks must be 1 or more, seed 0 or more.")

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> SubspaceGate:
        model.spec.check([self.read.site], "SCS")
        y = self._sides(data.rows)
        x = read_contexts(model, data.rows, self.read)
        choosing = self.k is None and self.choose_k == "auroc"
        rest = self.held_out / 2 if choosing else self.held_out
        shares = [1 - self.held_out, self.held_out - rest, *[rest / FOLDS] * FOLDS]
        group = row_groups(data.rows)
        own, choice, *folds = deal(group, y, shares, self.seed)
        space = subspace([i for i in own if y[i]], x, self.centre)
        k = self._size(space, x, torch.tensor(choice), y[choice])
        held = [i for fold in folds for i in fold]
        self._check(folds, y)
        s = space.ratios(x, torch.arange(len(x)), [k])[:, 0]
        curve = self._curve(s[held], y[held])
        floor = GRADED_FLOOR if self.opening == "graded" else DECISION[self.curve]
        gate = SubspaceGate(
            read=self.read,
            basis=space.basis(k),
            mean=space.mean,
            curve=curve,
            floor=floor if self.floor is None else self.floor,
            opening=self.opening,
        )
        value = s.new_zeros(len(s))
        for fold in folds:
            own_fold = set(fold)
            others = [i for i in held if i not in own_fold]
            value[fold] = self._curve(s[others], y[others])(s[fold])
        kinds = kinds_of([data.rows[i] for i in held])
        groups = [group[i] for i in held]
        self._tell(log, gate, Judged(kinds, groups, s[held], value[held], y[held]))
        return gate

    def _sides(self, rows: Sequence[Row]) -> Bool[Tensor, " n"]:
        """Which rows are to be steered; the quantile curve is content with these alone."""
        wanted = self.behaviours or {row.behaviour for row in rows} - {LEAVE_ALONE}
        y = torch.tensor([row.behaviour in wanted for row in rows])
        both = self.curve == "logistic" or (self.k is None and self.choose_k == "auroc")
        if both or not bool(y.all()):
            two_sides(rows, self.behaviours)
        return y

    def _size(self, space: Subspace, x: Tensor, rows: Tensor, y: Tensor) -> int:
        """How many of the directions are used; `y` is of `rows`, to choose with."""
        most = space.most
        if self.k is not None:
            if self.k > most:
                raise DataError(
                    f"k is {self.k}, but the rows for the subspace have {most} directions. Give "
                    "more rows to steer, or a smaller k."
                )
            return self.k
        if self.choose_k == "energy":
            energy = space.found.energy[:most]
            share = energy.cumsum(0) / energy.sum()
            return min(most, int((share < self.energy).sum()) + 1)
        ks = [k for k in sorted(self.ks) if k <= most]
        if not ks or not 0 < int(y.sum()) < len(y):
            raise DataError(
                f"The subspace has up to {most} directions, and {int(y.sum())} of {len(y)} rows "
                f"to choose among {self.ks} with are to be steered. Give more rows, or set k."
            )
        ratios = dict(zip(ks, space.ratios(x, rows, ks).T, strict=True))
        return max(ks, key=lambda k: float(roc_auc_score(y, ratios[k])))

    def _check(self, folds: Sequence[Sequence[int]], y: Tensor) -> None:
        """Refuses held-out rows that are too few for the curve."""
        steered = sum(int(y[fold].sum()) for fold in folds)
        sides = (True, False) if self.curve == "logistic" else (True,)
        spread = min(sum(side in y[fold].tolist() for fold in folds) for side in sides)
        needed = math.ceil(1 / self.epsilon) if self.curve == "quantile" else 2
        if steered < needed or spread < 2:
            raise DataError(
                f"{steered} held-out rows to steer are too few for a {self.curve} curve (or those "
                f"to be left alone are): {needed} are needed, and two groups of either side that "
                "it tells apart. Give more rows, or hold out a larger share."
            )

    def _curve(self, s: Float[Tensor, " n"], y: Bool[Tensor, " n"]) -> Quantile | Logistic:
        if self.curve == "quantile":
            return Quantile(s[y].sort().values, self.epsilon, self.gamma)
        # mean loss + l2 w^2, in sklearn's units of C x summed loss + w^2 / 2
        search = LogisticRegression(
            C=1 / (2 * self.l2 * len(s)), solver="newton-cholesky", tol=1e-8, max_iter=1000
        )
        with warnings.catch_warnings():
            # Ratios that do not differ leave the solver no step to take: the start is the optimum.
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(s.double()[:, None].numpy(), y.numpy())
        weight, bias = np.ravel(search.coef_), np.ravel(search.intercept_)
        return Logistic(float(weight[0]), float(bias[0]))

    def _tell(self, log: FitLog, gate: SubspaceGate, held: Judged) -> None:
        head = {"gate": gate.part_name, "threshold": threshold(gate.curve, gate.floor)}
        names = {"to steer": True, "to leave alone": False}
        sides = {name: held.ratio[held.steer == side].tolist() for name, side in names.items()}
        sides = {name: values for name, values in sides.items() if values}
        log.add("gate_scores", **head, score="energy ratio", groups=sides)
        table = figures(
            held.ratio,
            held.steer,
            opened=held.value >= gate.floor,
            kinds=held.kinds,
            group=held.groups,
        )
        bins, ece = [], None
        if self.curve == "logistic":
            bins, ece = reliability(held.value, held.steer)
        log.add("gate_quality", **head, rows=table, ece=ece, reliability=bins)


def subspace(
    own: Sequence[int], x: Float[Tensor, "n d"], centre: Literal["mean", "origin"]
) -> Subspace:
    """The principal directions of the rows `own` of `x`, fewer than there are rows.

    Raises:
        DataError: fewer than three rows.
    """
    if len(own) < 3:
        raise DataError(
            f"{len(own)} rows to steer do not span a subspace: three are needed, and as many "
            "again to hold out. Give more rows."
        )
    about = about_mean if centre == "mean" else about_origin
    states = about(x, torch.tensor(own))
    most = min(len(own) - 1, x.shape[1] - 1)  # all d would hold all energy of any state
    return Subspace(principal(states), states.centre.float(), most)


def deal(
    group: Sequence[int], y: Bool[Tensor, " n"], shares: Sequence[float], seed: int
) -> list[list[int]]:
    """Indices of the rows in parts of these shares, each with its share of both sides.

    Rows of one group come into one part.
    """
    strata: dict[tuple[bool, ...], list[list[int]]] = {}
    for together in members(group):
        strata.setdefault(tuple(sorted(set(y[together].tolist()))), []).append(together)
    ends = np.cumsum(shares)
    parts: list[list[int]] = [[] for _ in shares]
    draw = torch.Generator().manual_seed(seed)
    for stratum in strata.values():
        for place, chosen in enumerate(torch.randperm(len(stratum), generator=draw).tolist()):
            at = np.searchsorted(ends, (place + 0.5) / len(stratum), side="right")
            parts[min(int(at), len(parts) - 1)] += stratum[chosen]
    return parts


def threshold(curve: Quantile | Logistic, value: float) -> float:
    """The energy ratio at which the curve takes a value."""
    if isinstance(curve, Logistic):
        odds = value / max(1 - value, EPS)
        return (math.log(odds) - curve.bias) / (curve.weight or EPS)
    wanted = curve.epsilon * value ** (1 / curve.gamma)
    n = len(curve.ratios)
    return float(np.interp(wanted, np.arange(n + 1) / n, [0.0, *curve.ratios.tolist()]))
