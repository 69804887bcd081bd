"""What steering does to every token, written a second time: lists, one token at a time.

Knows policies by their fields and by what their docstrings say, and calls none of their methods.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Scope, Site, Span

POINTS = ("resid_pre", "attn_heads", "attn_out", "mlp_out", "resid_post", "head_in")
State = list[float]
States = dict[Site, list[State]]
"""By site, one state for each token of a request."""


@dataclass(frozen=True)
class Talk:
    """One request: its tokens, those of its prompt counted, and how it is steered.

    Attributes:
        suffix: tokens of the generation prompt, at the end of the prompt.
        images: ids that stand for a piece of an image.
    """

    ids: Sequence[int]
    prompt_length: int
    suffix: int
    images: frozenset[int] = frozenset()
    policy: Policy | None = None
    strength: float = 1.0
    vector: Sequence[float] = ()


ROUNDING = 1e-5


@dataclass
class Sums:
    """What a steerer did to one request at one site."""

    scope: int = 0
    gate: float = 0.0
    strength: float = 0.0
    written: int = 0
    relative: float = 0.0
    doubtful: int = 0  # edits so small that rounding decides whether anything changed


def in_span(span: Span, talk: Talk) -> list[bool]:
    """Both markers are inside; a span that is not closed goes on; users open none."""
    inside, is_open = [], False
    for i, token in enumerate(talk.ids):
        counts = i >= talk.prompt_length - talk.suffix
        if counts and token == span.start:
            is_open = True
        inside.append(is_open)
        if counts and token == span.end:
            is_open = False
    return inside


def in_scope(scope: Scope, talk: Talk) -> list[bool]:
    left_out = [in_span(span, talk) for span in scope.outside]
    made = []
    for i, token in enumerate(talk.ids):
        offset = i - talk.prompt_length
        kind = "image" if token in talk.images else "text"
        made.append(
            (scope.start is None or offset >= scope.start)
            and (scope.stop is None or offset < scope.stop)
            and scope.modality in ("any", kind)
            and not any(inside[i] for inside in left_out)
        )
    return made


def depth(site: Site) -> tuple[int, int]:
    return site.layer, POINTS.index(site.point)


def place(read: Read, talk: Talk) -> int:
    """Which token of the prompt is read; below 0 if the prompt is too short."""
    behind = 0 if read.generation_prompt else talk.suffix
    return talk.prompt_length + read.offset - behind


def reads_of(steerer: Steerer) -> list[Read]:
    gate, maker = steerer.gate, steerer.synthesizer
    found = [gate.read] if hasattr(gate, "read") else []
    found += [gate.inner.read] if hasattr(gate, "inner") else []
    return found + ([maker.read] if hasattr(maker, "read") else [])


def waits_for_the_prompt(policy: Policy, suffix: int) -> bool:
    """Whether something is written before, or would change, what the policy must read first."""
    for steerer in policy.steerers.values():
        for read in reads_of(steerer):
            offset = read.offset - (0 if read.generation_prompt else suffix)
            for other in policy.steerers.values():
                start = -math.inf if other.scope.start is None else other.scope.start
                first = min(depth(site) for site in other.sites)
                own = other is steerer
                if own and (first < depth(read.site) or start < offset):
                    return True
                if not own and first < depth(read.site) and start <= offset:
                    return True
    return False


def was_read(steerer: Steerer, talk: Talk) -> bool:
    return all(place(read, talk) >= 0 for read in reads_of(steerer))


def context(read: Read, talk: Talk, unsteered: States) -> State | None:
    """A prompt is read as nobody has steered it."""
    i = place(read, talk)
    return unsteered[read.site][i] if i >= 0 else None


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a: Sequence[float]) -> float:
    return math.sqrt(dot(a, a))


def prober(gate, h: State | None) -> float:
    if h is None:
        return 0.0
    z = [(x - m) / s for x, m, s in zip(h, gate.mean.tolist(), gate.scale.tolist(), strict=True)]
    rows = zip(gate.weight1.tolist(), gate.bias1.tolist(), strict=True)
    hidden = [max(0.0, dot(row, z) + b) for row, b in rows]
    p = 1 / (1 + math.exp(-dot(gate.weight2.tolist(), hidden) - float(gate.bias2)))
    if p <= gate.threshold:
        return 0.0
    return 1.0 if gate.opening == "hard" else p


def gates(steerer: Steerer, site: Site, talk: Talk, unsteered: States, seen: States) -> list[float]:
    """How open each token is. What is read again was steered by what came before."""
    gate, num = steerer.gate, len(talk.ids)
    if gate.part_name == "always":
        return [1.0] * num
    if gate.part_name == "prober":
        return [prober(gate, context(gate.read, talk, unsteered))] * num
    assert gate.part_name == "recheck"
    inner, checks = gate.inner, {}
    checks[0] = prober(inner, context(inner.read, talk, unsteered))
    for i in range(talk.prompt_length, num):
        said = i - talk.prompt_length + 1
        if said % gate.every == 0:
            checks[said // gate.every] = prober(inner, seen[inner.read.site][i])
    made = []
    for i in range(num):
        said = i - talk.prompt_length + 1  # answer tokens up to this one
        if depth(site) < depth(inner.read.site):
            said -= 1  # its own check comes too late
        made.append(checks[max(0, min(said // gate.every, gate.max_checks - 1))])
    return made


def vector(steerer: Steerer, site: Site, talk: Talk, unsteered: States, now: State) -> State:
    maker = steerer.synthesizer
    if maker.part_name == "static":
        return maker.vectors[list(maker.sites).index(site)].tolist()
    if maker.part_name == "given":
        return list(talk.vector)
    if maker.part_name == "linear_field":
        return [dot(row, now) for row in maker.matrix.tolist()]
    assert maker.part_name == "steering_net"
    h = context(maker.read, talk, unsteered)
    if h is None:
        return [0.0] * len(now)
    z = [(x - m) / s for x, m, s in zip(h, maker.mean.tolist(), maker.spread.tolist(), strict=True)]
    rows = zip(maker.encoder.tolist(), maker.bias.tolist(), strict=True)
    hidden = [math.tanh(dot(row, z) + b) for row, b in rows]
    return [maker.scale * dot(row, hidden) for row in maker.decoder.tolist()]


def edit(operator, h: State, v: State, dose: float) -> State:
    if operator.part_name == "add":
        return [x + dose * y for x, y in zip(h, v, strict=True)]
    assert operator.part_name == "ablate"
    size = length(v)
    direction = [y / size if size else 0.0 for y in v]
    along = dot(h, direction)
    return [x - dose * along * y for x, y in zip(h, direction, strict=True)]


def steered_at(
    site: Site, talk: Talk, unsteered: States, seen: States
) -> tuple[list[State | None], dict[str, Sums]]:
    """The state of every token behind the steering; None where not a bit may change."""
    if talk.policy is None or talk.strength == 0:
        return [None] * len(talk.ids), {}
    here = {n: s for n, s in talk.policy.steerers.items() if site in s.sites}
    sums = {name: Sums() for name in here}
    scopes = {n: in_scope(s.scope, talk) for n, s in here.items()}
    opened = {n: gates(s, site, talk, unsteered, seen) for n, s in here.items()}
    made: list[State | None] = []
    for i, before in enumerate(seen[site]):
        now, relative = before, {}
        for name, steerer in here.items():
            if not scopes[name][i]:
                continue
            dose = opened[name][i] * talk.strength * steerer.strength
            sums[name].scope += 1
            sums[name].gate += opened[name][i]
            sums[name].strength += dose
            if dose == 0:
                continue
            after = edit(steerer.operator, now, vector(steerer, site, talk, unsteered, now), dose)
            relative[name] = length([a - b for a, b in zip(after, now, strict=True)]) / length(now)
            now = after
        share = 1.0
        change = [a - b for a, b in zip(now, before, strict=True)]
        cap = talk.policy.max_relative_norm
        if cap is not None and length(change) > cap * length(before):
            share = cap * length(before) / length(change)
            now = [b + share * c for b, c in zip(before, change, strict=True)]
        for name, value in relative.items():
            sums[name].relative += share * value
            sums[name].written += value > ROUNDING
            sums[name].doubtful += value <= ROUNDING
        made.append(now if relative else None)
    return made, sums


def cannot_act(steerer: Steerer, talk: Talk, total: Sums) -> bool:
    """Whether silence would be a fault: no token is meant, or what is read is not there."""
    everything_left_out = steerer.scope.outside and was_read(steerer, talk)
    return (total.scope == 0 and not everything_left_out) or (
        total.scope > 0 and not was_read(steerer, talk)
    )
