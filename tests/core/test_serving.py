"""The field `steering`: what is read of it, what is refused, what is answered."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.backends.walk import Plan
from steersman.core.requests import SteererTrace
from steersman.core.serving import RefusedError, Steering, read_steering, told
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Scope, Site, Span
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

KNOWN = ("l2s", "autosteer")


def test_defaults_are_those_of_the_policy():
    assert read_steering({"policy": "l2s"}, KNOWN) == Steering("l2s", 1.0, None, False)
    assert read_steering(None, KNOWN) is None


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"policy": "l2"}, "E_UNKNOWN_POLICY", "Did you mean 'l2s'"),
        ({"polcy": "l2s"}, "E_UNKNOWN_FIELD", "Did you mean 'policy'"),
        ({}, "E_STEERING", "autosteer, l2s"),
        ("l2s", "E_STEERING", "object"),
        ({"policy": "l2s", "strength": "1"}, "E_STRENGTH", "number"),
        ({"policy": "l2s", "strength": True}, "E_STRENGTH", "number"),
        ({"policy": "l2s", "strength": math.nan}, "E_STRENGTH", "nan"),
        ({"policy": "l2s", "strength": 10**400}, "E_STRENGTH", "number between"),
        ({"policy": "l2s", "strength": 1e-40}, "E_STRENGTH", "too small"),
        ({"policy": "l2s", "strength": -1e-300}, "E_STRENGTH", "too small"),
        ({"policy": "l2s", "scope": "al"}, "E_SCOPE", "Did you mean 'all'"),
        ({"policy": "l2s", "shadow": 1}, "E_STEERING", "true or false"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_code(given, code, says):
    with pytest.raises(RefusedError, match=says) as error:
        read_steering(given, KNOWN)
    assert error.value.code == code


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON | st.dictionaries(st.sampled_from(["policy", "strength", "scope", "shadow"]), JSON))
def test_anything_at_all_is_read_or_refused(value):
    try:
        made = read_steering(value, KNOWN)
    except RefusedError as error:
        assert error.code.startswith("E_") and len(str(error)) < 1000
    else:
        assert made is None or made.policy in KNOWN


def test_a_scope_replaces_the_policys_own_but_keeps_its_spans():
    span = Span(1, 2)
    made = StaticVector(sites=(Site(0),), vectors=torch.ones(1, 3))
    steerer = Steerer(
        sites=(Site(0),),
        gate=AlwaysOpen(),
        synthesizer=made,
        operator=Add(),
        scope=Scope(start=-1, outside=(span,)),
    )
    policy = Policy(steerers={"s": steerer})
    assert Steering("l2s").scoped(policy) is policy
    scope = Steering("l2s", scope="generated").scoped(policy).steerers["s"].scope
    assert (scope.start, scope.stop, scope.outside) == (0, None, (span,))


@pytest.mark.parametrize("size", [0.0, -0.0, 1.2e-38, 1e6])
def test_what_is_read_as_a_strength_can_be_run(size):
    for strength in (size, -size):
        asked = read_steering({"policy": "l2s", "strength": strength}, KNOWN)
        assert asked is not None and Plan(None, asked.strength, {}).strength == strength


def test_an_answer_tells_the_widest_gate_and_every_steerer():
    closed = SteererTrace(0.0, 0.0, 3, 0, 0.0, "the gate was closed")
    opened = SteererTrace(0.9, 1.8, 3, 3, 0.2)
    answer = told(Steering("l2s"), {"a": closed, "b": opened})
    assert (answer["gate"], answer["strength"], answer["tokens_written"]) == (0.9, 1.8, 3)
    assert answer["reason"] == "" and answer["steerers"]["a"]["reason"] == "the gate was closed"
    assert told(Steering("l2s"), {"a": closed})["reason"] == "the gate was closed"
    assert told(Steering("l2s", strength=0.0), {})["reason"] == "strength is 0"
    assert "shadow" in told(Steering("l2s", shadow=True), {"b": opened})["reason"]
