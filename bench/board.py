"""What the vLLM plugin does on the host in one step of generated tokens, by itself.

    python bench/board.py [--json FILE]

No model runs: the board is told of a step (`begin`), and one tap writes its rows (`tap`). The least
of many times is what the work takes; what lies above it is the machine. So this is not moved by a
neighbour on the machine, as the ratios of bench/serve.py are.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from steersman.backends.vllm.board import Board
from steersman.backends.vllm.wire import Order
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector

SITE, PROMPT, STEPS = Site(0), 5, 500


def static(width: int) -> Policy:
    made = StaticVector(sites=(SITE,), vectors=torch.randn(1, width))
    return Policy(
        steerers={"s": Steerer(sites=(SITE,), gate=AlwaysOpen(), synthesizer=made, operator=Add())}
    )


def net(width: int) -> Policy:
    made = SteeringNet(
        read=Read(SITE),
        mean=torch.zeros(width),
        spread=torch.ones(width),
        encoder=torch.randn(100, width),
        bias=torch.zeros(100),
        decoder=torch.randn(width, 100),
    )
    return Policy(
        steerers={"s": Steerer(sites=(SITE,), gate=AlwaysOpen(), synthesizer=made, operator=Add())}
    )


def measure(policies: list[Policy] | None, *, width: int, rows: int) -> dict[str, object]:
    """Microseconds of `begin` and of one tap, at a step of generated tokens."""
    board = Board({SITE: width}, num_rows=2 * rows, num_tokens=512, like=torch.empty(0, width))
    for i, policy in enumerate(policies or ()):
        board.load(str(i), policy)

    def asked(name: str) -> tuple[Order | None, list[int]]:
        which = str(int(name) % len(policies or (0,)))
        order = Order(which, which, 1.0, None, False, "", 0, "", -1, -1)
        return (order if policies else None), [0] * PROMPT

    names, ones = [str(i) for i in range(rows)], np.ones(rows, dtype=int)
    prompts = torch.randn(rows * PROMPT, width)
    board.begin(names, np.zeros(rows, dtype=int), PROMPT * ones, asked)
    board.around(lambda: board.tap(SITE, prompts.clone(), prompts))
    hidden, residual = torch.randn(rows, width), torch.randn(rows, width)
    begins, taps = [], []
    for step in range(STEPS):
        starts = (PROMPT + step) * ones
        at = time.perf_counter()
        board.begin(names, starts, ones, asked)
        begun = time.perf_counter()
        board.around(lambda: board.tap(SITE, hidden, residual))
        taps.append(time.perf_counter() - begun)
        begins.append(begun - at)
    told = {"begin": begins, "tap": taps}
    least = {f"{name}_least_us": 1e6 * min(times) for name, times in told.items()}
    middle = {f"{name}_median_us": 1e6 * statistics.median(times) for name, times in told.items()}
    return {"width": width, "rows": rows, **least, **middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    to = parser.parse_args().json
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    for width, rows in ((192, 1), (192, 64), (4096, 64)):
        cases = {
            "idle": None,
            "static": [static(width)],
            "1 net": [net(width)],
            "64 nets": [net(width) for _ in range(64)],
        }
        for name, policies in cases.items():
            found.append({"case": name, **measure(policies, width=width, rows=rows)})
            row = found[-1]
            print(
                f"width {width:5} rows {rows:3} {name:8} begin {row['begin_least_us']:6.0f} us, "
                f"tap {row['tap_least_us']:6.0f} us"
            )
    if to is not None:
        to.write_text(json.dumps({"rows": found, "steps": STEPS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
