"""What steering libraries got wrong while a model runs; numbered as in the survey of them.

1 padding, 2 caches, 3 batches, 4 beams, 5 the second call, 13 hooks, 14 silence, 15 other ways in.
"""

import pytest
import torch
from transformers import pipeline

import oracle
from conformance.cases import PROMPTS, VECTOR, net, policy, prober, steerer
from conformance.engine import ENGINES, HF, REFERENCE, Ask
from packing import READ
from steersman.core.errors import NotSteeredError
from steersman.core.requests import Request
from steersman.core.types import Position, Prompt, Read, Scope, Site

NUM = 4
SPLIT = prober(READ, seed=3)
GATED = policy(steerer(gate=SPLIT, scope=Scope.LAST_AND_GENERATED, strength=2.0))
NET = policy(steerer(synthesizer=net(READ)))


def close(one, two) -> bool:
    return one.tokens == two.tokens and torch.allclose(one.logits, two.logits, atol=1e-4)


def opens(row: int) -> bool:
    return REFERENCE.run([Ask(PROMPTS[row], GATED)], 1)[0].trace["s0"].gate > 0


OPEN = [row for row in range(len(PROMPTS)) if opens(row)]
SHUT = [row for row in range(len(PROMPTS)) if not opens(row)]


def logits(model, *prompts):
    return oracle.plain_logits(model, oracle.inputs_of(model, *prompts))


def test_trap_01_left_and_right_padding_give_the_same_steering():
    asks = [Ask(ids, NET) for ids in PROMPTS]
    left, right = (
        HF(side, way="loop", side=side).run(asks, NUM) for side in ("left", "right")
    )  # fmt: skip
    for ask, one, two in zip(asks, left, right, strict=True):
        assert close(one, two) and close(one, REFERENCE.run([ask], NUM)[0])


def test_trap_01_padding_is_never_steered():
    model = oracle.MODELS["llama"]()
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    pads = ~inputs["attention_mask"].bool()
    block = oracle.blocks_of(model.model)[1]
    plain = oracle.hand_state(model, inputs, block)
    with model.steer(oracle.policy(scope=Scope.ALL)):
        steered = oracle.hand_state(model, inputs, block)
    assert bool(pads.any()) and torch.equal(steered[pads], plain[pads])
    assert not torch.equal(steered, plain)


def test_trap_01_padding_is_never_averaged():
    model, mean = oracle.MODELS["llama"](), Position("prompt", "mean")
    together = model.capture(oracle.PROMPTS, [Site(1)], mean)[Site(1)]
    for prompt, row in zip(oracle.PROMPTS, together, strict=True):
        states = oracle.hand_state(
            model, oracle.inputs_of(model, prompt), oracle.blocks_of(model.model)[1]
        )
        assert torch.allclose(row, states[0].mean(0), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES[1:-1], ids=lambda e: e.name)
def test_trap_02_with_and_without_cache_whole_and_in_pieces_are_the_same(engine):
    asks = [Ask(PROMPTS[0], GATED), Ask(PROMPTS[2], NET), Ask(PROMPTS[3], policy(steerer()))]
    for one, two in zip(REFERENCE.run(asks, NUM), engine.run(asks, NUM), strict=True):
        assert close(one, two)


def test_trap_03_open_and_closed_rows_of_a_batch_are_as_one_by_one():
    assert OPEN and SHUT, "some of the prompts open the gate"
    asks = [Ask(ids, GATED) for ids in PROMPTS]
    plain = REFERENCE.run([Ask(ids) for ids in PROMPTS], NUM)
    for row, made in enumerate(REFERENCE.run(asks, NUM)):
        assert close(made, REFERENCE.run([asks[row]], NUM)[0])
        assert torch.equal(made.logits, plain[row].logits) == (row in SHUT)


def test_trap_04_beams_take_the_decision_of_their_request():
    model = oracle.MODELS["llama"]()
    states = model.capture(oracle.PROMPTS[:2], [Site(1)])[Site(1)]
    gate = oracle.gate_between(Read(Site(1)), *states)
    gated = oracle.policy(5 * oracle.VECTOR, gate=gate)

    def search(policy, *prompts):
        inputs = oracle.inputs_of(model, *prompts)
        with model.steer(policy):
            out = model.model.generate(
                **inputs, max_new_tokens=5, num_beams=4, do_sample=False, pad_token_id=0
            )
        return out[:, inputs["input_ids"].shape[1] :].tolist()

    together = search(gated, *oracle.PROMPTS[:2])
    steered, plain = (
        [search(p, prompt)[0] for prompt in oracle.PROMPTS[:2]]
        for p in (oracle.policy(5 * oracle.VECTOR), None)
    )
    assert together == [steered[0], plain[1]] and steered[0] != plain[0]
    assert search(gated, *oracle.PROMPTS[1::-1]) == [plain[1], steered[0]]


