"""What steering costs on the bundled model: medians of ratios to unsteered, in one process.

    python bench/overhead.py --json runs/bench/overhead.json

Rows: suite `overhead`; methods `none`, `hook` (a bare forward hook that adds a constant),
`static`, `l2s`; splits `batch1`, `batch8`, `batch32`; metric `ratio` (time / unsteered time, runs
interleaved, one ratio per round). The bundled model is tiny, so fixed costs weigh far more here
than on a model of a useful size: an upper bound, not a forecast.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

import steersman
from steersman.backends.hf import HFModel
from steersman.core.types import Read, Site
from steersman.evals.records import Result, Results
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector
from steersman.world.rows import rows

LAYER, TOKENS = 3, 24
BATCHES = (1, 8, 32)


def steerers(d: int) -> dict[str, steersman.Steerer]:
    draw = torch.Generator().manual_seed(0)
    site = Site(LAYER)
    vector = torch.randn(1, d, generator=draw)
    net = SteeringNet(
        read=Read(site),
        mean=torch.zeros(d),
        spread=torch.ones(d),
        encoder=torch.randn(100, d, generator=draw) / d**0.5,
        bias=torch.zeros(100),
        decoder=torch.randn(d, 100, generator=draw) / 10,
    )
    what = {"static": StaticVector(sites=(site,), vectors=vector), "l2s": net}
    return {
        name: steersman.Steerer(sites=(site,), gate=AlwaysOpen(), synthesizer=made, operator=Add())
        for name, made in what.items()
    }


@contextmanager
def bare_hook(model: HFModel):
    vector = torch.ones(model.spec.d_model)
    handle = model.blocks.layers[LAYER].register_forward_hook(lambda _m, _a, out: out + vector)
    try:
        yield
    finally:
        handle.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    model = steersman.load("bundled")
    contexts: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "none": nullcontext,
        "hook": lambda: bare_hook(model),
    }
    for name, steerer in steerers(model.spec.d_model).items():
        contexts[name] = lambda s=steerer: model.steer(s)
    made = []
    for batch in BATCHES:
        prompts = [
            steersman.Prompt(row.prompt, (row.image,)) for row in rows("utility", "fit", 0, batch)
        ]
        inputs = model.chat.encode(prompts).inputs
        ratios: dict[str, list[float]] = {name: [] for name in contexts}
        for round_ in range(given.rounds + 1):
            seconds = {}
            for name, context in contexts.items():
                began = time.perf_counter()
                with context(), torch.no_grad():
                    model.model.generate(
                        **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False
                    )
                seconds[name] = time.perf_counter() - began
            if round_:  # the first warms up
                for name in contexts:
                    ratios[name].append(seconds[name] / seconds["none"])
        for name, values in ratios.items():
            low, middle, high = np.percentile(values, (2.5, 50, 97.5))
            row = Result("overhead", name, f"batch{batch}", "ratio", middle, low, high, len(values))
            made.append(row)
            print(f"{row.split:8} {name:7} {middle:.3f}  [{low:.3f}, {high:.3f}]  n {row.n}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    Results(tuple(made), {"threads": torch.get_num_threads()}).save(given.json)


if __name__ == "__main__":
    main()
