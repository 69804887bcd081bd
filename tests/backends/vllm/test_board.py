"""The board on a toy engine: whatever the pieces, rows, neighbours and preemptions, it is right."""

import importlib.util
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from steersman.backends.vllm.plan import check, course
from steersman.backends.vllm.wire import Order
from steersman.core.serving import RefusedError
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.operators.ablate import Ablate
from steersman.operators.add import Add
from steersman.operators.rotate import Rotate
from steersman.synthesizers.linear_field import LinearField
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.random_direction import RandomDirection
from steersman.synthesizers.static import StaticVector

_spec = importlib.util.spec_from_file_location(
    "engine_like", Path(__file__).with_name("engine_like.py")
)
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)
WIDTH = toy.WIDTH


def _draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def static(site, seed, operator=None, **fields):
    made = StaticVector(sites=(site,), vectors=_draw(1, WIDTH, seed=seed))
    return Steerer(
        sites=(site,), gate=AlwaysOpen(), synthesizer=made, operator=operator or Add(), **fields
    )


def net(read, seed):
    return SteeringNet(
        read=read,
        mean=torch.zeros(WIDTH),
        spread=torch.full((WIDTH,), 0.5),
        encoder=_draw(4, WIDTH, seed=seed),
        bias=_draw(4, seed=seed + 1),
        decoder=_draw(WIDTH, 4, seed=seed + 2),
    )


def prober(read, seed):
    return ProberGate(
        read=read,
        mean=torch.zeros(WIDTH),
        scale=torch.ones(WIDTH),
        weight1=_draw(4, WIDTH, seed=seed),
        bias1=_draw(4, seed=seed + 1),
        weight2=_draw(4, seed=seed + 2),
        bias2=torch.zeros(1),
    )


def learned(read_layer, write_layer, seed, *, gate=None, **fields):
    site = Site(write_layer)
    made = net(Read(Site(read_layer)), seed)
    return Steerer(
        sites=(site,), gate=gate or AlwaysOpen(), synthesizer=made, operator=Add(), **fields
    )


def field(site, seed, gate=None, **fields):
    made = LinearField(matrix=_draw(WIDTH, WIDTH, seed=seed) / 4)
    return Steerer(
        sites=(site,), gate=gate or AlwaysOpen(), synthesizer=made, operator=Add(), **fields
    )


POLICIES = {
    "static": Policy(steerers={"s": static(Site(1), 1)}),
    "everywhere": Policy(steerers={"s": static(Site(0), 2, Ablate(), scope=Scope.ALL)}),
    "prompt": Policy(steerers={"s": static(Site(0, "resid_pre"), 3, scope=Scope.PROMPT)}),
    "generated": Policy(steerers={"s": static(Site(1), 4, scope=Scope.GENERATED)}),
    "last": Policy(steerers={"s": static(Site(2), 5, scope=Scope.LAST)}),
    "turned": Policy(
        steerers={"s": static(Site(1), 6, Rotate(b2=_draw(WIDTH, seed=7), angle_deg=40.0))}
    ),
    "below": Policy(steerers={"s": learned(0, 1, 10)}),
    "above": Policy(steerers={"s": learned(2, 0, 20)}),
    "gated": Policy(
        steerers={"s": learned(1, 1, 30, gate=prober(Read(Site(2)), 33), scope=Scope.LAST)}
    ),
    "early token": Policy(
        steerers={"s": replace(learned(1, 0, 40), synthesizer=net(Read(Site(1), offset=-3), 41))}
    ),
    "per token": Policy(steerers={"s": field(Site(1), 50, scope=Scope.ALL)}),
    "head": Policy(steerers={"s": field(toy.HEAD, 60, gate=prober(Read(Site(1)), 61))}),
    "several": Policy(
        steerers={
            "a": learned(0, 1, 70),
            "b": static(Site(1), 71, scope=Scope.GENERATED),
            "c": learned(2, 1, 72, gate=prober(Read(Site(0)), 73)),
        },
        max_relative_norm=0.5,
    ),
}


def order(name, strength=1.0, *, shadow=False, trace=""):
    return Order(name, name, strength, None, shadow, trace, 0, "", -1, -1)


def request(i, name, strength, num_prompt=6, num_tokens=11, *, shadow=False):
    asked = toy.Asked(f"r{i}", _draw(num_tokens, WIDTH, seed=100 + i), num_prompt)
    if name is not None:
        asked.order = order(name, strength, shadow=shadow, trace=f"t{i}")
        asked.policy = None if shadow or strength == 0 else POLICIES[name]
    return asked


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-6)


def assert_right(asked, strength):
    states, heads = toy.right(asked, strength)
    close(asked.out, states)
    for at, head in asked.heads.items():
        close(head, heads[at])


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("chunk", [1, 2, 5, 11])
def test_a_request_is_steered_alike_whatever_its_pieces(name, chunk):
    engine = toy.Engine(POLICIES)
    asked = request(0, name, 1.3)
    while asked.done < asked.num_prompt:
        engine.run([(asked, min(chunk, asked.num_prompt - asked.done))])
    while asked.done < len(asked.inputs):
        engine.run([(asked, 1)])
    assert_right(asked, 1.3)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1_000_000))
