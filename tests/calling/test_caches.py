"""Caches of every kind and none; prompts and answers that come in one pass or in several."""

from threading import Thread

import pytest
import torch
from transformers import DynamicCache, StaticCache

import oracle
from calling import byhand
from calling.byhand import NUM, OTHER, POLICY, PUSH
from steersman.core.errors import ModelError, NotSteeredError
from steersman.core.types import Read, Scope, Site

PROMPTS = oracle.PROMPTS
PAIR = PROMPTS[:2]


def model_and_inputs(*prompts):
    model = byhand.llama()
    return model, oracle.inputs_of(model, *(prompts or PAIR))


CACHES = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "quantized": {
        "cache_implementation": "quantized",
        "cache_config": {"backend": "quanto", "nbits": 4, "q_group_size": 8, "residual_length": 4},
    },
    "none": {"use_cache": False},
}


@pytest.mark.parametrize("scope", ["last_and_generated", "all", "generated"])
@pytest.mark.parametrize("settings", CACHES.values(), ids=CACHES)
def test_a_cache_of_transformers_own(settings, scope):
    model, inputs = model_and_inputs()
    policy = oracle.policy(PUSH, scope=oracle.scope_of(scope))
    with model.steer([policy, policy]) as run:
        made, logits = oracle.cached(model, inputs, NUM, **settings)
    exact = settings.get("cache_implementation") != "quantized"
    for row, prompt in enumerate(PAIR):
        alone = oracle.inputs_of(model, prompt)
        marks = lambda ids, n: oracle.marks(scope, ids, n, None)  # noqa: E731
        tokens, wanted = byhand.greedy(model, alone, marks=marks)
        assert not exact or made[row].tolist() == tokens
        if exact:
            assert byhand.close(logits[row], wanted)
        n = alone["input_ids"].shape[1]
        counted = sum(oracle.marks(scope, [9] * (n + NUM - 1), n, None))
        assert run.traces()[row]["s"].tokens_written == counted


def test_a_quantised_cache_gives_what_a_plain_hook_gives():
    model, inputs = model_and_inputs()
    settings = CACHES["quantized"]
    with byhand.pushed(model):
        wanted, logits = oracle.cached(model, inputs, NUM, **settings)
    with model.steer(POLICY):
        made, steered = oracle.cached(model, inputs, NUM, **settings)
    assert torch.equal(made, wanted) and byhand.close(steered, logits)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_cache_that_the_user_gives(kind):
    model, inputs = model_and_inputs()
    given = {"max_cache_len": 40} if kind is StaticCache else {}
    cache = kind(config=model.model.config, **given)
    with model.steer(POLICY):
        made, _ = oracle.cached(model, inputs, NUM, past_key_values=cache)
    for row, prompt in enumerate(PAIR):
        assert made[row].tolist() == byhand.greedy(model, oracle.inputs_of(model, prompt))[0]


def test_a_static_cache_is_used_again_after_it_was_reset():
    model = byhand.llama()
    cache = StaticCache(config=model.model.config, max_cache_len=40)
    inputs = [oracle.inputs_of(model, p) for p in (*PROMPTS, PROMPTS[0])]
    wanted = [byhand.greedy(model, i)[0] for i in inputs]
    with model.steer(POLICY) as run:
        for given, tokens in zip(inputs, wanted, strict=True):
            made, _ = oracle.cached(model, given, NUM, past_key_values=cache)
            assert made[0].tolist() == tokens
            assert run.traces()[0]["s"].tokens_written == NUM
            cache.reset()


def test_the_same_cache_with_another_policy_after_it_was_reset():
    model, inputs = model_and_inputs(PROMPTS[0])
    cache = StaticCache(config=model.model.config, max_cache_len=40)
    for vector in (PUSH, OTHER):
        with model.steer(oracle.policy(vector)):
            made, _ = oracle.cached(model, inputs, NUM, past_key_values=cache)
        assert made[0].tolist() == byhand.greedy(model, inputs, vector=vector)[0]
        cache.reset()


@torch.no_grad()
def step(model, cache, ids):
    return model.model(input_ids=ids, past_key_values=cache).logits[:, -1]


