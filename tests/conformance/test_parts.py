"""Properties that every registered part must have, whatever it computes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import examples
from conformance.waiting import Waits
from packing import SITE, D, Talk, given_vectors, pack, run, talk, whole
from steersman.core import registry
from steersman.core.io import Artifact, load_artifact, save_artifact
from steersman.core.part import Part, map_tensors
from steersman.core.roles import Gate, LayerSelector, Operator, Synthesizer
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import ModelSpec, Scope
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

registry.load_all()
RUNNING = ("gate", "synthesizer", "operator")
VECTOR = torch.randn(1, D, generator=torch.Generator().manual_seed(7))


def compose(part: Part) -> Steerer:
    """The part among the simplest partners."""
    parts = {"gate": AlwaysOpen(), "operator": Add(),
             "synthesizer": StaticVector(sites=(SITE,), vectors=VECTOR)}  # fmt: skip
    return Steerer(sites=(SITE,), scope=Scope.LAST_AND_GENERATED, **{**parts, part.role: part})


PARTS = examples.by_role(*RUNNING)
each_part = pytest.mark.parametrize("part", PARTS, ids=examples.label)
TALKS = [talk(0, 4, 3), talk(1, 2, 5), talk(2, 6, 1)]
STRENGTH = [1.0, -0.5, 2.0]


def steer(part: Part, talks=TALKS, passes=None, strength=STRENGTH, vectors=None):
    vectors = given_vectors(len(talks)) if vectors is None else vectors
    return run(compose(part), talks, passes or [whole(talks)], strength, vectors)


def same(first, second):
    return all(torch.allclose(first[k], second[k], atol=1e-5) for k in first)


@pytest.mark.parametrize("cls", registry.classes(), ids=lambda c: f"{c.role}-{c.part_name}")
def test_every_part_lists_examples_and_explains_itself(cls):
    if cls.__module__ != "steersman.core.steerer":
        assert examples.examples_of(cls), f"{examples.test_file(cls)} lists no EXAMPLES of {cls}"
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), "a docstring is needed"


@each_part
def test_strength_zero_is_the_identity_bit_for_bit(part):
    made = steer(part, strength=[0.0, 0.0, 0.0])
    assert all(torch.equal(made[r, p], TALKS[r].states[p]) for r, p in made)


@pytest.mark.parametrize("part", examples.by_role("operator"), ids=examples.label)
def test_an_operator_is_the_identity_at_strength_zero_by_itself(part):
    h = torch.randn(5, D)
    assert torch.equal(part(h, torch.randn(5, D), torch.zeros(5)), h)


@each_part
def test_steering_acts(part):
    """A gate may close for some requests, but an example that never acts shows nothing."""
    made = steer(part)
    assert any(not torch.equal(made[r, p], TALKS[r].states[p]) for r, p in made)


@each_part
def test_tokens_out_of_scope_are_untouched(part):
    made = steer(part)
    for r, p in made:
        if p < TALKS[r].prompt_length - 1:
            assert torch.equal(made[r, p], TALKS[r].states[p])


@each_part
def test_alone_is_as_in_a_batch(part):
    vectors = given_vectors(3)
    together = steer(part, vectors=vectors)
    for r, one in enumerate(TALKS):
        alone = steer(part, [one], strength=[STRENGTH[r]], vectors=vectors[r : r + 1])
        assert all(torch.allclose(v, together[r, p], atol=1e-5) for (_, p), v in alone.items())


@each_part
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_packing_and_chunking_gives_the_same(part, data):
    """Prompts in chunks, tokens generated one by one, requests interleaved in any order."""
    passes, place = [], [0] * len(TALKS)
    while any(place[r] < len(t) for r, t in enumerate(TALKS)):
        open_now = [r for r, t in enumerate(TALKS) if place[r] < len(t)]
        order = data.draw(st.permutations(open_now))
        chosen = order[: data.draw(st.integers(1, len(order)))]
        spans = []
        for r in chosen:
            stop = place[r] + data.draw(st.integers(1, len(TALKS[r]) - place[r]))
            spans.append((r, place[r], stop))
            place[r] = stop
        passes.append(spans)
    assert same(steer(part), steer(part, passes=passes))


@each_part
def test_a_neighbour_that_is_steered_differently_changes_nothing(part):
    one, other = steer(part), steer(part, strength=[1.0, 9.0, 0.0])
    assert all(torch.allclose(one[0, p], other[0, p], atol=1e-6) for p in range(len(TALKS[0])))


@each_part
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_type_and_shape_are_kept_and_the_input_is_not_changed(part, dtype):
    talks = [Talk(t.states.to(dtype), t.prompt_length) for t in TALKS]
    before = [t.states.clone() for t in talks]
    made = steer(part, talks)
    assert all(v.dtype == dtype and v.shape == (D,) for v in made.values())
    assert all(bool(torch.isfinite(v).all()) for v in made.values())
    assert all(torch.equal(t.states, b) for t, b in zip(talks, before, strict=True))


@each_part
def test_saving_and_loading_changes_no_bit(part, tmp_path):
    policy = Policy(steerers={"s": compose(part)}, max_relative_norm=3.0)
    save_artifact(Artifact(policy, ModelSpec("m", "M", D, 3)), tmp_path / "a")
    loaded = load_artifact(tmp_path / "a").policy
    first, second = (
        run(p, TALKS, [whole(TALKS)], STRENGTH, given_vectors(3)) for p in (policy, loaded)
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert (
        Artifact(loaded, ModelSpec("m", "M", D, 3)).content_hash()
        == Artifact(policy, ModelSpec("m", "M", D, 3)).content_hash()
    )


@each_part
def test_nothing_waits_for_the_device(part):
    """The meta device has no values: a part that asks for one fails here."""
    policy = Policy(steerers={"s": compose(part)}).to("meta")
    x = map_tensors_of(pack(TALKS, whole(TALKS)), "meta")
    given = (
        {"s": torch.zeros(3, D, device="meta")} if compose(part).synthesizer.needs_vector else {}
    )
    state = policy.observe(x, policy.init(3, x.h, given))
    assert policy(x, state, torch.zeros(3, device="meta")).shape == x.h.shape


def map_tensors_of(x, device):
    names = ("h", "request", "position", "offset", "modality")
    return replace(x, **{name: getattr(x, name).to(device) for name in names})


@each_part
def test_no_part_asks_the_device_for_a_value(part):
    """What the meta device lets through: values that only decide which code runs."""
    policy, x = Policy(steerers={"s": compose(part)}), pack(TALKS, whole(TALKS))
    given = {"s": given_vectors(3)} if compose(part).synthesizer.needs_vector else {}
    strength = torch.tensor(STRENGTH)
    with Waits() as waits:
        policy.write(x, policy.observe(x, policy.init(3, x.h, given)), strength)
    assert waits.seen == []


def said_of_requests(part, x, state):
    """What `per_request` says, by token; None if it says nothing."""
    if part.role == "gate":
        said = part.per_request(state)
        return said if said is None or isinstance(said, float) else said[x.request]
    said = part.per_request(x.site, state)
    return said if said is None or len(said) == 1 else said[x.request]


@pytest.mark.parametrize("part", examples.by_role("gate", "synthesizer"), ids=examples.label)
def test_what_holds_for_a_request_holds_for_each_of_its_tokens(part):
    """And a part that says nothing of requests has one whose tokens do differ."""
    x = pack(TALKS, [(2, 0, 7), (0, 0, 7), (1, 0, 7)])
    state = given_vectors(3) if getattr(part, "needs_vector", False) else part.init(3, x.h)
    for seen in (state, part.observe(x, state)):
        said, made = said_of_requests(part, x, seen), part(x, seen)
        if said is not None:
            said = torch.as_tensor(said).expand(made.shape if part.role == "gate" else x.h.shape)
            assert torch.equal(said, made.expand_as(said))
    if said is None:
        rows = [made[x.request == r] for r in range(3)]
        assert any(not torch.equal(row, row[:1].expand_as(row)) for row in rows)


@each_part
def test_moving_a_part_moves_every_tensor(part):
    seen = []
    map_tensors(part.to("meta"), lambda t: seen.append(t.device.type) or t)
    assert set(seen) <= {"meta"}


def test_the_roles_are_the_ones_that_are_tested():
    roles = {Gate.role, Synthesizer.role, Operator.role}
    assert roles == set(RUNNING)
    assert {p.role for p in PARTS} == roles


@pytest.mark.parametrize("part", examples.by_role("selector"), ids=examples.label)
def test_a_selector_names_sites_of_the_model(part: LayerSelector):
    spec = ModelSpec("m", "M", D, 12)
    spec.check(part(spec), "the test")
    assert part(spec)