def test_neighbours_preemptions_and_growth_change_nothing(seed):
    draw = random.Random(seed)
    picked = draw.choices([None, *POLICIES], k=draw.randint(2, 6))
    strengths = draw.choices([0.0, 0.5, -1.0, 2.0], k=len(picked))
    asked = [
        request(i, name, strength, num_prompt=draw.randint(3, 7))
        for i, (name, strength) in enumerate(zip(picked, strengths, strict=True))
    ]
    engine = toy.Engine(POLICIES, num_rows=2)
    for _ in range(200):
        plan = [(a, draw.randint(0, most_of(a))) for a in asked]
        if any(num for _, num in plan):
            engine.run(plan)
        if draw.random() < 0.1:
            engine.preempt(draw.choice(asked))
    for a in asked:
        while a.done < len(a.inputs):
            engine.run([(a, most_of(a))])
    for a, strength in zip(asked, strengths, strict=True):
        assert_right(a, strength)


def most_of(asked):
    """Tokens that can run: the prompt's, what ran before a preemption, or one more."""
    known = max(asked.num_prompt, len(asked.out))
    return known - asked.done if asked.done < known else min(1, len(asked.inputs) - asked.done)


@pytest.mark.parametrize("name", POLICIES)
def test_shadow_and_strength_zero_leave_every_bit(name):
    for shadow, strength in ((True, 1.0), (False, 0.0)):
        engine, plain = toy.Engine(POLICIES), toy.Engine(POLICIES)
        asked, free = request(0, name, strength, shadow=shadow), request(0, None, 0.0)
        for run, one in ((engine, asked), (plain, free)):
            run.run([(one, 6)])
            while one.done < len(one.inputs):
                run.run([(one, 1)])
        assert torch.equal(asked.out, free.out)
        assert all(torch.equal(asked.heads[at], free.heads[at]) for at in asked.heads)
        (told,) = engine.board.trace("t0")
        assert "error" not in told and told["tokens_written"] == 0 and told["request"] == "r0"


@pytest.mark.parametrize("name", POLICIES)
def test_a_trace_tells_tokens_gate_and_strength(name):
    engine = toy.Engine(POLICIES)
    asked = request(0, name, 0.5)
    engine.run([(asked, 4)])
    engine.run([(asked, 2)])
    engine.preempt(asked)
    engine.run([(asked, 6)])
    while asked.done < len(asked.inputs):
        engine.run([(asked, 1)])
    (told,) = engine.board.trace("t0")
    policy = POLICIES[name]
    for part, steerer in policy.steerers.items():
        shown = told["steerers"][part]
        offsets = torch.arange(len(asked.inputs)) - asked.num_prompt
        if steerer.sites[0].point == "head_in":
            offsets = offsets[[5, *range(6, 11)]]  # the last of each prompt piece is one as well
        start = -99 if steerer.scope.start is None else steerer.scope.start
        stop = 99 if steerer.scope.stop is None else steerer.scope.stop
        inside = (offsets >= start) & (offsets < stop)
        assert shown["tokens_in_scope"] == int(inside.sum())
        assert shown["strength"] == pytest.approx(shown["gate"] * 0.5 * steerer.strength)
        assert bool(shown["tokens_written"]) == (shown["gate"] > 0)


def test_the_trace_of_a_finished_request_can_be_asked_for_once():
    engine = toy.Engine(POLICIES)
    asked = request(0, "static", 1.0)
    engine.run([(asked, 6)])
    engine.run([(asked, 1)])
    engine.finish(asked)
    (told,) = engine.board.trace("t0")
    assert told["tokens_written"] == 2
    assert engine.board.trace("t0") == [] and not engine.board.rows


def test_steering_that_could_not_act_is_told_as_an_error():
    engine = toy.Engine(POLICIES)
    asked = request(0, "generated", 1.0)
    engine.run([(asked, 6)])
    engine.run([(asked, 1)])
    asked.order = None
    still = StaticVector(sites=(Site(1),), vectors=torch.zeros(1, WIDTH))
    dead = Policy(steerers={"s": replace(static(Site(1), 1), synthesizer=still)})
    engine.board.load("dead", dead)
    other = request(1, "static", 1.0)
    other.order = order("dead", trace="t1")
    engine.run([(other, 6)])
    (told,) = engine.board.trace("t1")
    assert told["error"]["code"] == "not_steered" and "changed none" in told["error"]["message"]


def test_a_policy_that_was_replaced_is_told_as_an_error_not_as_an_unsteered_answer():
    engine = toy.Engine(POLICIES)
    asked = request(0, None, 0.0)
    asked.order = order("gone", trace="t0")
    engine.run([(asked, 6)])
    assert engine.board.trace("t0")[0]["error"]["code"] == "E_UNLOADED"


def test_a_site_without_a_tap_needs_a_restart():
    engine = toy.Engine({})
    wrong = Policy(steerers={"s": static(Site(1, "mlp_out"), 1)})
    with pytest.raises(RefusedError, match=r"E_NEEDS_RESTART.*mlp_out\[1\]"):
        engine.board.load("wrong", wrong)


