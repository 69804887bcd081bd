"""Fits a prober: does this request need steering?  The gate of AutoSteer, Wu et al. 2025

p = sigmoid(net(h_X)),  net (d, k, 1),  trained on rows to steer against rows to leave alone
(arXiv:2507.13255, Eq. 10)
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import GateMethod, Model
from steersman.core.types import Read
from steersman.data.rows import Dataset, Row
from steersman.gates.prober import ProberGate
from steersman.methods.contexts import read_contexts, two_sides
from steersman.methods.groups import members, row_groups
from steersman.methods.prober_quality import (
    Calibrate,
    Line,
    calibration,
    cross_calibrated,
    figures,
    kinds_of,
    reliability,
    threshold_for,
)

PAPER_THRESHOLD = 0.5
CHUNK = 2048  # rows that are standardised at once
COLUMNS = 256  # columns that are copied at once
Loss = Callable[[Tensor, Tensor], Tensor]  # of a batch's outputs and row numbers


class Net(NamedTuple):
    """logit = w2 . relu(W1 (h - mean) / scale + b1) + b2"""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    weight1: Float[Tensor, "k d"]
    bias1: Float[Tensor, " k"]
    weight2: Float[Tensor, " k"]
    bias2: Float[Tensor, "1"]

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        made = [torch.zeros(0)]
        for some in x.split(CHUNK):
            hidden = torch.relu((some - self.mean) / self.scale @ self.weight1.T + self.bias1)
            made.append(hidden @ self.weight2 + self.bias2)
        return torch.cat(made)


class Split(NamedTuple):
    """By row: whether it opens the gate, the number of its group (empty if none is held out), and
    whether it is held out.
    """

    positive: Bool[Tensor, " n"]
    group: Sequence[int]
    held: Bool[Tensor, " n"]


@part("prober_fit")
class ProberFit(GateMethod[Dataset]):
    """Trains a `prober` gate, p = sigmoid(w2 . relu(W1 (h - mean) / scale + b1) + b2).

    AutoSteer, arXiv:2507.13255, Eqs. 10 and 11. Rows of `behaviours` open it (empty: of any but
    "none"), all others close it.

    The share `held_out` of the rows is set aside: they calibrate, choose the threshold and are
    reported on; the net that runs is trained on the others alone. Rows that share `labels.pair`, an
    image or a label of `hold_out_by` stay together. `calibrate` ("platt", or "temperature", which
    keeps p = 1/2 where it is) makes p the probability among requests that are mixed as the rows
    are. With `held_out = 0` there is no calibration and no report.

    `threshold` is fixed (the paper's 0.5), or chosen so that at most `max_false_positives` of
    requests to leave alone open the gate, with 95% confidence: see `prober_quality.threshold_for`
    for what that says. Calibration may use the same rows, since it keeps their order.

    `loss = "logits"` is binary cross entropy with classes weighed alike, on standardised inputs.
    `"paper_code"` is what the released code does: the softmax of two outputs is put into the cross
    entropy, which takes a softmax once more (so it never falls below ln(1 + 1/e) = 0.313), on raw
    inputs, classes as they are; its settings are batch 8, AdamW, rate and weight decay 1e-5, up to
    200 epochs. The net's logit is the difference of the two outputs.

    The report ("gate_scores", "gate_quality") is of held-out rows; its calibration error is by
    calibrations that were fitted without the row's group. False positives at a threshold that was
    chosen on the same rows are a little flattered; the bound above is not.

    Departs from the paper, which states neither loss nor split: weight decay, calibration and the
    chosen threshold; the released code chose its epochs on the test sets.
    """

    read: Read
    hidden: int = 64
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    threshold: float = PAPER_THRESHOLD
    opening: Literal["hard", "graded"] = "hard"
    seed: int = 0
    behaviours: tuple[str, ...] = ()
    held_out: float = 0.25
    hold_out_by: tuple[str, ...] = ()
    calibrate: Calibrate = "platt"
    max_false_positives: float | None = None
    loss: Literal["logits", "paper_code"] = "logits"

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1 or not 0 <= self.threshold < 1:
            raise RecipeError(
                f"held_out is {self.held_out} and threshold {self.threshold}; both are at least 0 "
                "and below 1."
            )
        rate = self.max_false_positives
        if rate is None:
            return
        if not 0 < rate < 1:
            raise RecipeError(f"max_false_positives is {rate}; give a rate between 0 and 1.")
        if not self.held_out or self.threshold != PAPER_THRESHOLD:
            raise RecipeError(
                f"max_false_positives chooses the threshold on held-out rows, but held_out is "
                f"{self.held_out} and threshold {self.threshold}. Hold rows out and leave the "
                "threshold away, or leave max_false_positives away."
            )

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> ProberGate:
        model.spec.check([self.read.site], "The prober")
        positive, group, held = self.split(data.rows)
        x = read_contexts(model, data.rows, self.read)
        train = self._trained if self.loss == "logits" else self._as_released
        net = train(x, positive, (~held).nonzero()[:, 0])
        if not self.held_out:
            return self._gate(net, Line(), self.threshold)
        logits, y = net(x[held]), positive[held]
        line = calibration(logits, y, self.calibrate)
        threshold = self.threshold
        if self.max_false_positives is not None:
            alone = held & ~positive
            p = self._gate(net, line, 0.0).probability(x[alone])
            groups = [group[i] for i in alone.nonzero()[:, 0].tolist()]
            threshold = threshold_for(p, self.max_false_positives, groups)
        gate = self._gate(net, line, threshold)
        chosen = held.nonzero()[:, 0].tolist()
        groups = [group[i] for i in chosen]
        p = cross_calibrated(logits, y, groups, self.calibrate)
        rows = [data.rows[i] for i in chosen]
        report(log, gate, rows=rows, states=x[held], positive=y, group=groups, cross=p)
        return gate

    def split(self, rows: Sequence[Row]) -> Split:
        """Which rows open the gate, their groups, and which ones nothing may be learned from.

        Raises:
            DataError: rows of one kind, or groups that cannot be split.
        """
        positive = torch.zeros(len(rows), dtype=torch.bool)
        positive[two_sides(rows, self.behaviours)[0]] = True
        group = row_groups(rows, self.hold_out_by) if self.held_out else []
        return Split(
            positive, group, hold_out(positive, group, share=self.held_out, seed=self.seed)
        )

    def _gate(self, net: Net, line: Line, threshold: float) -> ProberGate:
        """The calibration becomes part of the last layer."""
        return ProberGate(
            read=self.read,
            mean=net.mean,
            scale=net.scale,
            weight1=net.weight1,
            bias1=net.bias1,
            weight2=net.weight2 * line.slope,
            bias2=net.bias2 * line.slope + line.offset,
            threshold=threshold,
            opening=self.opening,
        )

    def _trained(self, x: Tensor, positive: Tensor, rows: Tensor) -> Net:
        y = positive.float()
        mean, scale = mean_and_spread(x, rows)
        share = y[rows].mean()
        balance = torch.where(positive, 0.5 / share, 0.5 / (1 - share))

        def loss(outputs: Tensor, chosen: Tensor) -> Tensor:
            logits = outputs[:, 0]
            return F.binary_cross_entropy_with_logits(logits, y[chosen], weight=balance[chosen])

        first, last = self._layers(
            lambda chosen: (x[chosen] - mean) / scale, rows, num_outputs=1, loss=loss
        )
        return Net(mean, scale, first.weight, first.bias, last.weight[0], last.bias)

    def _as_released(self, x: Tensor, positive: Tensor, rows: Tensor) -> Net:
        def loss(outputs: Tensor, chosen: Tensor) -> Tensor:
            return double_softmax(outputs, positive[chosen])

        first, last = self._layers(lambda chosen: x[chosen], rows, num_outputs=2, loss=loss)
        mean, scale = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
        (alone, steer), (b_alone, b_steer) = last.weight, last.bias
        return Net(mean, scale, first.weight, first.bias, steer - alone, (b_steer - b_alone)[None])

    def _layers(
        self, inputs: Callable[[Tensor], Tensor], rows: Tensor, *, num_outputs: int, loss: Loss
    ) -> tuple[nn.Linear, nn.Linear]:
        """The two layers of the net trained on `rows`, without gradients."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            width = inputs(rows[:1]).shape[1]
            first, last = nn.Linear(width, self.hidden), nn.Linear(self.hidden, num_outputs)
            net = nn.Sequential(first, nn.ReLU(), last)
            optimiser = torch.optim.AdamW(
                net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            for _ in range(self.epochs):
                for drawn in torch.randperm(len(rows)).split(self.batch_size):
                    chosen = rows[drawn]
                    value = loss(net(inputs(chosen)), chosen)
                    optimiser.zero_grad()
                    value.backward()
                    optimiser.step()
        net.requires_grad_(False)
        return first, last


def mean_and_spread(
    x: Float[Tensor, "m d"], rows: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and standard deviation of some rows, a few columns at a time."""
    means, spreads = [torch.zeros(0)], [torch.zeros(0)]
    for columns in x.split(COLUMNS, dim=1):
        some = columns[rows]
        means.append(some.mean(0))
        spreads.append(some.std(0).clamp_min(1e-5))
    return torch.cat(means), torch.cat(spreads)


def double_softmax(
    outputs: Float[Tensor, "n 2"], positive: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """CE(softmax(outputs), class), the cross entropy taking its own softmax; at least 0.313."""
    return F.cross_entropy(outputs.softmax(1), positive.long())


def hold_out(
    positive: Bool[Tensor, " n"], group: Sequence[int], *, share: float, seed: int
) -> Bool[Tensor, " n"]:
    """Which rows are held out: whole groups, about `share` of the rows.

    Groups of one kind of row, of the other, and of both are drawn from separately.

    Raises:
        DataError: the rows held out, or those that are left, would be of one kind.
    """
    held = torch.zeros_like(positive)
    if not share:
        return held
    groups = members(group)
    strata: dict[tuple[bool, bool], list[list[int]]] = {}
    for chosen in groups:
        kinds = positive[chosen]
        strata.setdefault((bool(kinds.any()), bool(kinds.all())), []).append(chosen)
    draw = torch.Generator().manual_seed(seed)
    for stratum in strata.values():
        missing = share * sum(map(len, stratum))
        for place in torch.randperm(len(stratum), generator=draw).tolist()[: len(stratum) - 1]:
            if missing > 0:
                held[stratum[place]] = True
                missing -= len(stratum[place])
    for kept in (held, ~held):
        if len(positive[kept].unique()) < 2:
            raise DataError(
                f"{len(positive)} rows in {len(groups)} groups (by labels.pair, image and "
                "hold_out_by) cannot be split so that both parts have rows to steer and rows to "
                "leave alone. Give more rows, shorten hold_out_by, or write held_out = 0."
            )
    return held


def report(
    log: FitLog,
    gate: ProberGate,
    *,
    rows: Sequence[Row],
    states: Float[Tensor, "n d"],
    positive: Bool[Tensor, " n"],
    group: Sequence[int],
    cross: Float[Tensor, " n"],
) -> None:
    """Records scores and quality of the gate on held-out rows.

    Args:
        cross: probabilities by calibrations that did not see the row, for the calibration error.
    """
    p = gate.probability(states)
    head = {"gate": gate.part_name, "threshold": gate.threshold}
    scores: dict[str, list[float]] = {}
    for row, value in zip(rows, p.tolist(), strict=True):
        scores.setdefault(row.behaviour, []).append(value)
    log.add("gate_scores", **head, score="probability", groups=scores)
    opened = p > gate.threshold
    table = figures(p, positive, opened=opened, kinds=kinds_of(rows), group=group)
    bins, ece = reliability(cross, positive)
    log.add("gate_quality", **head, rows=table, ece=ece, reliability=bins)
