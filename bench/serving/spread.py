"""Ratios of runs that belong together, and how sure they are."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Literal

import numpy as np

Sittings = Sequence[Sequence[float]]
"""Values by sitting (the servers were started anew), then by round."""
Verdict = Literal["held", "missed", "open"]
DRAWS = 2000


def ratios(over: Sittings, under: Sittings) -> list[list[float]]:
    """Round by round: runs of one round met the same machine."""
    return [
        [a / b for a, b in zip(top, bottom, strict=True)]
        for top, bottom in zip(over, under, strict=True)
    ]


def middle(values: Sittings) -> float:
    """The mean over sittings of the median over their rounds."""
    return fmean(median(rounds) for rounds in values)


def interval(values: Sittings, *, seed: int = 0) -> tuple[float, float, float]:
    """`middle`, and a 95% percentile bootstrap of it over sittings and, within them, rounds.

    With one sitting it says nothing about what another start of the servers would give.
    """
    draw, count = np.random.default_rng(seed), len(values)
    held = [np.asarray(rounds, dtype=float) for rounds in values]
    medians = [  # of each sitting, in every place that it may be drawn for
        np.median(rounds[draw.integers(len(rounds), size=(DRAWS, count, len(rounds)))], axis=2)
        for rounds in held
    ]
    sat = draw.integers(count, size=(1, DRAWS, count))
    drawn = np.take_along_axis(np.stack(medians), sat, axis=0)[0]
    low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    value = middle(values)
    return value, min(float(low), value), max(float(high), value)


def verdict(low: float, high: float, limit: float) -> Verdict:
    """Whether a cost is at most `limit` (0.02: two percent), going by the interval of its ratio."""
    if high <= 1 + limit:
        return "held"
    return "missed" if low > 1 + limit else "open"


def flat(low: float, high: float, limit: float) -> Verdict:
    """Whether two costs are within `limit` of each other, in both directions."""
    if 1 - limit <= low and high <= 1 + limit:
        return "held"
    return "missed" if low > 1 + limit or high < 1 - limit else "open"


def by_metric(
    runs: Sequence[Sequence[Mapping[str, float]]],
) -> dict[str, list[list[float]]]:
    """Values of every metric that all runs have."""
    every = [run for sitting in runs for run in sitting]
    names = [name for name in every[0] if all(name in run for run in every)]
    return {name: [[run[name] for run in sitting] for sitting in runs] for name in names}
