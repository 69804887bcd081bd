"""Rows that are steered differently in one batch; beams, sampling and streaming."""

from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer

import oracle
from steersman.core.errors import RecipeError
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Read, Scope
from steersman.synthesizers.given import GivenVector

each_model = pytest.mark.parametrize("name", oracle.MODELS)
OTHER = oracle.policy(-0.5 * oracle.VECTOR.flip(0), oracle.Site(0), scope=Scope.ALL, cap=2.0)
NET = oracle.policy(synthesizer=oracle.net(Read(oracle.SITE)), scope=Scope.PROMPT)


def mixed(name: str) -> list[Request]:
    """Every prompt of a model under another policy and strength."""
    kinds = [(oracle.policy(), 1.0), (None, 1.0), (OTHER, 0.7), (NET, -1.5), (OTHER, 0.0)]
    prompts = oracle.prompts_for(name) * 2
    return [Request(p, *kinds[i % len(kinds)], max_new_tokens=3) for i, p in enumerate(prompts)]


def assert_same(first, second):
    assert first.token_ids == second.token_ids
    assert first.trace.keys() == second.trace.keys()
    for name, a in first.trace.items():
        b = second.trace[name]
        assert (a.tokens_in_scope, a.tokens_written) == (b.tokens_in_scope, b.tokens_written)
        assert a.relative_norm == pytest.approx(b.relative_norm, rel=1e-3)


@each_model
def test_each_request_is_as_if_it_were_alone_in_any_order(name):
    model, requests = oracle.MODELS[name](), mixed(name)
    together = model.generate(requests)
    assert [bool(c.trace) for c in together] == [
        bool(r.policy is not None and r.strength) for r in requests
    ]
    for request, completion in zip(requests, together, strict=True):
        assert_same(model.generate([request])[0], completion)
    order = torch.randperm(len(requests), generator=torch.Generator().manual_seed(1)).tolist()
    permuted = model.generate([requests[i] for i in order])
    for place, i in enumerate(order):
        assert_same(permuted[place], together[i])


@each_model
def test_steered_rows_have_the_logits_of_the_row_alone(name):
    model, strengths = oracle.MODELS[name](), [1.0, 0.0, -2.0]
    policy = oracle.policy(scope=Scope.ALL)
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    with model.steer(policy, strengths):
        together = oracle.plain_logits(model, inputs)
    for row, (prompt, strength) in enumerate(zip(oracle.PROMPTS, strengths, strict=True)):
        with model.steer(policy, strength):
            alone = oracle.plain_logits(model, oracle.inputs_of(model, prompt))
        assert torch.allclose(together[row, -alone.shape[1] :], alone[0], atol=2e-5)
    plain = oracle.plain_logits(model, inputs)
    assert torch.equal(together[1], plain[1]), "a row that is not steered changes in no bit"
    assert not torch.allclose(together[0, -1], plain[0, -1], atol=1e-2)


@each_model
def test_strength_zero_changes_no_bit_and_hooks_nothing(name):
    model = oracle.MODELS[name]()
    for prompt in oracle.prompts_for(name):
        inputs = oracle.inputs_of(model, prompt)
        before = oracle.hook_tables(model)
        plain = oracle.cached(model, inputs)
        with model.steer(oracle.policy(scope=Scope.ALL), 0.0) as run:
            assert oracle.hook_tables(model) == before
            still = oracle.cached(model, inputs)
        assert run.traces() == [{}]
        assert all(torch.equal(a, b) for a, b in zip(plain, still, strict=True))


def split_gate(model, read):
    """A gate that is open for the first prompt and closed for the second."""
    states = model.capture(oracle.PROMPTS[:2], [read.site])[read.site]
    return oracle.gate_between(read, states[0], states[1])


def test_beams_share_the_decision_of_their_request():
    model = oracle.MODELS["llama"]()
    gated = oracle.policy(gate=split_gate(model, Read(oracle.SITE)), strength=3.0)
    settings = {"num_beams": 4, "length_penalty": 0.0, "output_scores": True}

    def search(*prompts, policy=gated, strength=1.0):
        inputs = oracle.inputs_of(model, *prompts)
        with model.steer(policy, strength) as run, torch.no_grad():
            out = model.model.generate(
                **inputs, max_new_tokens=4, pad_token_id=0, return_dict_in_generate=True, **settings
            )
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        return inputs, new, out.sequences_scores, run.traces()

    ungated = oracle.policy(strength=3.0)
    for policy, strengths in ((ungated, [1.0, 0.0]), (gated, 1.0), (gated, [1.0, 1.0])):
        _, new, scores, traces = search(*oracle.PROMPTS[:2], policy=policy, strength=strengths)
        for row, steered in enumerate((True, False)):
            alone, *_ = search(oracle.PROMPTS[row])
            n = alone["input_ids"].shape[1]
            whole = oracle.extended(alone, new[row : row + 1, :-1])
            marked = [steered and i >= n - 1 for i in range(whole["input_ids"].shape[1])]
            by_hand = oracle.hand_logits(model, whole, marked, 3.0 * oracle.VECTOR)[0, n - 1 :]
            chosen = by_hand.log_softmax(-1).gather(1, new[row][:, None]).sum()
            assert float(chosen) == pytest.approx(float(scores[row]), abs=1e-3)
    assert [t["s"].reason for t in traces] == ["", "the gate was closed"]
    assert [t["s"].tokens_in_scope for t in traces] == [4, 4]


