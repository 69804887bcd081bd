"""Chooses among candidates (layers, strengths, methods) by one figure on the calibration split."""

from collections.abc import Iterable
from dataclasses import dataclass

from steersman.core.errors import RecipeError
from steersman.evals.names import LOWER_IS_BETTER
from steersman.evals.records import Result
from steersman.evals.run import Evaluation


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Attributes:
        tried: every candidate with the figure it was judged by, in the order given.
    """

    best: str
    tried: tuple[tuple[str, Result], ...]

    @property
    def ranking(self) -> tuple[tuple[str, Result], ...]:
        """The candidates, best first; ties keep their order."""
        return tuple(sorted(self.tried, key=lambda pair: _score(pair[1]), reverse=True))


def choose(
    candidates: Iterable[tuple[str, Evaluation]], *, suite: str, split: str, metric: str
) -> Choice:
    """The candidate with the best figure; of equals the first, so put the gentlest first.

    Args:
        candidates: names and evaluations; a generator is asked for one at a time.

    Raises:
        RecipeError: there are none, one lacks the figure, or one was measured on the test split.
    """
    tried = []
    for name, evaluation in candidates:
        if evaluation.split == "test":
            raise RecipeError(
                f"{name} was measured on the test split. No tuning on the split that is "
                "reported: choose on the calibration split."
            )
        row = evaluation.results.select(suite=suite, split=split, metric=metric)
        if len(row) != 1:
            raise RecipeError(
                f"{name} has {len(row)} rows of {suite}/{split}/{metric}, and choosing needs one."
            )
        tried.append((name, row[0]))
    if not tried:
        raise RecipeError(f"There is nothing to choose from by {suite}/{split}/{metric}.")
    best = max(tried, key=lambda pair: _score(pair[1]))
    return Choice(best[0], tuple(tried))


def _score(row: Result) -> float:
    return -row.value if row.metric in LOWER_IS_BETTER else row.value
