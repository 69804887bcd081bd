"""Runs that are compared are run in turns, since machines drift."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from peers.rounds import settled
from serving.load import Load, Steering

SETTLES = 1.5
"""Seconds after which a vLLM worker no longer spins in wait for work, on cores that others need."""


class Server(Protocol):
    """What loads are run on."""

    def wait(self) -> None: ...
    def run(self, load: Load) -> dict[str, float]: ...
    def trace(self, steering: Steering) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Case:
    """A row of a table: a load, and which of the servers gets it."""

    server: str
    load: Load


Runs = dict[str, list[dict[str, float]]]


def interleaved(
    servers: Mapping[str, Server], cases: Mapping[str, Case], rounds: int, *, seed: int = 0
) -> Runs:
    """Figures of every case in every round; all servers are there, and one works at a time.

    Each round has prompts and an order of its own; the first warms up and is not among them. A few
    tokens are asked for before each run, so that caches hold the server whose turn it is.
    """
    draw = random.Random(seed)
    before = ""
    found: Runs = {name: [] for name in cases}
    with settled():
        for number in range(rounds + 1):
            names = list(cases)
            draw.shuffle(names)
            for name in names:
                case = cases[name]
                if case.server != before:
                    time.sleep(SETTLES)
                before, server = case.server, servers[case.server]
                load = replace(case.load, seed=seed + number)
                server.run(
                    replace(load, concurrency=min(8, load.concurrency), waves=1, new=4, seed=-1)
                )
                figures = server.run(load)
                if number:
                    found[name].append(figures)
    return found


def check_steers(server: Server, ids: Sequence[str]) -> None:
    """Refuses to time steering that does nothing: its cost would be that of nothing."""
    for name in ids:
        trace = server.trace({"policy": name})
        if not isinstance(trace, dict) or not trace.get("tokens_written"):
            raise SystemExit(f"{name} wrote nothing, so it is not timed: {trace}")