def test_the_gate_is_asked_again_for_every_generate():
    """CAST's released code kept the first decision for ever."""
    model = oracle.MODELS["llama"]()
    policy = oracle.policy(gate=split_gate(model, Read(oracle.SITE)))
    seen = []
    with model.steer(policy) as run:
        for prompt in (*oracle.PROMPTS[:2], oracle.PROMPTS[0]):
            oracle.cached(model, oracle.inputs_of(model, prompt), num=3)
            trace = run.traces()[0]["s"]
            seen.append((trace.tokens_written, trace.tokens_in_scope, trace.reason))
    assert seen == [(3, 3, ""), (0, 3, "the gate was closed"), (3, 3, "")]


def test_batches_of_other_sizes_can_follow_each_other_in_one_with():
    model = oracle.MODELS["llama"]()
    with model.steer(oracle.policy()) as run:
        for size in (3, 1, 2):
            _, together = oracle.cached(model, oracle.inputs_of(model, *oracle.PROMPTS[:size]))
            assert run.traces()[0]["s"].tokens_in_scope == 4
    with model.steer(oracle.policy()):
        _, again = oracle.cached(model, oracle.inputs_of(model, *oracle.PROMPTS[:2]))
    assert torch.equal(together, again)


def test_sampling_with_the_same_seed_repeats_and_leaves_the_callers_randomness():
    model = oracle.MODELS["llama"]()

    def sample(seed, prompt=oracle.PROMPTS[0]):
        request = Request(
            prompt, oracle.policy(), max_new_tokens=12, temperature=1.5, top_p=0.95, seed=seed
        )
        return model.generate([request])[0].token_ids

    state = torch.get_rng_state()
    first = sample(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_sampling_cuts_no_tokens_off_by_default(monkeypatch):
    """transformers keeps the 50 most probable tokens unless told otherwise; a request did not."""
    model, seen = oracle.MODELS["llama"](), {}
    whole = model.model.generate
    monkeypatch.setattr(model.model, "generate", lambda **k: seen.update(k) or whole(**k))
    model.generate([Request(oracle.PROMPTS[0], temperature=1.0, max_new_tokens=1)])
    assert seen["top_k"] == 0 and seen["do_sample"]


def test_streaming_gives_the_same_text():
    model = oracle.MODELS["llama"]()
    prompt, tokenizer = oracle.PROMPTS[0], model.chat.tokenizer
    inputs = oracle.inputs_of(model, prompt)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with model.steer(oracle.policy(), threads="all"):
        settings = dict(inputs, max_new_tokens=5, streamer=streamer, do_sample=False)
        thread = Thread(target=model.model.generate, kwargs=dict(settings, pad_token_id=0))
        thread.start()
        pieces = list(streamer)
        thread.join()
    made = model.generate([Request(prompt, oracle.policy(), max_new_tokens=5)])[0]
    assert "".join(pieces).strip() == made.text


def test_every_request_may_bring_its_own_vector():
    model = oracle.MODELS["llama"]()
    policy = oracle.policy(synthesizer=GivenVector())
    vectors = [oracle.VECTOR, -2 * oracle.VECTOR, torch.zeros(oracle.tiny.WIDTH)]
    requests = [
        Request(p, policy, vectors={"s": v}, max_new_tokens=3)
        for p, v in zip(oracle.PROMPTS, vectors, strict=True)
    ]
    made = model.generate(requests)
    for completion, prompt, vector in zip(made, oracle.PROMPTS, vectors, strict=True):
        if bool(vector.any()):
            fixed = model.generate([Request(prompt, oracle.policy(vector), max_new_tokens=3)])[0]
            assert_same(completion, fixed)
        else:
            assert completion.trace["s"].reason == "the vector is zero"
    with model.steer(policy, [1.0, 1.0], vectors=[{"s": vectors[0]}, {"s": vectors[1]}]) as run:
        oracle.plain_logits(model, oracle.inputs_of(model, *oracle.PROMPTS[:2]))
    assert run.traces()[1]["s"].relative_norm > run.traces()[0]["s"].relative_norm


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "needs Request.vectors"),
        ({"s": torch.zeros(3)}, r"shape \(3,\); \(32,\) is needed"),
        ({"s": oracle.VECTOR, "t": oracle.VECTOR}, "brings vectors for t"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vectors, message):
    policy = oracle.policy(synthesizer=GivenVector())
    with pytest.raises(RecipeError, match=message):
        oracle.MODELS["llama"]().generate([Request(oracle.PROMPTS[0], policy, vectors=vectors)])


def test_vectors_for_a_policy_that_takes_none_are_refused():
    with pytest.raises(RecipeError, match="that take vectors are: none"):
        oracle.MODELS["llama"]().generate(
            [Request(oracle.PROMPTS[0], oracle.policy(), vectors={"s": oracle.VECTOR})]
        )


def test_several_steerers_each_have_a_trace_and_a_shared_cap():
    model, one = oracle.MODELS["llama"](), oracle.policy().steerers["s"]
    two = oracle.policy(-0.5 * oracle.VECTOR, scope=Scope.ALL).steerers["s"]
    both = Policy(steerers={"one": one, "two": two}, max_relative_norm=0.25)
    trace = model.generate([Request(Prompt("a"), both, max_new_tokens=4)])[0].trace
    assert {n: t.tokens_written for n, t in trace.items()} == {"one": 4, "two": 10}
    inputs = oracle.inputs_of(model, Prompt("a"))
    block = oracle.blocks_of(model.model)[1]
    before = oracle.hand_state(model, inputs, block)[0, -1]
    with model.steer(both):
        after = oracle.hand_state(model, inputs, block)[0, -1]
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.25, rel=1e-4)