def test_two_talks_take_turns_with_a_cache_each():
    """Each has the decision of its own prompt, though the other ran in between."""
    model = byhand.llama()
    states = model.capture(PAIR, [oracle.SITE])[oracle.SITE]
    gate = oracle.gate_between(Read(oracle.SITE), states[0], states[1])
    caches = [DynamicCache(config=model.model.config) for _ in PAIR]
    inputs = [oracle.inputs_of(model, p) for p in PAIR]
    said, seen = [[], []], [[], []]
    with model.steer(oracle.policy(PUSH, gate=gate)):
        feed = [i["input_ids"] for i in inputs]
        for _ in range(NUM):
            for k in (0, 1):
                logits = step(model, caches[k], feed[k])
                seen[k].append(logits[0])
                feed[k] = logits.argmax(-1, keepdim=True)
                said[k].append(int(feed[k]))
    for k, vector in enumerate((PUSH, 0 * PUSH)):
        wanted = byhand.logits_of(model, inputs[k], said[k], vector=vector)
        assert byhand.close(torch.stack(seen[k]), wanted)


def test_a_second_generate_asks_the_gate_again():
    model = byhand.llama()
    states = model.capture(PAIR, [oracle.SITE])[oracle.SITE]
    gate = oracle.gate_between(Read(oracle.SITE), states[0], states[1])
    inputs = [oracle.inputs_of(model, p) for p in PAIR]
    wanted = [byhand.greedy(model, i, vector=(1 - k) * PUSH)[0] for k, i in enumerate(inputs)]
    with model.steer(oracle.policy(PUSH, gate=gate)):
        for row in (0, 1, 1, 0):
            made, _ = oracle.cached(model, inputs[row], NUM)
            assert made[0].tolist() == wanted[row]


