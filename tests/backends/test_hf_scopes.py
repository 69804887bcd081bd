"""Which tokens change, and by how much: cached generation against one full pass by hand."""

import pytest
import torch

import oracle
from steersman.core.errors import NotSteeredError
from steersman.core.requests import Request
from steersman.core.types import Prompt, Scope

CASES = [(m, i) for m in oracle.MODELS for i in range(len(oracle.prompts_for(m)))]
each_case = pytest.mark.parametrize(("name", "index"), CASES)
each_scope = pytest.mark.parametrize("scope", oracle.SCOPES)
each_model = pytest.mark.parametrize("name", oracle.MODELS)


def close(a, b):
    return torch.allclose(a, b, atol=2e-5)


@each_case
@each_scope
def test_a_scope_changes_exactly_the_tokens_it_names(name, index, scope):
    model, prompt = oracle.MODELS[name](), oracle.prompts_for(name)[index]
    policy = oracle.policy(scope=oracle.scope_of(scope), strength=2.0)
    inputs = oracle.inputs_of(model, prompt)
    length = inputs["input_ids"].shape[1]
    if scope == "image" and not prompt.images:
        with pytest.raises(NotSteeredError, match="scope"):
            model.generate([Request(prompt, policy, max_new_tokens=4)])
        return
    with model.steer(policy, 0.5) as run:
        tokens, logits = oracle.cached(model, inputs)
    whole = oracle.extended(inputs, tokens[:, :-1])
    marked = oracle.marks(scope, whole["input_ids"][0].tolist(), length, oracle.IMAGE_ID.get(name))
    wanted = oracle.hand_logits(model, whole, marked)
    assert close(logits[0], wanted[0, length - 1 :])
    assert scope == "generated" or not close(
        logits[0, 0], oracle.plain_logits(model, inputs)[0, -1]
    )
    trace = run.traces()[0]["s"]
    assert (trace.tokens_in_scope, trace.tokens_written) == (sum(marked), sum(marked))
    assert (trace.gate, trace.strength, trace.reason) == (1.0, 1.0, "")

    made = model.generate([Request(prompt, policy, 0.5, max_new_tokens=4)])[0]
    assert list(made.token_ids) == tokens[0].tolist() and made.num_prompt_tokens == length
    assert made.trace["s"] == trace


@each_case
def test_the_trace_holds_the_mean_relative_length_of_the_edit(name, index):
    model, prompt = oracle.MODELS[name](), oracle.prompts_for(name)[index]
    inputs = oracle.inputs_of(model, prompt)
    h = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0]
    made = model.generate([Request(prompt, oracle.policy(scope=Scope.PROMPT), max_new_tokens=1)])
    wanted = float((oracle.VECTOR.norm() / h.norm(dim=-1)).mean())
    assert made[0].trace["s"].relative_norm == pytest.approx(wanted, rel=1e-4)


@each_model
def test_without_a_cache_the_answer_is_the_same(name):
    model = oracle.MODELS[name]()
    for scope in ("last", "last_and_generated", "prompt", "generated"):
        policy = oracle.policy(scope=oracle.scope_of(scope))
        inputs = oracle.inputs_of(model, *oracle.PROMPTS[:2])
        with model.steer(policy) as with_cache:
            tokens, logits = oracle.cached(model, inputs)
        with model.steer(policy) as without:
            again, slow = oracle.cached(model, inputs, use_cache=False)
        assert torch.equal(tokens, again) and close(logits, slow), scope
        first, second = with_cache.traces()[0]["s"], without.traces()[0]["s"]
        assert first.tokens_in_scope == second.tokens_in_scope


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scope", ["all", "last", "last_and_generated"])
def test_padding_on_either_side_gives_the_logits_of_each_prompt_alone(side, scope):
    model, policy = oracle.MODELS["llama"](), oracle.policy(scope=oracle.scope_of(scope))
    model.chat.tokenizer.padding_side = side
    texts = [model.chat.text(p) for p in oracle.PROMPTS]
    batch = dict(
        model.chat.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    )
    batch.pop("token_type_ids", None)
    assert not bool(batch["attention_mask"].all())
    with model.steer(policy):
        together = oracle.plain_logits(model, batch)
    for row, prompt in enumerate(oracle.PROMPTS):
        alone = oracle.inputs_of(model, prompt)
        with model.steer(policy):
            wanted = oracle.plain_logits(model, alone)[0]
        assert close(together[row][batch["attention_mask"][row].bool()], wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_written(side):
    model = oracle.MODELS["llama"]()
    block = oracle.blocks_of(model.model)[1]
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    if side == "right":
        inputs = {k: v.flip(1) for k, v in inputs.items()}
    plain = oracle.hand_state(model, inputs, block)
    with model.steer(oracle.policy(scope=Scope.ALL)):
        steered = oracle.hand_state(model, inputs, block)
    real = inputs["attention_mask"].bool()
    assert torch.equal(steered[~real], plain[~real])
    assert bool((steered[real] != plain[real]).any(-1).all())


def test_a_mask_given_by_position_is_seen():
    model = oracle.MODELS["llama"]()
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    with model.steer(oracle.policy(scope=Scope.ALL)), torch.no_grad():
        by_name = model.model(**inputs).logits
        by_position = model.model(inputs["input_ids"], inputs["attention_mask"]).logits
    assert torch.equal(by_name, by_position)


def test_tokens_behind_the_end_are_not_counted():
    model = oracle.MODELS["llama"]()
    request = [
        Request(p, oracle.policy(), max_new_tokens=6, temperature=1.0) for p in oracle.PROMPTS
    ]
    free = model.generate(request)
    assert [c.trace["s"].tokens_in_scope for c in free] == [6, 6, 6]
    settings, end = model.model.generation_config, free[0].token_ids[2]
    settings.eos_token_id = end
    try:
        ended = model.generate(request)
    finally:
        settings.eos_token_id = None
    for before, after in zip(free, ended, strict=True):
        n = (*before.token_ids, end).index(end) + 1
        assert after.token_ids == before.token_ids[:n]
        assert after.trace["s"].tokens_in_scope == min(n, 6)
    assert len({len(c.token_ids) for c in ended}) > 1, "the rows must end at different tokens"


def test_forced_tokens_are_generated_ones_and_reads_lie_before_them():
    """The prompt ends where the answer begins, whether or not the answer's beginning is forced."""
    model, prompt = oracle.MODELS["llama"](), Prompt(oracle.LONG, completion="yes , the")
    made = model.generate([Request(prompt, oracle.policy(scope=Scope.GENERATED), max_new_tokens=2)])
    assert made[0].trace["s"].tokens_in_scope == 3 + 1
    for flag in (True, False):
        read = oracle.Read(oracle.SITE, generation_prompt=flag)
        bare = Prompt(oracle.LONG, generation_prompt=flag)
        context = model.capture([bare], [oracle.SITE])[oracle.SITE]
        dynamic = oracle.net(read)
        fixed = oracle.policy(dynamic.synthesize(context)[0])
        first, second = (
            model.generate([Request(prompt, p, max_new_tokens=3)])[0]
            for p in (oracle.policy(synthesizer=dynamic), fixed)
        )
        norms = [c.trace["s"].relative_norm for c in (first, second)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
