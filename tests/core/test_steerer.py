"""The composition: order, what readers see, doses, the cap, and who brings vectors."""

import pytest
import torch

from packing import READ, SITE, D, given_vectors, pack, run, talk, whole
from steersman.core.errors import RecipeError
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.operators.add import Add
from steersman.synthesizers.given import GivenVector
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.random_direction import RandomDirection
from steersman.synthesizers.static import StaticVector

ONE, TWO = torch.ones(D), torch.arange(D).float()


def steerer(vector=ONE, **fields) -> Steerer:
    parts = {
        "sites": (SITE,),
        "gate": AlwaysOpen(),
        "operator": Add(),
        "synthesizer": StaticVector(sites=(SITE,), vectors=vector[None]),
        "scope": Scope.ALL,
    }
    return Steerer(**{**parts, **fields})


def net() -> SteeringNet:
    draw = torch.Generator().manual_seed(3)
    return SteeringNet(
        read=READ, mean=torch.zeros(D), spread=torch.ones(D),
        encoder=torch.randn(4, D, generator=draw), bias=torch.zeros(4),
        decoder=torch.randn(D, 4, generator=draw),
    )  # fmt: skip


def gate(sign: float) -> ProberGate:
    """Open, half or wholly, where the first number of the state has this sign."""
    return ProberGate(
        read=READ, mean=torch.zeros(D), scale=torch.ones(D),
        weight1=sign * torch.eye(D)[:1], bias1=torch.zeros(1),
        weight2=torch.ones(1), bias2=torch.full((1,), -1e-4), opening="graded",
    )  # fmt: skip


class Scale(Add.__mro__[1]):
    """h <- (1 + strength) h: an operator that does not commute with adding. Not registered."""

    def __call__(self, h, _v, strength):
        return h * (1 + strength)[:, None]


def write(policy, talks, strength, site=SITE):
    x = pack(talks, whole(talks), site)
    state = policy.observe(x, policy.init(len(talks), x.h))
    return x, policy.write(x, state, torch.tensor(strength))


def test_steerers_act_from_left_to_right():
    add, scale, talks = steerer(), steerer(operator=Scale()), [talk(0)]
    x, (first, _) = write(Policy(steerers={"add": add, "scale": scale}), talks, [1.0])
    _, (second, _) = write(Policy(steerers={"scale": scale, "add": add}), talks, [1.0])
    assert torch.allclose(first, 2 * (x.h + 1)) and torch.allclose(second, 2 * x.h + 1)


def test_a_steerer_acts_at_its_own_sites_only():
    site = Site(0)
    other = steerer(sites=(site,), synthesizer=StaticVector(sites=(site,), vectors=TWO[None]))
    policy = Policy(steerers={"one": steerer(), "two": other})
    assert policy.sites == (site, SITE)
    for at, vector, name in ((SITE, ONE, "one"), (site, TWO, "two")):
        x, (h, doses) = write(policy, [talk(0)], [1.0], at)
        assert torch.allclose(h, x.h + vector) and list(doses) == [name]
    x, (h, doses) = write(policy, [talk(0)], [1.0], Site(2))
    assert torch.equal(h, x.h) and not doses


def test_readers_see_their_own_site_unsteered():
    talks = [talk(0), talk(1)]
    alone = run(steerer(synthesizer=net()), talks, [whole(talks)], [1.0, 1.0])
    behind = Policy(steerers={"first": steerer(5 * TWO), "net": steerer(synthesizer=net())})
    both = run(behind, talks, [whole(talks)], [1.0, 1.0])
    for key in alone:
        assert torch.allclose(both[key], alone[key] + 5 * TWO, atol=1e-5)


def test_the_dose_is_request_strength_times_fitted_strength_times_gate():
    talks = [talk(s) for s in range(8)]
    policy = Policy(steerers={"s": steerer(gate=gate(1.0), strength=3.0, scope=Scope.GENERATED)})
    x, (h, doses) = write(policy, talks, [1.0, -0.5, 2.0, 0.0] * 2)
    contexts = torch.stack([t.states[t.prompt_length - 1] for t in talks])
    opened = gate(1.0).decide(contexts)
    assert 0 < int((opened > 0).sum()) < 8, "open for some, closed for others"
    asked = torch.tensor([1.0, -0.5, 2.0, 0.0] * 2)
    wanted = (3.0 * asked * opened)[x.request] * (x.offset >= 0)
    assert torch.allclose(doses["s"].strength, wanted)
    assert torch.allclose(h, x.h + wanted[:, None], atol=1e-6)
    assert torch.equal(h[wanted == 0], x.h[wanted == 0])
    assert torch.equal(doses["s"].scope, (x.offset >= 0) & (asked != 0)[x.request])
    length = (h - x.h).norm(dim=1) / x.h.norm(dim=1)
    assert torch.allclose(doses["s"].relative, length, atol=1e-6)


