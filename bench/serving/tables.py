"""From figures of runs to rows of results, and what they say of the aims."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import nnls
from serving.cases import SHAPES
from serving.rounds import Runs
from serving.spread import Verdict, by_metric, flat, interval, ratios, verdict

from steersman.evals.records import Result

SUITE = "serve"
TIMES = ("seconds_per_token", "ttft", "tpot")
LIMITS = {
    "idle": 0.005,
    "static": 0.02,
    **dict.fromkeys(("l2s", "l2s_probe", "autosteer", "finesteer"), 0.05),
}
FLAT = 0.03
ENOUGH = 6
"""Rounds, all sittings together, below which there is no 95% interval of a median."""
TO_ONE = ("k8", "k64", "strengths64")


def row(method: str, split: str, metric: str, values: Sequence[Sequence[float]]) -> Result:
    """The middle of the values and its interval."""
    value, low, high = interval(values)
    count = sum(len(rounds) for rounds in values)
    return Result(SUITE, method, split, metric, value, low, high, count)


def rows(split: str, sittings: Sequence[Runs]) -> Iterator[Result]:
    """All figures of a table, and ratios of times to vanilla vLLM, to idle and to one policy."""
    found = {name: by_metric([runs[name] for runs in sittings]) for name in sittings[0]}
    for name, metrics in found.items():
        for metric, values in metrics.items():
            yield row(name, split, metric, values)
    kind = {name: name.rpartition("_turns")[1] for name in found}
    for name, metric in product(found, TIMES):
        pairs = {
            "to_vanilla": f"vanilla{kind[name]}",
            "to_idle": f"idle{kind[name]}",
            "to_one": "k1" if name in TO_ONE else "",
        }
        for suffix, other in pairs.items():
            here = found[name].get(metric)
            there = found.get(other, {}).get(metric)
            if here and there and name not in ("vanilla", "vanilla_turns", other):
                yield row(name, split, f"{metric}_{suffix}", ratios(here, there))


def aims(made: Sequence[Result]) -> Iterator[tuple[Result, float, Verdict]]:
    """Rows that an aim is set for, the aim, and whether it holds.

    The aims are for the time of a token. Idle is held against vanilla vLLM, steering against both
    (`to_idle` is of one process, so what differs between processes is not in it). What lies
    between equal things widens an interval, and few rounds decide nothing.
    """
    found = {(one.split, one.method, one.metric): one for one in made}
    for one in made:
        _, _, to = one.metric.partition("seconds_per_token_to_")
        if not to or "-c" not in one.split:
            continue
        equal = "vanilla_again" if to == "vanilla" else "idle_again"
        other = "vanilla" if to == "vanilla" else "idle"
        by_chance = found.get((one.split, equal, f"seconds_per_token_to_{other}"))
        apart = 0.0 if by_chance is None else max(by_chance.low - 1, 1 - by_chance.high, 0.0)
        low, high = one.low - apart, one.high + apart
        if to == "one":
            yield one, FLAT, "open" if one.n < ENOUGH else flat(low, high, FLAT)
        elif one.method in LIMITS:
            limit = LIMITS[one.method]
            yield one, limit, "open" if one.n < ENOUGH else verdict(low, high, limit)


def coefficients(runs: Runs, method: str) -> list[list[float]]:
    """Seconds per request, per prompt token and per new token, in every round; none is negative.

    A request's cost is a run's time by its number of requests: with all places taken, a machine
    that answers them together.
    """
    design = np.array([[1.0, prompt, new] for prompt, new in SHAPES])
    rounds = len(runs[f"{method}_{SHAPES[0][0]}_{SHAPES[0][1]}"])
    solved: list[list[float]] = []
    for number in range(rounds):
        seconds = [
            runs[f"{method}_{prompt}_{new}"][number]["seconds_per_token"] * new
            for prompt, new in SHAPES
        ]
        solved.append([float(c) for c in nnls(design, np.array(seconds))[0]])
    return solved


COSTS = ("per_request", "per_prompt_token", "per_new_token")


def cost_rows(
    split: str, fits: Mapping[str, Sequence[Sequence[Sequence[float]]]]
) -> Iterator[Result]:
    """By method and sitting what `coefficients` gave, as rows."""
    for method, sittings in fits.items():
        for at, name in enumerate(COSTS):
            values = [[fit[at] for fit in rounds] for rounds in sittings]
            yield row(method, split, f"seconds_{name}", values)


def shown(one: Result) -> str:
    """A line for people."""
    return (
        f"{one.split:22} {one.method:18} {one.metric:28} {one.value:<11.5g} "
        f"[{one.low:.5g}, {one.high:.5g}]  n {one.n}"
    )


def plain_aims(made: Sequence[Result]) -> list[dict[str, Any]]:
    """The aims, for the file."""
    return [
        {
            "method": one.method,
            "split": one.split,
            "metric": one.metric,
            "limit": limit,
            "verdict": said,
        }
        for one, limit, said in aims(made)
    ]
