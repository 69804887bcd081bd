"""Shadow: everything is computed and told, and not one bit of a state changes."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

import oracle
import tiny
from steersman.core.deal import deal, write, write_generated
from steersman.core.errors import NotSteeredError, RecipeError
from steersman.core.requests import SHADOW, Request
from steersman.core.roles import TokenGate
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Prompt, Read, Scope, Site, Tokens
from steersman.gates.always import AlwaysOpen
from steersman.gates.recheck import Recheck
from steersman.operators.ablate import Ablate
from steersman.operators.add import Add
from steersman.operators.clamp import Clamp
from steersman.operators.rotate import Rotate
from steersman.synthesizers.given import GivenVector
from steersman.synthesizers.linear_field import LinearField
from steersman.synthesizers.static import StaticVector

each_model = pytest.mark.parametrize("name", oracle.MODELS)
HEAD = Site(tiny.LAYERS - 1, "head_in")
WIDE = oracle.VECTOR * 5


def by(operator, **fields) -> Policy:
    policy = oracle.policy(WIDE, **fields)
    return Policy(steerers={"s": replace(policy.steerers["s"], operator=operator)})


def two() -> Policy:
    """The second steerer of a site is given what the first has written."""
    first, second = oracle.policy(WIDE), oracle.policy(-WIDE.flip(0), scope=Scope.ALL)
    steerers = {"a": first.steerers["s"], "b": second.steerers["s"]}
    return Policy(steerers=steerers, max_relative_norm=0.7)


POLICIES = {
    "static": oracle.policy(WIDE),
    "everywhere": oracle.policy(WIDE, scope=Scope.ALL),
    "capped": oracle.policy(WIDE, cap=0.1),
    "ablated": by(Ablate(), scope=Scope.ALL),
    "rotated": by(Rotate(b2=WIDE.flip(0), angle_deg=30.0)),
    "clamped": by(Clamp(low=3.0, high=4.0)),
    "net": oracle.policy(synthesizer=oracle.net(Read(oracle.SITE))),
    "probed": oracle.policy(synthesizer=oracle.net(Read(Site(2))), scope=Scope.ALL),
    "head": oracle.policy(site=HEAD, synthesizer=LinearField(matrix=torch.eye(tiny.WIDTH))),
    "two": two(),
}
each_policy = pytest.mark.parametrize("kind", POLICIES)


@each_policy
@each_model
def test_the_prompt_and_every_generated_token_keep_every_bit(name, kind):
    model, policy = oracle.MODELS[name](), POLICIES[kind]
    for prompts in (oracle.PROMPTS, *([p] for p in oracle.prompts_for(name)[3:])):
        inputs = oracle.inputs_of(model, *prompts)
        tokens, logits = oracle.cached(model, inputs)
        with model.steer(policy, 1.5, shadow=True) as run:
            same, still = oracle.cached(model, inputs)
        assert torch.equal(tokens, same) and torch.equal(logits, still)
        with model.steer(policy, 1.5) as steered:
            _, other = oracle.cached(model, inputs)
        assert not torch.equal(logits, other)
        for told, wanted in zip(run.traces(), steered.traces(), strict=True):
            assert told.keys() == wanted.keys() == policy.steerers.keys()
            for one in told:
                assert told[one].tokens_in_scope == wanted[one].tokens_in_scope > 0
                assert told[one].gate == wanted[one].gate == 1
                assert told[one].strength == pytest.approx(wanted[one].strength)
                assert told[one].tokens_written == told[one].relative_norm == 0
                assert told[one].reason == SHADOW and wanted[one].reason == ""
                assert set(told[one].written_at.values()) == {0}


def test_gates_are_told_as_a_steered_run_tells_them():
    """Open for the first prompt, closed for the second."""
    model = oracle.MODELS["llama"]()
    states = model.capture(oracle.PROMPTS[:2], [oracle.SITE])[oracle.SITE]
    for gate in (
        oracle.gate_between(Read(oracle.SITE), states[0], states[1]),
        Recheck(inner=oracle.gate_between(Read(oracle.SITE), states[0], states[1]), every=50),
    ):
        policy = oracle.policy(gate=gate)
        requests = [Request(p, policy, max_new_tokens=3) for p in oracle.PROMPTS[:2]]
        steered = model.generate(requests)
        seen = model.generate([replace(r, shadow=True) for r in requests])
        gates = [[c.trace["s"].gate for c in made] for made in (steered, seen)]
        assert gates[0] == gates[1] == [1.0, 0.0]
        doses = [[c.trace["s"].strength for c in made] for made in (steered, seen)]
        assert doses[0] == doses[1] and doses[0][0] > 0
        assert [c.trace["s"].reason for c in steered] == ["", "the gate was closed"]
        assert [c.trace["s"].reason for c in seen] == [SHADOW, SHADOW]


@each_model
def test_rows_with_and_without_shadow_mix_in_a_batch(name):
    model = oracle.MODELS[name]()
    prompts = oracle.PROMPTS * 2
    kinds = [POLICIES[k] for k in ("static", "static", "probed", "two", "net", "static")]
    shadows = [False, True, False, True, True, False]
    requests = [
        Request(p, kind, max_new_tokens=4, shadow=shadow)
        for p, kind, shadow in zip(prompts, kinds, shadows, strict=True)
    ]
    together = model.generate(requests)
    plain = model.generate([Request(p, max_new_tokens=4) for p in prompts])
    for request, made, unsteered in zip(requests, together, plain, strict=True):
        alone = model.generate([request])[0]
        assert made.token_ids == alone.token_ids
        for one, trace in made.trace.items():
            written = trace.tokens_written, alone.trace[one].tokens_written
            assert written[0] == written[1] and bool(written[0]) != request.shadow
        if request.shadow:
            assert made.token_ids == unsteered.token_ids


def test_rows_of_the_users_own_calls_mix_bit_for_bit():
    model, policy = oracle.MODELS["llama"](), POLICIES["everywhere"]
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    _, plain = oracle.cached(model, inputs)
    with model.steer(policy, shadow=[True, False, True]):
        _, mixed = oracle.cached(model, inputs)
    with model.steer(policy, [0.0, 1.0, 0.0]):
        _, steered = oracle.cached(model, inputs)
    assert torch.equal(mixed, steered)
    assert torch.equal(mixed[0], plain[0]) and not torch.equal(mixed[1], plain[1])
    with (
        pytest.raises(RecipeError, match="2 shadows"),
        model.steer([policy] * 3, shadow=[True] * 2),
    ):
        pass


def test_beams_are_searched_as_without_steering():
    model, policy = oracle.MODELS["llama"](), POLICIES["static"]
    inputs = oracle.inputs_of(model, *oracle.PROMPTS[:2])
    settings = dict(num_beams=3, max_new_tokens=4, pad_token_id=0, do_sample=False)
    plain = model.model.generate(**inputs, **settings)
    with model.steer(policy, 3.0, shadow=[True, True]) as run:
        searched = model.model.generate(**inputs, **settings)
    assert torch.equal(plain, searched)
    assert [t["s"].reason for t in run.traces()] == [SHADOW, SHADOW]


def test_continuous_batching_says_what_it_says_unsteered():
    model, policy = oracle.MODELS["llama"](), POLICIES["static"]
    ids = [oracle.inputs_of(model, p)["input_ids"][0].tolist() for p in oracle.PROMPTS]
    sizes = dict(page_size=4, num_blocks=64, max_batch_tokens=8, allow_block_sharing=False)
    asked = dict(
        generation_config=GenerationConfig(
            max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(**sizes),
    )

    def answers():
        return [a.generated_tokens for a in model.model.generate_batch(ids, **asked).values()]

    plain = answers()
    with model.steer(policy, 3.0, shadow=True, threads="all") as run:
        assert answers() == plain
    assert [t["s"].reason for t in run.traces()] == [SHADOW] * 3
    assert [t["s"].tokens_in_scope for t in run.traces()] == [4] * 3


@each_model
def test_forced_answers_are_as_likely_as_without_steering(name):
    model = oracle.MODELS[name]()
    forced = [replace(p, completion="yes , the cup") for p in oracle.PROMPTS[:2]]
    requests = [Request(p, POLICIES["static"], shadow=s) for p in forced for s in (True, False)]
    made = model.likelihoods(requests, divergence=True)
    plain = model.likelihoods([Request(p) for p in forced for _ in range(2)])
    assert [m.logprobs for m in made[::2]] == [p.logprobs for p in plain[::2]]
    assert all(set(m.divergence) == {0.0} for m in made[::2])
    assert all(max(m.divergence) > 0 for m in made[1::2])
    assert [m.trace["s"].reason for m in made] == [SHADOW, ""] * 2


class Broken(TokenGate):
    """A gate that is no number. Not registered."""

    def __call__(self, x, state):
        return torch.full_like(x.h[:, 0], float("nan"))


FAILING = {
    "its vector is zero": oracle.policy(torch.zeros(tiny.WIDTH)),
    "wrote no token": oracle.policy(scope=Scope(start=-90, stop=-80)),
    "no numbers": oracle.policy(gate=Broken()),
    "made states that are no numbers": oracle.policy(torch.full((tiny.WIDTH,), float("inf"))),
}


@pytest.mark.parametrize("why", FAILING)
def test_an_answer_that_nobody_steers_does_not_fail_by_its_policy(why):
    model = oracle.MODELS["llama"]()
    request = Request(oracle.PROMPTS[0], FAILING[why], max_new_tokens=3)
    with pytest.raises(NotSteeredError, match=why):
        model.generate([request])
    made = model.generate([replace(request, shadow=True)])[0]
    assert made.token_ids == model.generate([replace(request, policy=None)])[0].token_ids
    trace = made.trace["s"]
    assert trace.tokens_written == 0
    if why == "its vector is zero":
        assert trace.reason == SHADOW and trace.gate == 1 and trace.tokens_in_scope == 3
    else:
        assert trace.reason.startswith(f"{SHADOW}; steered, this fails: ") and why in trace.reason


def test_vectors_of_requests_are_needed_in_shadow_too():
    model = oracle.MODELS["llama"]()
    request = Request(oracle.PROMPTS[0], oracle.policy(synthesizer=GivenVector()), shadow=True)
    with pytest.raises(RecipeError, match="needs Request.vectors"):
        model.generate([request])
    made = model.generate([replace(request, vectors={"s": WIDE})])[0]
    assert made.trace["s"].reason == SHADOW


def test_strength_zero_tells_nothing_in_shadow_either():
    made = oracle.MODELS["llama"]().generate(
        [Request(oracle.PROMPTS[0], POLICIES["static"], 0.0, max_new_tokens=2, shadow=True)]
    )[0]
    assert made.trace == {}


def test_nobody_in_shadow_costs_nothing():
    at = torch.device("cpu")
    made = deal([oracle.policy()], [0, -1], [1.0, 0.0], shadow=[False, False], device=at)
    assert made.shadow is None
    assert deal([oracle.policy()], [0], [1.0], device=at).shadow is None


@pytest.mark.parametrize("cap", [None, 0.2])
def test_both_ways_of_writing_leave_the_rows_in_shadow(cap):
    site, num = Site(0), 6
    policy = Policy(
        steerers={"s": Steerer(
            sites=(site,), gate=AlwaysOpen(), operator=Add(),
            synthesizer=StaticVector(sites=(site,), vectors=torch.ones(1, 4)),
        )},
        max_relative_norm=cap,
    )  # fmt: skip
    h = torch.randn(num, 4, generator=torch.Generator().manual_seed(0))
    row, zero = torch.tensor([0, 1, 2] * 2), torch.zeros(num, dtype=torch.long)
    x = Tokens(site=site, h=h, request=row, position=zero + 3, offset=zero, modality=zero)
    given = ([policy], [0, 0, 0], [1.0, 1.0, -2.0])
    dealt = [deal(*given, shadow=s, device=h.device) for s in ([False, True, False], None)]
    works = [one.work(site, one.init(h, [{}])) for one in dealt]
    (made, doses), (steered, wanted) = (write(work, x) for work in works)
    kept = row == 1
    assert torch.equal(made[kept], h[kept]) and not torch.equal(steered[kept], h[kept])
    assert torch.equal(made[~kept], steered[~kept])
    one, other = doses[0][0], wanted[0][0]
    assert torch.equal(one.relative, torch.where(kept, 0.0, other.relative))
    assert torch.equal(one.gate, other.gate) and torch.equal(one.strength, other.strength)
    if cap is None:
        assert works[0].is_plain
        quick, relative = write_generated(works[0], h, row)
        assert torch.equal(quick, made)
        assert torch.equal(relative[0], one.relative)


def test_a_seed_beyond_64_bits_is_refused():
    with pytest.raises(RecipeError, match="64 bits"):
        Request(Prompt("a"), seed=1 << 63)
