"""What is run: the cases of each table."""

from collections.abc import Mapping
from dataclasses import replace

from serving.load import Load, Steering
from serving.policies import NUM_POLICIES, Served
from serving.rounds import Case

SYSTEMS = ("static", "l2s", "l2s_probe", "autosteer", "finesteer")
SHAPES = ((16, 1), (64, 1), (16, 48), (64, 48))
"""Prompt and new tokens that costs are fitted to."""


def steered(policy: str, strength: float = 1.0) -> Steering:
    return {"policy": policy, "strength": strength}


def distinct(count: int) -> tuple[Steering, ...]:
    """So many nets with weights of their own, at strengths from 0.5 to 1.5."""
    return tuple(steered(f"l2s_{n:02}", 0.5 + n / max(1, count - 1)) for n in range(count))


def base(model: Served, concurrency: int, *, quick: bool) -> Load:
    """What every case of a table changes one thing of."""
    waves = {1: 4, 8: 2}.get(concurrency, 1)
    prompt, new = (16, 8) if quick else (32, 32)
    return Load(concurrency, waves, prompt, new, first=model.ids[0], last=model.ids[1])


def steps(load: Load, *, again: bool) -> Mapping[str, Case]:
    """Vanilla vLLM, and everything the plugin does, for one number of clients.

    Args:
        again: run a second vanilla engine, and idle twice: what differs by chance.
    """
    cases = {"vanilla": Case("vanilla", load), "idle": Case("plugin", load)}
    if again:
        cases |= {"vanilla_again": Case("again", load), "idle_again": Case("plugin", load)}
    for name in SYSTEMS:
        cases[name] = Case("plugin", replace(load, steering=(steered(name),)))
    if load.concurrency >= NUM_POLICIES:
        one = steered("l2s_00", 0.5)
        strengths = tuple({**s, "policy": "l2s_00"} for s in distinct(NUM_POLICIES))
        many = {"k1": (one,), "k8": distinct(8), "k64": distinct(64), "strengths64": strengths}
        for name, steering in many.items():
            cases[name] = Case("plugin", replace(load, steering=steering))
    return cases


def served_steps(load: Load, *, embedded: bool) -> Mapping[str, Case]:
    """The same over HTTP, on vLLM or on the embedded server."""
    cases = {} if embedded else {"vanilla": Case("vanilla", load)}
    cases["idle"] = Case("plugin", load)
    cases["idle_again"] = Case("plugin", load)
    for name in ("static", "l2s", "autosteer", "finesteer"):
        cases[name] = Case("plugin", replace(load, steering=(steered(name),)))
    return cases


def prefixes(model: Served, *, quick: bool) -> Mapping[str, Case]:
    """What steering leaves of prefix caching: a system prompt that all share, and next turns.

    The first request of a run finds an empty cache. In `half` every other client is steered; in
    `two` they have two policies. `_turns` are conversations: the next prompt holds the last answer.
    """
    shared = 128 if quick else 160
    eight = Load(8, 3, 16, 8, prefix=shared, first=model.ids[0], last=model.ids[1])
    turns = Load(4, 3, 16, 48, prefix=16, turns=True, first=model.ids[0], last=model.ids[1])
    asked: Mapping[str, tuple[Steering | None, ...]] = {
        "idle": (None,),
        "last_and_generated": (steered("static"),),
        "generated": (steered("static_generated"),),
        "all": (steered("static_all"),),
        "all_half": (steered("static_all"), None),
        "all_two": (steered("static_all"), steered("static_all", 0.5)),
        "half": (steered("l2s"), None),
        "two": (steered("l2s_00"), steered("l2s_01")),
        "head_in": (steered("autosteer"),),
        "probe": (steered("l2s_probe"),),
    }
    cases = {"vanilla": Case("vanilla", eight)}
    cases |= {name: Case("plugin", replace(eight, steering=s)) for name, s in asked.items()}
    told = ("idle", "last_and_generated", "generated", "all", "head_in")
    cases["vanilla_turns"] = Case("vanilla", turns)
    for name in told:
        cases[f"{name}_turns"] = Case("plugin", replace(turns, steering=asked[name]))
    return cases


def costs(model: Served, concurrency: int) -> Mapping[str, Case]:
    """Every system over prompts and answers of two lengths each; names end in _PROMPT_NEW."""
    asked: dict[str, Steering | None] = {"idle": None}
    asked |= {name: steered(name) for name in SYSTEMS}
    cases: dict[str, Case] = {}
    for prompt, new in SHAPES:
        load = Load(concurrency, 1, prompt, new, first=model.ids[0], last=model.ids[1])
        cases[f"vanilla_{prompt}_{new}"] = Case("vanilla", load)
        for name, steering in asked.items():
            case = Case("plugin", replace(load, steering=(steering,)))
            cases[f"{name}_{prompt}_{new}"] = case
    return cases
