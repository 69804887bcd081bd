"""A `with` leaves the model as it was, however it is left, and whatever else is hooked."""

import copy
import io

import pytest
import torch
from transformers import LlamaForCausalLM

import oracle
from calling import byhand
from calling.byhand import NUM, OTHER, POLICY, PUSH
from steersman.core.errors import ModelError
from steersman.core.requests import Request
from steersman.core.types import Read, Scope, Site

PROMPT = oracle.PROMPTS[0]
TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)
EVERYTHING = oracle.policy(
    PUSH, site=Site(0), synthesizer=oracle.net(Read(Site(2))), scope=Scope.ALL
)


def tables(model):
    """All that torch keeps of hooks, and what modules hold besides."""
    return {
        name: ({t: dict(getattr(m, t)) for t in TABLES}, sorted(vars(m)))
        for name, m in model.model.named_modules()
    }


def logits(model, prompt=PROMPT):
    return oracle.plain_logits(model, oracle.inputs_of(model, prompt))


@pytest.fixture
def model():
    """The shared model; the test must leave it as it was."""
    made = byhand.llama()
    before, said = tables(made), logits(made)
    weights = {k: v.clone() for k, v in made.model.state_dict().items()}
    yield made
    assert tables(made) == before
    assert torch.equal(logits(made), said)
    assert all(torch.equal(v, weights[k]) for k, v in made.model.state_dict().items())


@pytest.mark.parametrize("policy", [POLICY, EVERYTHING], ids=["one pass", "probed"])
def test_after_every_way_of_calling(model, policy):
    inputs = oracle.inputs_of(model, PROMPT)
    with model.steer(policy):
        logits(model)
        oracle.cached(model, inputs, NUM)
        oracle.cached(model, inputs, NUM, use_cache=False)
        oracle.cached(model, inputs, NUM, num_beams=3) if policy is POLICY else None
    model.generate([Request(PROMPT, policy, max_new_tokens=2)])
    model.capture([PROMPT], [Site(0), Site(2, "mlp_out")])


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_leaves_as_it_is(model, kind):
    with pytest.raises(kind), model.steer(POLICY):
        logits(model)
        raise kind


def test_an_error_in_the_middle_of_a_pass(model):
    def broken(*_):
        raise ZeroDivisionError

    hook = model.blocks.layers[2].register_forward_hook(broken)
    with model.steer(POLICY) as run:
        with pytest.raises(ZeroDivisionError):
            logits(model)
        hook.remove()
        made = logits(model)
        assert run.traces()[0]["s"].tokens_written == 1
    wanted, n = byhand.greedy(model, oracle.inputs_of(model, PROMPT), 1)[1], made.shape[1]
    assert byhand.close(made[0, n - 1], wanted[0])


def test_a_generator_that_is_closed_while_it_waits(model):
    def answers():
        with model.steer(POLICY):
            while True:
                yield logits(model)

    talk = answers()
    steered = next(talk)
    talk.close()
    assert not byhand.close(steered, logits(model), 1e-2)


def test_a_generator_that_is_thrown_away(model):
    def answers():
        with model.steer(POLICY):
            yield logits(model)

    talk = answers()
    next(talk)
    del talk


def test_a_with_can_be_entered_many_times(model):
    steered = []
    for _ in range(3):
        with model.steer(POLICY):
            steered.append(logits(model))
    assert all(torch.equal(s, steered[0]) for s in steered)
    again = model.steer(POLICY)
    with again:
        assert torch.equal(logits(model), steered[0])
    with pytest.raises(AttributeError, match="args"), again:
        pass  # as with any context manager made by contextlib: one `with` each


def test_the_same_policy_twice_adds_up(model):
    inputs = oracle.inputs_of(model, PROMPT)
    with model.steer(POLICY), model.steer(POLICY):
        made, twice = oracle.cached(model, inputs, NUM)
    tokens, wanted = byhand.greedy(model, inputs, vector=2 * PUSH)
    assert made[0].tolist() == tokens and byhand.close(twice[0], wanted)


def test_two_policies_add_up_while_both_are_entered(model):
    inputs = oracle.inputs_of(model, PROMPT)
    by_hand = [byhand.greedy(model, inputs, vector=v)[0] for v in (PUSH, PUSH + OTHER)]
    with model.steer(POLICY):
        assert oracle.cached(model, inputs, NUM)[0][0].tolist() == by_hand[0]
        with model.steer(oracle.policy(OTHER)):
            assert oracle.cached(model, inputs, NUM)[0][0].tolist() == by_hand[1]
        assert oracle.cached(model, inputs, NUM)[0][0].tolist() == by_hand[0]


