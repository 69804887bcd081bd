"""Where a score is cut: rows held out by group, the cut with the best F1, and what it does.

F1(theta) = 2 TP / (opened + rows to steer),   theta halfway between two neighbouring scores
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.data.rows import Row
from steersman.methods.groups import members, row_groups
from steersman.methods.prober_quality import figures, kinds_of

Comparator = Literal["larger", "smaller"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A score above (`larger`) or below (`smaller`) the threshold opens."""

    threshold: float
    comparator: Comparator
    f1: float

    def opens(self, scores: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which scores lie on the side that opens."""
        above = self.comparator == "larger"
        return scores > self.threshold if above else scores < self.threshold


def hold_out(
    rows: Sequence[Row], steered: Sequence[int], *, share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices of the rows that are learned from, and of those held out.

    Rows that share `labels.pair` or an image fall on one side. Groups are drawn at random until
    `share` of the rows to steer, and of the others, is held out (at least one of each).

    Raises:
        RecipeError: the share is not between 0 and 1.
        DataError: one side would lack a kind of row.
    """
    if not 0 < share < 1:
        raise RecipeError(f"held_out is {share}; give a share between 0 and 1, such as 0.25.")
    to_steer = set(steered)
    kind = [i in to_steer for i in range(len(rows))]
    missing = {k: max(1, math.floor(share * kind.count(k))) for k in (True, False)}
    groups = members(row_groups(rows))
    held: list[int] = []
    draw = torch.Generator().manual_seed(seed)
    for g in torch.randperm(len(groups), generator=draw).tolist():
        if any(missing[kind[i]] > 0 for i in groups[g]):
            held += groups[g]
            for i in groups[g]:
                missing[kind[i]] -= 1
    out = set(held)
    kept = [i for i in range(len(rows)) if i not in out]
    for side in (kept, held):
        if len({kind[i] for i in side}) < 2:
            raise DataError(
                f"{len(rows)} rows in {len(groups)} groups (same labels.pair or image) are too few "
                "to hold some out: both sides need rows to steer and rows to leave alone. Add rows."
            )
    return kept, sorted(held)


def best_cut(
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    comparators: Sequence[Comparator] = ("larger",),
) -> Cut:
    """The cut with the best F1; of equal ones, the one in the widest gap between scores.

    Raises:
        DataError: all scores are the same.
    """
    ordered, order = scores.double().sort()
    y = positive[order].double()
    gap = ordered.diff()
    if not bool((gap > 0).any()):
        raise DataError(
            f"All {len(scores)} held-out rows have the same score, so no threshold tells them "
            "apart. Read at another layer, or give other rows."
        )
    below = torch.arange(1, len(y))
    hits = y.cumsum(0)[:-1]
    found: list[tuple[float, float, int, Comparator]] = []
    for comparator in comparators:
        smaller = comparator == "smaller"
        right, opened = (hits, below) if smaller else (y.sum() - hits, len(y) - below)
        f1 = torch.where(gap > 0, 2 * right / (opened + y.sum()), -1.0)
        best = f1 == f1.max()
        at = int(torch.where(best, gap, -1.0).argmax())
        found.append((float(f1[at]), float(gap[at]), at, comparator))
    f1, _, at, comparator = max(found, key=lambda entry: entry[:2])
    return Cut(float((ordered[at] + ordered[at + 1]) / 2), comparator, f1)


def log_cut(
    log: FitLog,
    cut: Cut,
    rows: Sequence[Row],
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    *,
    gate: str,
    score: str,
) -> None:
    """Records the scores of held-out rows and what the cut makes of them.

    The cut was chosen on the same rows, so its rates flatter it a little; AUROC does not depend on
    it.
    """
    sides = {"to steer": positive, "to leave alone": ~positive}
    groups = {name: scores[side].tolist() for name, side in sides.items()}
    log.add("gate_scores", gate=gate, score=score, threshold=cut.threshold, groups=groups)
    table = figures(
        scores if cut.comparator == "larger" else -scores,
        positive,
        opened=cut.opens(scores),
        kinds=kinds_of(rows),
        group=row_groups(rows),
    )
    log.add(
        "gate_quality", gate=gate, threshold=cut.threshold, rows=table, ece=None, reliability=[]
    )