def test_a_request_that_is_not_steered_is_safe_from_anothers_nan():
    talks = [talk(0), talk(1)]
    vectors = torch.stack([torch.full((D,), float("nan")), ONE])
    made = run(steerer(synthesizer=GivenVector()), talks, [whole(talks)], [0.0, 1.0], vectors)
    for (r, p), h in made.items():
        assert torch.equal(h, talks[r].states[p] + (ONE if r == 1 else 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cap_holds_and_leaves_smaller_edits_alone(dtype):
    talks = [talk(s, 3, 3, dtype) for s in range(5)]
    vectors = torch.stack([(0.05 * 4**i) * given_vectors(5)[i] for i in range(5)])
    free = Policy(steerers={"s": steerer(synthesizer=GivenVector())})
    capped = Policy(steerers=free.steerers, max_relative_norm=0.5)
    loose, tight = (run(p, talks, [whole(talks)], [1.0] * 5, vectors) for p in (free, capped))
    shortened = 0
    for (r, p), h in tight.items():
        before, other = talks[r].states[p].float(), loose[r, p]
        if float((other.float() - before).norm()) <= 0.5 * float(before.norm()):
            assert torch.equal(h, other)
            continue
        shortened += 1
        edit, wanted = h.float() - before, other.float() - before
        slack = 1e-5 if dtype == torch.float32 else 0.02
        assert float(edit.norm() / before.norm()) == pytest.approx(0.5, rel=slack)
        assert float(torch.cosine_similarity(edit, wanted, dim=0)) > 1 - slack
    assert 5 < shortened < len(tight) - 5


def test_the_cap_bounds_the_whole_edit_of_all_steerers():
    pair = {"a": steerer(10 * ONE), "b": steerer(-9.9 * ONE)}
    x, (h, _) = write(Policy(steerers=pair, max_relative_norm=0.5), [talk(0)], [1.0])
    assert torch.allclose(h, x.h + 0.1, atol=1e-4), "together they are small"


def test_vectors_are_needed_by_those_that_ask_and_by_no_other():
    like = torch.zeros(1, D)
    with pytest.raises(RecipeError, match="'given' needs a vector with every request"):
        steerer(synthesizer=GivenVector()).init(2, like)
    with pytest.raises(RecipeError, match="'static' makes its own vectors"):
        steerer().init(2, like, torch.zeros(2, D))
    policy = Policy(steerers={"s": steerer(), "g": steerer(synthesizer=GivenVector())})
    with pytest.raises(RecipeError, match="given for t, but the policy has the steerers s, g"):
        policy.init(2, like, {"t": torch.zeros(2, D)})
    state = policy.init(2, like, {"g": torch.ones(2, D)})
    assert torch.equal(state["g"].synthesizer, torch.ones(2, D))


def test_a_policy_lists_what_it_reads_once():
    other = Read(Site(0), offset=-2)
    policy = Policy(
        steerers={
            "a": steerer(synthesizer=net(), gate=gate(1.0)),
            "b": steerer(synthesizer=RandomDirection(inner=net())),
            "c": steerer(gate=ProberGate(**{**vars(gate(1.0)), "read": other})),
        }
    )
    assert policy.reads == (READ, other)


def test_an_observation_changes_no_state_in_place():
    policy = Policy(steerers={"s": steerer(synthesizer=net(), gate=gate(1.0))})
    x = pack([talk(0)], [(0, 0, 7)])
    before = policy.init(1, x.h)
    kept = [before["s"].gate.clone(), before["s"].synthesizer.clone()]
    after = policy.observe(x, before)
    assert torch.equal(before["s"].gate, kept[0])
    assert torch.equal(before["s"].synthesizer, kept[1])
    assert not torch.equal(after["s"].synthesizer, kept[1])
    elsewhere = policy.observe(pack([talk(0)], [(0, 0, 7)], Site(2)), before)
    assert torch.equal(elsewhere["s"].synthesizer, kept[1]), "another site is not read"
