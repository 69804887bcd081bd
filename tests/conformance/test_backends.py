"""One table: every way of running a backend, every part, every property."""

from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache

import pytest
import torch

import examples
from conformance.cases import (
    CASES,
    COMPOSED,
    OTHER,
    PARTS,
    PROMPTS,
    VECTOR,
    Case,
    closed,
    policy,
    steerer,
)
from conformance.engine import ENGINES, REFERENCE, Answer, Ask, Engine, weights
from steersman.core.errors import ModelError, NotSteeredError
from steersman.core.types import Scope, Site

NUM = 4
STRENGTHS = (1.0, -0.5, 2.0)
HALVES = (torch.float32, torch.bfloat16, torch.float16)
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)


def mixed(case: Case) -> list[Ask]:
    """Rows 0 to 2 at three strengths; then strength 0, and a gate that is closed."""
    steered = [case.ask(row, strength) for row, strength in enumerate(STRENGTHS)]
    return [*steered, case.ask(3, 0.0), case.ask(4, 1.0, closed(case.policy))]


@cache
def plain(engine: Engine) -> list[Answer]:
    return engine.run([Ask(ids) for ids in PROMPTS], NUM)


@cache
def together(engine: Engine, case: Case) -> list[Answer]:
    return engine.run(mixed(case), NUM)


@cache
def alone(case: Case, row: int) -> Answer:
    return REFERENCE.run([mixed(case)[row]], NUM)[0]


def refusal(engine: Engine, case: Case) -> str | None:
    """What the backend says where it cannot steer; None where it can.

    A policy may have to see the whole prompt before it writes, and gets it in pieces. Or it looks
    again, at what it wrote itself, and nothing keeps that.
    """
    if not engine.whole_prompts and case.policy.probed(0, chunked=True):
        return "the prompt comes in pieces"
    behind = [case.policy.steerers[n].reads for n in case.policy.probed(0, chunked=False)]
    if not engine.keeps and any(read.every for reads in behind for read in reads):
        return "needs the cache"
    return None


def same_bits(engine: Engine, one: Answer, two: Answer) -> bool:
    if engine.bitwise:
        return torch.equal(one.logits, two.logits)
    return one.tokens == two.tokens and close(one, two)


def close(one: Answer, two: Answer) -> bool:
    return torch.allclose(one.logits, two.logits, rtol=1e-3, atol=1e-3)


def same_trace(one: Answer, two: Answer) -> bool:
    """The same counts, and nearly the same means."""
    counts, means = ([numbers(t, k) for t in (one.trace, two.trace)] for k in (0, 1))
    return counts[0] == counts[1] and means[0] == pytest.approx(means[1], rel=1e-3, abs=1e-5)


def numbers(trace, which: int) -> list:
    made = []
    for name, t in trace.items():
        counts = (name, t.tokens_in_scope, t.tokens_written, t.reason, dict(t.written_at))
        made += [(counts,), (t.gate, t.strength, t.relative_norm)][which]
    return made


def runs(chosen) -> pytest.MarkDecorator:
    pairs = [(e, c) for e in ENGINES for c in CASES if chosen(e, c)]
    marked = [pytest.param(e, c, id=f"{e.name}-{c}") for e, c in pairs]
    return pytest.mark.parametrize(("engine", "case"), marked)


steered = runs(lambda engine, case: refusal(engine, case) is None)


@runs(lambda engine, _case: engine.precise)
def test_each_request_is_as_if_it_were_alone_and_cached(engine, case):
    """Batches and padding, static caches, none at all, prompts in pieces, answers in one pass."""
    if message := refusal(engine, case):
        with pytest.raises(ModelError, match=message):
            together(engine, case)
        return
    for row in range(len(STRENGTHS)):
        one, wanted = together(engine, case)[row], alone(case, row)
        assert one.tokens == wanted.tokens
        assert close(one, wanted)
        assert same_trace(one, wanted)


@steered
def test_strength_zero_and_a_closed_gate_change_no_bit(engine, case):
    made, untouched = together(engine, case), plain(engine)
    for row in (3, 4):
        assert same_bits(engine, made[row], untouched[row])
        assert made[row].tokens == untouched[row].tokens
    assert made[3].trace == {}
    assert {t.reason for t in made[4].trace.values()} == {"the gate was closed"}
    for row in range(3):
        if made[row].trace and all(t.tokens_written == 0 for t in made[row].trace.values()):
            assert same_bits(engine, made[row], untouched[row])


@steered
def test_it_acts_where_it_says_that_it_does(engine, case):
    acted = 0
    for row in range(3):
        one, untouched = together(engine, case)[row], plain(engine)[row]
        wrote = any(t.tokens_written for t in one.trace.values())
        assert wrote != torch.equal(one.logits, untouched.logits)
        acted += wrote
    assert acted


