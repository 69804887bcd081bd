"""How many replicas a rate of requests needs, from measured costs.

    python -m serving.model ../docs/serve-bench.json --prompt 200 --new 50 --share l2s=0.5

in the folder bench. A request's cost is linear in its tokens:

    seconds = a + prompt * c_p + new * c_d,    each of the three by method, fitted in every round

on a server with all places taken, so that a cost is a share of a machine's time, not a latency.
Costs of a mixture of requests add up: `--share METHOD=SHARE` are steered, the others cost what the
idle plugin's cost. The interval resamples sittings and rounds of all methods together.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from steersman.evals.records import Results

DRAWS = 2000
Fits = Mapping[str, Sequence[Sequence[Sequence[float]]]]
"""By method, sitting and round: seconds per request, prompt token and new token."""


@dataclass(frozen=True)
class Traffic:
    """What is to be served.

    Attributes:
        rate: requests per second.
        prompt: tokens of a prompt that no cache has.
        new: tokens of an answer.
        shares: of requests that are steered, by method.
        load: the share of a replica's time that is planned with; the rest is for bursts.
    """

    rate: float
    prompt: float
    new: float
    shares: Mapping[str, float]
    load: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.load <= 1:
            raise ValueError(f"The load is {self.load}; give a share above 0, and at most 1.")
        if sum(self.shares.values()) > 1 or min(self.shares.values(), default=0) < 0:
            raise ValueError(
                f"The shares are {dict(self.shares)}; none is negative, and their sum is at most 1."
            )


def seconds(traffic: Traffic, costs: Mapping[str, Sequence[float]]) -> float:
    """Of a machine's time per request, on average."""
    shares = {**traffic.shares, "idle": 1 - sum(traffic.shares.values())}
    tokens = (1.0, traffic.prompt, traffic.new)
    return sum(
        share * sum(cost * many for cost, many in zip(costs[method], tokens, strict=True))
        for method, share in shares.items()
        if share
    )


def replicas(traffic: Traffic, fits: Fits, *, seed: int = 0) -> tuple[int, int, int]:
    """How many, and the ends of a 95% interval: rounded up.

    Raises:
        ValueError: a method was not measured.
    """
    for method in (*traffic.shares, "idle"):
        if method not in fits:
            raise ValueError(f"{method!r} was not measured; there are {', '.join(sorted(fits))}.")
    draw = np.random.default_rng(seed)
    methods = list(fits)
    spent = [
        np.array(
            [
                seconds(traffic, dict(zip(methods, costs, strict=True)))
                for costs in zip(*(fits[method][sitting] for method in methods), strict=True)
            ]
        )
        for sitting in range(len(fits["idle"]))
    ]

    def needed(rounds: Sequence[np.ndarray]) -> float:
        return traffic.rate * fmean(float(np.median(r)) for r in rounds) / traffic.load

    drawn = [
        needed([spent[s][draw.integers(len(spent[s]), size=len(spent[s]))] for s in sat])
        for sat in draw.integers(len(spent), size=(DRAWS, len(spent)))
    ]
    value = needed(spent)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return math.ceil(value), math.ceil(min(low, value)), math.ceil(max(high, value))


def shares_of(texts: Sequence[str]) -> dict[str, float]:
    """From METHOD=SHARE."""
    return {name: float(share) for name, _, share in (text.partition("=") for text in texts)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", default="llama-100m")
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--prompt", type=float, default=200)
    parser.add_argument("--new", type=float, default=50)
    parser.add_argument("--share", action="append", default=[], metavar="METHOD=SHARE")
    parser.add_argument("--load", type=float, default=0.6)
    given = parser.parse_args()
    meta = Results.load(given.results).meta
    split = f"{given.model}-costs"
    if split not in meta["fits"]:
        parser.error(
            f"{given.results} has no costs of {given.model}; run bench/serve.py --parts costs."
        )
    shares = shares_of(given.share)
    traffic = Traffic(given.rate, given.prompt, given.new, shares, given.load)
    fits = meta["fits"][split]["rounds"]
    plain = Traffic(given.rate, given.prompt, given.new, {}, given.load)
    print(
        f"{given.model}, {meta['device']}, {meta['dtype']}, vLLM; {given.rate:g} requests per "
        f"second of {given.prompt:g} + {given.new:g} tokens, replicas planned for {given.load:.0%}:"
    )
    for name, asked in (("unsteered", plain), ("as given", traffic)):
        value, low, high = replicas(asked, fits)
        print(f"{name:10} {value} replicas [{low}, {high}]")


if __name__ == "__main__":
    main()