def test_nested_withs_may_be_left_in_any_order(model):
    inputs = oracle.inputs_of(model, PROMPT)
    by_hand = byhand.greedy(model, inputs, vector=OTHER)[0]
    first, second = model.steer(POLICY), model.steer(oracle.policy(OTHER))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert oracle.cached(model, inputs, NUM)[0][0].tolist() == by_hand
    second.__exit__(None, None, None)


def test_our_own_calls_inside_a_with_stay_out_of_it(model):
    other = oracle.policy(OTHER)
    requests = [Request(p, q, max_new_tokens=NUM) for p in oracle.PROMPTS for q in (None, other)]
    outside = model.generate(requests), model.capture([PROMPT], [Site(2)])[Site(2)]
    said = model.complete([PROMPT], NUM)
    with model.steer(POLICY) as run:
        inside = model.generate(requests), model.capture([PROMPT], [Site(2)])[Site(2)]
        assert model.complete([PROMPT], NUM) == said
        assert run.traces() == [{}]
    assert inside[0] == outside[0] and torch.equal(inside[1], outside[1])


def test_a_capture_between_two_steps_does_not_disturb_them(model):
    inputs = oracle.inputs_of(model, PROMPT)
    tokens, wanted = byhand.greedy(model, inputs, 2)
    with model.steer(POLICY), torch.no_grad():
        out = model.model(**inputs)
        model.capture(oracle.PROMPTS, [Site(1)])
        model.generate([Request(oracle.PROMPTS[1], oracle.policy(OTHER), max_new_tokens=2)])
        more = torch.tensor([tokens[:1]])
        after = model.model(input_ids=more, past_key_values=out.past_key_values)
    assert byhand.close(out.logits[0, -1], wanted[0])
    assert byhand.close(after.logits[0, -1], wanted[1])


def test_hooks_of_others_keep_their_order():
    """Made before, they see unsteered states; made inside, steered ones; and they may edit too."""
    model, seen = byhand.llama(), {}
    block = model.blocks.layers[1]

    def note(name, edit=0.0):
        def hook(_module, _args, output):
            seen[name] = output.clone()
            return output + edit

        return hook

    clean = oracle.hand_state(model, oracle.inputs_of(model, PROMPT), block)[0, -1]
    before = block.register_forward_hook(note("before", edit=1.0))
    with model.steer(POLICY):
        inside = block.register_forward_hook(note("inside", edit=2.0))
        made = logits(model)
        inside_survives = len(block._forward_hooks)
    assert inside_survives == 3 and list(block._forward_hooks) == [before.id, inside.id]
    assert byhand.close(seen["before"][0, -1], clean)
    assert byhand.close(seen["inside"][0, -1], clean + 1.0 + PUSH)
    assert byhand.close(seen["inside"][0, :-1], seen["before"][0, :-1] + 1.0)
    seen.clear()
    logits(model)
    assert byhand.close(seen["inside"][0, -1], clean + 1.0)
    before.remove()
    inside.remove()
    n = made.shape[1]
    marked = torch.zeros(n, 1).index_fill(0, torch.tensor([n - 1]), 1.0)
    with oracle.hand_hook(block, lambda h: h + 3.0 + marked * PUSH):
        assert byhand.close(made, logits(model))


def test_hooks_that_are_removed_inside_a_with(model):
    calls = []
    handle = model.blocks.layers[1].register_forward_pre_hook(lambda *_: calls.append(1))
    with model.steer(POLICY):
        logits(model)
        handle.remove()
        logits(model)
    assert len(calls) == 1


def test_copies_and_pickles_of_a_steered_model_are_refused(model, tmp_path):
    """They would take the hooks along, and nobody would ever remove those."""
    with model.steer(POLICY):
        with pytest.raises(ModelError, match="cannot be copied.*Leave the `with` first"):
            copy.deepcopy(model.model)
        with pytest.raises(AttributeError, match="pickle"):
            torch.save(model.model, io.BytesIO())
        model.model.save_pretrained(tmp_path)
        steered = logits(model)
    stored = LlamaForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        plain = stored(**oracle.inputs_of(model, PROMPT), use_cache=False).logits
    assert torch.equal(plain, logits(model)) and not torch.equal(plain, steered)