@runs(lambda e, c: refusal(e, c) is None and (e is REFERENCE or c in COMPOSED))
def test_neighbours_do_not_matter(engine, case):
    """Others have another policy, or none, and stand elsewhere; bit for bit in equal shapes."""
    scopes = {s.scope.start for s in case.policy.steerers.values()}
    beside = OTHER.policy if len(scopes) > 1 else replace(
        OTHER.policy, steerers={"s0": replace(OTHER.policy.steerers["s0"],
                                              scope=Scope(start=scopes.pop()))})  # fmt: skip
    asks = mixed(case)
    others = [Ask(PROMPTS[1], beside, 3.0), Ask(PROMPTS[2]), Ask(PROMPTS[3], beside, -1.0),
              Ask(PROMPTS[4])]  # fmt: skip
    made = engine.run([asks[0], *others], NUM)
    assert same_bits(engine, made[0], together(engine, case)[0])
    assert same_trace(made[0], together(engine, case)[0])


def one_each(i: int) -> Ask:
    return PARTS[i].ask(i % len(PROMPTS), STRENGTHS[i % 3])


@cache
def by_itself(i: int) -> Answer:
    return REFERENCE.run([one_each(i)], NUM)[0]


@each_engine
def test_any_order_of_different_policies_is_the_same(engine):
    """Every part at once, one policy for each row: what a server's batch looks like."""
    asks = [one_each(i) for i in range(len(PARTS))]
    cases = [i for i, case in enumerate(PARTS) if not refusal(engine, case)]
    order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(4)).tolist()
    first = engine.run([asks[i] for i in cases], NUM)
    second = engine.run([asks[cases[i]] for i in order], NUM)
    for place, i in enumerate(order):
        if engine.precise:
            assert second[place].tokens == first[i].tokens
            assert close(second[place], first[i])
            assert same_trace(second[place], first[i])
            lonely = by_itself(cases[i])
            assert close(second[place], lonely) and same_trace(second[place], lonely)
        assert second[place].trace.keys() == first[i].trace.keys()


@each_engine
def test_the_second_answer_is_decided_anew(engine):
    """Nothing of one call is left for the next: gates of other prompts, vectors, states."""
    gates = {case.name: case for case in PARTS if case.name.startswith("gate")}
    gated = [case for case in gates.values() if not refusal(engine, case)]
    for case in gated:
        first = engine.run([case.ask(0, 1.0)], NUM)[0]
        engine.run([case.ask(1, 1.0)], NUM)
        again = engine.run([case.ask(0, 1.0)], NUM)[0]
        assert torch.equal(first.logits, again.logits) and first.trace == again.trace
    decided = {told_gate(engine, case) for case in gated}
    assert len(decided) > 1, "some gates open and others close"


def told_gate(engine: Engine, case: Case) -> tuple[int, ...]:
    return tuple(a.trace["s0"].tokens_written for a in together(engine, case)[:3])


@each_engine
def test_a_positive_strength_is_more_of_what_the_vector_stands_for(engine):
    """The vector from one word to another, where states meet the output embedding."""
    embedding = weights().model.lm_head.weight.detach().float()
    yes, no = 11, 12
    towards = steerer(Site(2, "head_in"), embedding[yes] - embedding[no], scope=Scope.ALL)
    margins = []
    for strength in (-1.0, -0.1, 0.0, 0.1, 1.0):
        made = engine.run([Ask(PROMPTS[0], policy(towards), strength)], 1)[0]
        margins.append(float(made.logits[0, yes] - made.logits[0, no]))
    assert margins == sorted(margins) and margins[0] < margins[2] < margins[-1]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    "part", examples.by_role("gate", "synthesizer", "operator"), ids=examples.label
)
def test_types_are_kept_and_nothing_becomes_no_number(part, dtype):
    """A strength that is too small for the number type is an error, but leaves numbers."""
    model = weights(dtype)
    many = steerer(**{part.role: part}, vector=100 * VECTOR, scope=Scope.ALL)
    case = Case("typed", policy(many, steerer(strength=3.0)))
    ids = torch.tensor([PROMPTS[2]])

    @torch.no_grad()
    def logits(strength: float) -> torch.Tensor:
        small = 0 < strength < 1
        with (
            suppress(NotSteeredError) if small else nullcontext(),
            model.steer(case.policy, strength, vectors=[case.vectors(0)]),
        ):
            out = model.model(input_ids=ids)
        return out.logits

    with torch.no_grad():
        untouched = model.model(input_ids=ids).logits
    made = {strength: logits(strength) for strength in (0.0, 1e-30, 1e-8, 1.0)}
    for one in made.values():
        assert one.dtype == dtype and one.shape == untouched.shape
        assert bool(torch.isfinite(one).all())
    assert torch.equal(made[0.0], untouched) and not torch.equal(made[1.0], untouched)