def told(inputs):
    return inputs["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize("scope", ["last_and_generated", "last", "all", "generated"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_prompt_in_pieces_by_generate(size, scope):
    model, inputs = model_and_inputs()
    policy = oracle.policy(PUSH, scope=oracle.scope_of(scope))
    with model.steer(policy, prompt_tokens=told(inputs)) as run:
        made, logits = oracle.cached(model, inputs, NUM, prefill_chunk_size=size)
    marks = lambda ids, n: oracle.marks(scope, ids, n, None)  # noqa: E731
    for row, prompt in enumerate(PAIR):
        alone = oracle.inputs_of(model, prompt)
        tokens, wanted = byhand.greedy(model, alone, marks=marks)
        assert made[row].tolist() == tokens and byhand.close(logits[row], wanted)
        n = alone["input_ids"].shape[1]
        counted = sum(marks([9] * (n + NUM - 1), n))
        assert run.traces()[row]["s"].tokens_written == counted


def test_a_prompt_in_pieces_must_be_announced():
    model, inputs = model_and_inputs()
    with (
        pytest.raises(ModelError, match=r"comes in pieces, say .*prompt_tokens="),
        model.steer(POLICY),
    ):
        oracle.cached(model, inputs, NUM, prefill_chunk_size=4)


@pytest.mark.parametrize("sizes", [(7, 100), (1, 1, 1, 100), (2, 3, 100), (100,)])
def test_a_loop_by_hand_that_feeds_the_prompt_in_pieces(sizes):
    """The gate reads the prompt's last token, which comes in the last piece."""
    model = byhand.llama()
    states = model.capture(PAIR, [oracle.SITE])[oracle.SITE]
    gate = oracle.gate_between(Read(oracle.SITE), states[0], states[1])
    for prompt, vector in zip(PAIR, (PUSH, 0 * PUSH), strict=True):
        inputs = oracle.inputs_of(model, prompt)
        left, cache = inputs["input_ids"], DynamicCache(config=model.model.config)
        n = left.shape[1]
        said, seen = [], []
        with model.steer(oracle.policy(PUSH, gate=gate), prompt_tokens=n):
            for size in sizes:
                if left.shape[1]:
                    logits = step(model, cache, left[:, :size])
                left = left[:, size:]
            for _ in range(NUM):
                seen.append(logits[0])
                said.append(int(logits.argmax()))
                logits = step(model, cache, torch.tensor([[said[-1]]]))
        wanted = byhand.logits_of(model, inputs, said, vector=vector)
        assert byhand.close(torch.stack(seen), wanted)


def test_pieces_that_a_probe_would_have_to_see_whole_are_refused():
    model, inputs = model_and_inputs(PROMPTS[0])
    policy = oracle.policy(
        PUSH, scope=Scope.ALL, gate=oracle.gate_between(Read(oracle.SITE), PUSH, OTHER)
    )
    with (
        pytest.raises(ModelError, match="prompt comes in pieces .3 tokens first.*Give it whole"),
        model.steer(policy, prompt_tokens=told(inputs)),
    ):
        oracle.cached(model, inputs, NUM, prefill_chunk_size=3)


@pytest.mark.parametrize("scope", oracle.SCOPES[:5])
@pytest.mark.parametrize("use_cache", [True, False])
def test_an_answer_is_scored_in_one_pass(scope, use_cache):
    model = byhand.llama()
    answer = torch.tensor([[9, 12, 20, 11]])
    policy = oracle.policy(PUSH, scope=oracle.scope_of(scope))
    for prompt in PAIR:
        inputs = oracle.inputs_of(model, prompt)
        n = inputs["input_ids"].shape[1]
        whole = oracle.extended(inputs, answer)
        with model.steer(policy, prompt_tokens=n) as run, torch.no_grad():
            made = model.model(**whole, use_cache=use_cache).logits
        marked = oracle.marks(scope, whole["input_ids"][0].tolist(), n, None)
        assert byhand.close(made, oracle.hand_logits(model, whole, marked, PUSH))
        assert run.traces()[0]["s"].tokens_written == sum(marked)


def test_answers_of_a_batch_are_scored_with_padding_on_the_right():
    model, answer = byhand.llama(), torch.tensor([[9, 12, 20, 11]])
    inputs = [oracle.inputs_of(model, p) for p in PAIR]
    wholes = [oracle.extended(i, answer)["input_ids"][0] for i in inputs]
    width = max(len(w) for w in wholes)
    ids = torch.stack([torch.nn.functional.pad(w, (0, width - len(w))) for w in wholes])
    mask = torch.stack([torch.arange(width) < len(w) for w in wholes]).long()
    lengths = [i["input_ids"].shape[1] for i in inputs]
    with model.steer([POLICY, oracle.policy(OTHER)], prompt_tokens=lengths), torch.no_grad():
        made = model.model(input_ids=ids, attention_mask=mask).logits
    for row, vector in enumerate((PUSH, OTHER)):
        whole = oracle.extended(inputs[row], answer)
        marked = byhand.behind_prompt(wholes[row].tolist(), lengths[row])
        wanted = oracle.hand_logits(model, whole, marked, vector)[0]
        assert byhand.close(made[row, : len(wholes[row])], wanted)


def test_without_telling_a_scored_answer_counts_as_the_prompt():
    """Only its last token is then steered, as the docs say."""
    model, inputs = model_and_inputs(PROMPTS[0])
    whole = oracle.extended(inputs, torch.tensor([[9, 12, 20]]))
    with model.steer(POLICY) as run:
        oracle.plain_logits(model, whole)
    assert run.traces()[0]["s"].tokens_written == 1
    with pytest.raises(NotSteeredError), model.steer(oracle.policy(PUSH, scope=Scope.GENERATED)):
        oracle.plain_logits(model, oracle.extended(whole, torch.tensor([[9, 12]])))


def test_another_turn_in_the_same_cache_is_refused():
    model, inputs = model_and_inputs(PROMPTS[0])
    cache = DynamicCache(config=model.model.config)
    with pytest.raises(ModelError, match="begin it with an empty cache"), model.steer(POLICY):
        made, _ = oracle.cached(model, inputs, NUM, past_key_values=cache)
        longer = oracle.extended(inputs, torch.cat([made, torch.tensor([[9, 12, 20]])], 1))
        oracle.cached(model, longer, NUM, past_key_values=cache)


def test_a_cache_filled_outside_is_refused():
    model, inputs = model_and_inputs(PROMPTS[0])
    cache = DynamicCache(config=model.model.config)
    step(model, cache, inputs["input_ids"])
    with pytest.raises(ModelError, match="Steering began after"), model.steer(POLICY):
        step(model, cache, torch.tensor([[9]]))


def test_tokens_that_ran_outside_in_between_are_noticed():
    model, inputs = model_and_inputs(PROMPTS[0])
    cache = DynamicCache(config=model.model.config)
    more = torch.tensor([[9]])
    with pytest.raises(ModelError, match="inside the same `with`"), model.steer(POLICY):
        step(model, cache, inputs["input_ids"])
        beside = Thread(target=step, args=(model, cache, more))
        beside.start()
        beside.join()
        step(model, cache, more)


@pytest.mark.parametrize("site", [Site(0), Site(1, "attn_out"), Site(2, "head_in")], ids=str)
def test_every_point_in_generate(site):
    model, inputs = model_and_inputs()
    tap = model.blocks.tap(site)

    def last(h):
        return torch.cat([h[:, :-1], h[:, -1:] + PUSH], 1)

    with oracle.hand_hook(tap.module, last):
        wanted, logits = oracle.cached(model, inputs, NUM)
    with model.steer(oracle.policy(PUSH, site=site)):
        made, steered = oracle.cached(model, inputs, NUM)
    assert torch.equal(made, wanted) and byhand.close(steered, logits)