@pytest.mark.parametrize("name", ["static", "turned", "everywhere"])
def test_a_recorded_tap_follows_the_tables(name):
    """A recording bakes in all that is not read from memory when it is replayed."""
    engine = toy.Engine(POLICIES)
    board = engine.board
    board.fixed = True
    asked = [request(0, name, 1.0), request(1, name, -0.7), request(2, None, 0.0)]
    site = POLICIES[name].sites[0]

    def tap(hidden, residual):
        board.recorded(site, hidden, residual)
        return hidden

    hidden, residual = _draw(8, WIDTH, seed=1), _draw(8, WIDTH, seed=2)
    recorded = make_fx(tap)(hidden.clone(), residual)
    for a in asked:
        engine.run([(a, 6)])
    board.begin(
        ["r1", "r2", "r0"],
        *(torch.tensor(values).numpy() for values in ([6, 6, 6], [1, 1, 1])),
        lambda name: (None, []),
    )
    got = recorded(hidden.clone(), residual)
    wanted = hidden.clone()
    board.around(lambda: board.tap(site, wanted, residual))
    close(got, wanted)
    assert torch.equal(got[1], hidden[1]) and torch.equal(got[3:], hidden[3:])
    assert not torch.equal(got[0], hidden[0]) and not torch.equal(got[2], hidden[2])


def test_policies_that_cannot_be_right_are_refused_with_a_code():
    cases = {
        "E_SCOPE_NEEDS_PROBE": learned(1, 1, 1, scope=Scope.ALL),
        "E_SCOPE": field(toy.HEAD, 1, scope=Scope.ALL),
        "E_POINT": replace(learned(1, 1, 1), synthesizer=net(Read(toy.HEAD), 1)),
        "E_RECHECK": replace(learned(1, 1, 1), synthesizer=net(Read(Site(1), every=4), 1)),
    }
    for code, steerer in cases.items():
        with pytest.raises(RefusedError) as error:
            check(Policy(steerers={"s": steerer}))
        assert error.value.code == code


def test_a_course_tells_what_leaves_marks_in_the_cache():
    def marks(name):
        return course(POLICIES[name], num_prompt=10, suffix=0).marks

    assert marks("static") == 9 and marks("generated") == 10
    assert marks("everywhere") == 0 and marks("head") == -1
    assert course(POLICIES["early token"], num_prompt=10, suffix=0).apart == 7
    assert course(POLICIES["above"], num_prompt=10, suffix=0).apart == -1


def test_a_prompt_that_is_too_short_to_be_read_is_refused():
    with pytest.raises(RefusedError, match="E_SHORT_PROMPT"):
        course(POLICIES["early token"], num_prompt=2, suffix=0)


def test_a_recorded_tap_bounds_what_it_writes():
    capped = Policy(steerers={"s": static(Site(1), 1)}, max_relative_norm=0.1)
    engine = toy.Engine({"static": capped})
    board, residual = engine.board, torch.zeros(1, WIDTH)
    board.fixed = True

    def tap(hidden):
        board.recorded(Site(1), hidden, residual)
        return hidden

    recorded = make_fx(tap)(torch.ones(1, WIDTH))
    asked = request(0, "static", 5.0)
    engine.run([(asked, 6)])
    board.begin(["r0"], np.array([6]), np.array([1]), lambda name: (None, []))
    hidden = _draw(1, WIDTH, seed=1)
    change = (recorded(hidden.clone()) - hidden).norm() / hidden.norm()
    assert float(change) == pytest.approx(0.1, rel=1e-4)


def test_graphs_that_were_recorded_take_no_new_operator():
    engine = toy.Engine({"static": POLICIES["static"]})
    engine.board.fixed = True
    engine.run([(request(0, "static", 1.0), 6)])
    engine.board.remove("r0")  # nobody is under way
    engine.board.load("same", POLICIES["static"])
    for name in ("turned", "several"):
        with pytest.raises(RefusedError, match="E_NEEDS_RESTART"):
            engine.board.load(name, POLICIES[name])


@pytest.mark.parametrize("name", ["below", "above", "gated", "several"])
def test_random_directions_in_place_of_vectors_can_be_served(name):
    turned = {
        part: replace(s, synthesizer=RandomDirection(inner=s.synthesizer, seed=1))
        for part, s in POLICIES[name].steerers.items()
    }
    engine = toy.Engine({name: replace(POLICIES[name], steerers=turned)})
    asked = request(0, name, 1.0)
    engine.run([(asked, 6)])
    engine.run([(asked, 1)])
    assert "error" not in engine.board.trace("t0")[0]


def test_a_name_that_many_requests_have_does_not_keep_them_all():
    engine = toy.Engine(POLICIES)
    for i in range(300):
        asked = request(i, "static", 0.0)
        asked.order = order("static", 0.0, trace="same")
        engine.run([(asked, 1)])
        engine.finish(asked)
    assert len(engine.board.trace("same")) < 300