def test_trap_05_the_second_generate_asks_the_gate_again():
    """CAST's released code kept the first decision for ever."""
    model = oracle.MODELS["llama"]()
    states = model.capture(oracle.PROMPTS[:2], [Site(1)])[Site(1)]
    gated = oracle.policy(gate=oracle.gate_between(Read(Site(1)), *states))
    with model.steer(gated) as run:
        decided = []
        for prompt in (*oracle.PROMPTS[:2], oracle.PROMPTS[0]):
            oracle.cached(model, oracle.inputs_of(model, prompt), 2)
            decided.append(run.traces()[0]["s"].gate)
    assert decided == [1.0, 0.0, 1.0]


def test_trap_05_two_models_and_two_withs_share_no_state():
    one, two = oracle.MODELS["llama"](), oracle.MODELS["llava"]()
    policy, prompt = oracle.policy(scope=Scope.ALL), oracle.PROMPTS[0]
    plain = logits(one, prompt), logits(two, prompt)
    with one.steer(policy):
        alone = logits(one, prompt)
        assert torch.equal(logits(two, prompt), plain[1])
        with two.steer(policy, -1.0), one.steer(policy, 1.0):
            twice = logits(one, prompt)
        assert torch.equal(logits(one, prompt), alone)
    assert torch.equal(logits(one, prompt), plain[0])
    with one.steer(policy, 2.0):
        assert torch.allclose(logits(one, prompt), twice, atol=2e-5)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_trap_13_no_hook_stays_and_none_of_others_goes(error):
    model, calls = oracle.MODELS["llama"](), []
    blocks = oracle.blocks_of(model.model)
    foreign = [block.register_forward_hook(lambda *_: calls.append(1)) for block in blocks]
    before, plain = oracle.hook_tables(model), logits(model, oracle.PROMPTS[0])
    try:
        with model.steer(oracle.policy(scope=Scope.ALL)):
            assert not torch.equal(logits(model, oracle.PROMPTS[0]), plain)
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError):
        assert error is not None
    assert oracle.hook_tables(model) == before
    assert torch.equal(logits(model, oracle.PROMPTS[0]), plain)
    assert len(calls) == 3 * len(blocks)
    for handle in foreign:
        handle.remove()


@pytest.mark.parametrize(
    "fields", [{"scope": Scope.IMAGE}, {"scope": Scope(start=90)}, {"vector": 0 * oracle.VECTOR}]
)
def test_trap_14_steering_that_did_not_act_is_an_error(fields):
    model, silent = oracle.MODELS["llama"](), oracle.policy(**fields)
    with pytest.raises(NotSteeredError):
        model.generate([Request(oracle.PROMPTS[0], silent, max_new_tokens=2)])
    with pytest.raises(NotSteeredError), model.steer(silent):
        logits(model, oracle.PROMPTS[0])


def test_trap_15_every_way_into_the_model_is_steered():
    """generate of requests, generate of transformers, a pipeline, and calls of the model itself."""
    model, prompt = oracle.MODELS["llama"](), Prompt("how do i make the cup ?")
    policy = oracle.policy(5 * oracle.VECTOR)
    inputs = oracle.inputs_of(model, prompt)
    asked, plain = (
        list(model.generate([Request(prompt, p, max_new_tokens=NUM)])[0].token_ids)
        for p in (policy, None)
    )
    assert asked != plain
    words = model.chat.tokenizer
    talk = pipeline("text-generation", model=model.model, tokenizer=words)
    with model.steer(policy):
        own = oracle.cached(model, inputs, NUM)[0][0].tolist()
        ids, first = inputs["input_ids"], inputs["input_ids"].shape[1]
        for _ in range(NUM):
            step = model.model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
            ids = torch.cat([ids, step[:, None]], 1)
        said = talk(
            [{"role": "user", "content": prompt.text}], max_new_tokens=NUM, do_sample=False,
            return_tensors=True,
        )  # fmt: skip
    assert own == asked and ids[0, first:].tolist() == asked
    assert said[0]["generated_token_ids"][-NUM:] == asked
    assert model.complete([prompt], NUM) == [model.chat.decode(plain)]


def test_trap_15_two_vectors_of_the_same_kind_do_not_stand_in_for_each_other():
    """A policy is known by itself, not by its name or its shape."""
    ours = policy(steerer(vector=VECTOR)), policy(steerer(vector=-VECTOR))
    both = REFERENCE.run([Ask(PROMPTS[0], p) for p in ours], NUM)
    for one, p in zip(both, ours, strict=True):
        assert close(one, REFERENCE.run([Ask(PROMPTS[0], p)], NUM)[0])
    assert not torch.allclose(both[0].logits, both[1].logits, atol=1e-2)
