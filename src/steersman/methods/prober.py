"""Fits a prober: does this request need steering?

p = sigmoid(net(h_X)),  net (d, k, 1),  trained on rows with a behaviour against rows without
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from steersman.core.errors import DataError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import GateMethod, Model
from steersman.core.types import Read
from steersman.data.rows import LEAVE_ALONE, Dataset
from steersman.gates.prober import ProberGate
from steersman.methods.contexts import read_contexts


@part("prober_fit")
class ProberFit(GateMethod[Dataset]):
    """Trains a `prober` gate on the fit rows: behaviour "none" is closed, any other is open.

    Standardised inputs, binary cross entropy on logits with classes weighed alike, weight decay.
    The threshold is fixed by the recipe and must be chosen on the calibration split.
    """

    read: Read
    hidden: int = 64
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    threshold: float = 0.5
    opening: Literal["hard", "graded"] = "hard"
    seed: int = 0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> ProberGate:
        model.spec.check([self.read.site], "The prober")
        x = read_contexts(model, data.rows, self.read)
        y = torch.tensor([float(row.behaviour != LEAVE_ALONE) for row in data.rows])
        if not 0 < float(y.mean()) < 1:
            raise DataError(
                "A prober needs rows with a behaviour and rows to be left alone "
                f'("{LEAVE_ALONE}"); all {len(y)} rows are of one kind.'
            )
        mean, scale = x.mean(0), x.std(0).clamp_min(1e-5)
        first, last = self._trained((x - mean) / scale, y)
        return ProberGate(
            read=self.read,
            mean=mean,
            scale=scale,
            weight1=first.weight.detach(),
            bias1=first.bias.detach(),
            weight2=last.weight.detach()[0],
            bias2=last.bias.detach(),
            threshold=self.threshold,
            opening=self.opening,
        )

    def _trained(self, x: torch.Tensor, y: torch.Tensor) -> tuple[nn.Linear, nn.Linear]:
        """The two layers of the net."""
        balance = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            first, last = nn.Linear(x.shape[1], self.hidden), nn.Linear(self.hidden, 1)
            net = nn.Sequential(first, nn.ReLU(), last)
            optimiser = torch.optim.AdamW(
                net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            for _ in range(self.epochs):
                for chosen in torch.randperm(len(x)).split(self.batch_size):
                    loss = F.binary_cross_entropy_with_logits(
                        net(x[chosen])[:, 0], y[chosen], weight=balance[chosen]
                    )
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
        return first, last
