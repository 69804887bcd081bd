"""How well a linear probe tells the two sides apart on pairs that it was not fitted on."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.part import part
from steersman.core.roles import LayerScore


class Kept(NamedTuple):
    """Every pair so far."""

    positive: Float[Tensor, "n d"]
    negative: Float[Tensor, "n d"]
    block: Int[Tensor, " n"]
    num_blocks: int


@part("probe_auroc")
class ProbeAUROC(LayerScore[Kept]):
    """AUROC = P(w . positive + b > w . negative + b), both held out; ties count half.

    w and b are a logistic regression on standardised states with the inverse penalty `c`, fitted on
    the other folds. Whole blocks are dealt to `folds` folds, so no cluster is on both sides. The
    scores of all folds are ranked together.

    The score without a block is the AUROC of the other blocks' held-out scores; probes are not
    fitted again, so the error of the fit itself is left out.

    Keeps all states: memory grows with the pairs, unlike `sas` and `fisher`.
    """

    folds: int = 5
    c: float = 0.01

    def __post_init__(self) -> None:
        if self.folds < 2 or self.c <= 0:
            raise RecipeError(f"folds is {self.folds} and c {self.c}: 2 or more, and above 0.")

    def init(self, width: int, num_blocks: int) -> Kept:
        none = torch.zeros(0, width)
        return Kept(none, none, torch.zeros(0, dtype=torch.long), num_blocks)

    def update(
        self,
        state: Kept,
        positive: Float[Tensor, "n d"],
        negative: Float[Tensor, "n d"],
        block: Int[Tensor, " n"],
    ) -> Kept:
        return Kept(
            torch.cat([state.positive, positive]),
            torch.cat([state.negative, negative]),
            torch.cat([state.block, block]),
            state.num_blocks,
        )

    def finish(self, state: Kept) -> tuple[float, Float[Tensor, " b"]]:
        block = np.tile(state.block.numpy(), 2)
        num = len(np.unique(block))
        if num < 2:
            raise DataError(
                f"{len(state.block)} pairs in {num} clusters cannot be held out from each other. "
                "Give pairs about other objects or pictures, or choose layers by sas or fisher."
            )
        x = torch.cat([state.positive, state.negative]).double().numpy()
        y = np.repeat([True, False], len(state.block))
        score = np.zeros(len(y))
        for fit, held in GroupKFold(min(self.folds, num)).split(x, y, block):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=self.c, max_iter=1000))
            score[held] = probe.fit(x[fit], y[fit]).decision_function(x[held])
        without = [_auroc(y, score, block != b) for b in range(state.num_blocks)]
        return float(roc_auc_score(y, score)), torch.tensor(without, dtype=torch.float64)


def _auroc(y: np.ndarray, score: np.ndarray, chosen: np.ndarray) -> float:
    return float(roc_auc_score(y[chosen], score[chosen])) if chosen.any() else float("nan")
