"""Hooks come and go with the `with`; runs inside and beside each other; what is refused."""

from dataclasses import replace

import pytest
import torch

import oracle
import tiny
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError, NotSteeredError, RecipeError
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Read, Scope, Site
from steersman.operators.add import Add
from steersman.operators.clamp import Clamp


def logits(model, prompt=oracle.PROMPTS[0]):
    return oracle.plain_logits(model, oracle.inputs_of(model, prompt))


def test_hooks_are_gone_afterwards_and_the_model_is_as_before():
    model = oracle.MODELS["llama"]()
    before, plain = oracle.hook_tables(model), logits(model)
    with model.steer(oracle.policy()):
        assert len(oracle.hook_tables(model)) > len(before)
        assert not torch.equal(logits(model), plain)
    assert oracle.hook_tables(model) == before
    assert torch.equal(logits(model), plain)


def test_hooks_are_gone_after_an_exception_inside():
    model = oracle.MODELS["llama"]()
    before = oracle.hook_tables(model)
    with pytest.raises(ZeroDivisionError), model.steer(oracle.policy()):
        raise ZeroDivisionError
    assert oracle.hook_tables(model) == before


@pytest.mark.parametrize("scope", [Scope.LAST, Scope.ALL], ids=["one-pass", "probed"])
def test_hooks_are_gone_after_an_exception_in_a_part(monkeypatch, scope):
    model = oracle.MODELS["llama"]()
    before, plain = oracle.hook_tables(model), logits(model)
    policy = oracle.policy(synthesizer=oracle.net(Read(oracle.SITE)), scope=scope)

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Add, "__call__", broken)
    with pytest.raises(ZeroDivisionError):
        model.generate([Request(oracle.PROMPTS[0], policy)])
    monkeypatch.setattr(type(policy.steerers["s"].synthesizer), "synthesize", broken)
    with pytest.raises(ZeroDivisionError), model.steer(policy):
        logits(model)
    assert oracle.hook_tables(model) == before
    assert torch.equal(logits(model), plain)


def test_hooks_are_gone_when_a_site_cannot_be_hooked():
    model = oracle.MODELS["llama"]()
    before = oracle.hook_tables(model)
    blocks = model.blocks
    broken = HFModel(model.model, model.chat.processor)
    object.__setattr__(broken._edge.blocks, "final_norm", None)
    sites = [Site(0), Site(2, "head_in")]
    with pytest.raises(ModelError, match="head_in needs a norm"):
        broken.capture([oracle.PROMPTS[0]], sites)
    policy = oracle.policy(site=Site(2, "head_in"), gate=oracle.gate_between(
        Read(Site(0)), oracle.VECTOR, -oracle.VECTOR))  # fmt: skip
    with pytest.raises(ModelError, match="head_in needs a norm"), broken.steer(policy):
        pass
    assert oracle.hook_tables(model) == before and model.blocks is blocks


def test_foreign_hooks_stay_and_keep_working():
    model, calls = oracle.MODELS["llama"](), []
    block = oracle.blocks_of(model.model)[1]
    handles = [
        block.register_forward_hook(lambda *_: calls.append("after")),
        block.register_forward_pre_hook(lambda *_: calls.append("before")),
    ]
    before = oracle.hook_tables(model)
    with model.steer(oracle.policy()):
        logits(model)
    model.generate([Request(oracle.PROMPTS[0], oracle.policy(), max_new_tokens=1)])
    model.capture(oracle.PROMPTS, [Site(1)])
    assert oracle.hook_tables(model) == before
    assert calls == ["before", "after"] * 3
    for handle in handles:
        handle.remove()


def test_two_withs_inside_each_other_add_up():
    model, n = oracle.MODELS["llama"](), logits(oracle.MODELS["llama"]()).shape[1]
    other = -2.0 * oracle.VECTOR.flip(0)
    with model.steer(oracle.policy(scope=Scope.ALL)) as outer:
        once = logits(model)
        with model.steer(oracle.policy(other, scope=Scope.ALL)):
            twice = logits(model)
        assert outer.traces()[0]["s"].tokens_in_scope == n
        assert torch.equal(logits(model), once)
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    wanted = oracle.hand_logits(model, inputs, [True] * n, oracle.VECTOR + other)
    assert torch.allclose(twice, wanted, atol=2e-5)


def test_a_probe_inside_another_with_reads_the_model_untouched():
    """The outer policy neither writes in the inner one's probe, nor counts it."""
    model, read = oracle.MODELS["llama"](), Read(Site(2))
    inner = oracle.policy(site=Site(0), synthesizer=oracle.net(read), scope=Scope.ALL)
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    n = inputs["input_ids"].shape[1]
    context = model.capture([oracle.PROMPTS[0]], [Site(2)])[Site(2)]
    vector = oracle.net(read).synthesize(context)[0]
    outer_policy = oracle.policy(site=Site(0), scope=Scope.ALL)
    for first, second in ((outer_policy, inner), (inner, outer_policy)):
        with model.steer(first) as outer, model.steer(second) as run:
            made = oracle.plain_logits(model, inputs)
        wanted = oracle.hand_logits(model, inputs, [True] * n, vector + oracle.VECTOR, 0)
        assert torch.allclose(made, wanted, atol=2e-5)
        assert [r.traces()[0]["s"].tokens_in_scope for r in (outer, run)] == [n, n]


def test_requests_can_be_answered_inside_a_with():
    model, read = oracle.MODELS["llama"](), Read(Site(2))
    inner = oracle.policy(site=Site(0), synthesizer=oracle.net(read), scope=Scope.ALL)
    requests = [Request(p, inner, max_new_tokens=3) for p in oracle.PROMPTS]
    alone = model.generate(requests)
    with model.steer(oracle.policy(), 1e-6):
        inside = model.generate(requests)
    assert [c.token_ids for c in alone] == [c.token_ids for c in inside]


def test_two_models_beside_each_other_share_nothing():
    first, second = oracle.MODELS["llama"](), oracle.MODELS["llava"]()
    plain = logits(second)
    policy = oracle.policy()
    with first.steer(policy) as run, second.steer(policy, -1.0) as other:
        one, two = logits(first), logits(second)
        assert run.traces()[0]["s"].strength == 1.0
        assert other.traces()[0]["s"].strength == -1.0
    with first.steer(policy):
        assert torch.equal(logits(first), one)
    with second.steer(policy, -1.0):
        assert torch.equal(logits(second), two)
    assert torch.equal(logits(second), plain)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (oracle.policy(scope=Scope.IMAGE), "names none of the tokens"),
        (oracle.policy(scope=Scope(start=50)), "generate more tokens"),
        (oracle.policy(torch.zeros(tiny.WIDTH)), "changed none of 2 tokens"),
    ],
    ids=["image", "late", "zero"],
)
def test_steering_that_cannot_act_is_an_error(policy, message):
    model = oracle.MODELS["llama"]()
    with pytest.raises(NotSteeredError, match=message):
        model.generate([Request(oracle.PROMPTS[0], policy, max_new_tokens=2)])
    with pytest.raises(NotSteeredError), model.steer(policy):
        logits(model)
    with model.steer(policy):
        pass  # nothing ran, so nothing is missing


def test_a_vector_too_small_for_the_number_type_is_an_error():
    model = tiny.llama(seed=12)
    model = HFModel(model.model.to(torch.bfloat16), model.chat.processor)
    with pytest.raises(NotSteeredError, match="too small for the model's number type"):
        model.generate([Request(oracle.PROMPTS[0], oracle.policy(1e-12 * oracle.VECTOR))])


def test_a_state_that_needs_no_change_is_no_error():
    """A clamp leaves what lies in its interval alone: that is steering at work."""
    model, request = oracle.MODELS["llama"](), Request(oracle.PROMPTS[0], max_new_tokens=2)
    steerer = oracle.policy().steerers["s"]

    def asked(low, high):
        clamped = replace(steerer, operator=Clamp(low=low, high=high))
        return model.generate([replace(request, policy=Policy(steerers={"s": clamped}))])[0]

    plain, inside = model.generate([request])[0], asked(-1e4, 1e4)
    assert inside.token_ids == plain.token_ids
    assert inside.trace["s"].tokens_written == 0 and "no change" in inside.trace["s"].reason
    assert asked(5.0, 6.0).trace["s"].tokens_written == 2


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), []])
def test_a_strength_that_is_no_number_is_refused(strength):
    with (
        pytest.raises(RecipeError, match="strength"),
        oracle.MODELS["llama"]().steer(oracle.policy(), strength),
    ):
        pass


def test_rows_and_strengths_must_agree():
    model = oracle.MODELS["llama"]()
    with (
        pytest.raises(RecipeError, match="3 rows came, but steering was set up for 2"),
        model.steer(oracle.policy(), [1.0, 2.0]),
    ):
        oracle.plain_logits(model, oracle.inputs_of(model, *oracle.PROMPTS))
    with (
        pytest.raises(RecipeError, match="2 strengths, 3 rows of vectors"),
        model.steer(oracle.policy(), [1.0, 2.0], vectors=[{}, {}, {}]),
    ):
        pass


@pytest.mark.parametrize("site", [Site(3), Site(-1), Site(0, "head_in")], ids=str)
def test_sites_that_the_model_lacks_are_refused_at_once(site):
    model, message = oracle.MODELS["llama"](), "Choose a layer below 3|Write layer 2"
    for policy in (
        oracle.policy(site=site),
        oracle.policy(synthesizer=oracle.net(Read(site))),
    ):
        with pytest.raises(RecipeError, match=message):
            model.generate([Request(oracle.PROMPTS[0], policy)])
        with pytest.raises(RecipeError, match=message), model.steer(policy, 0.0):
            pass
    with pytest.raises(RecipeError, match=message):
        model.capture(oracle.PROMPTS, [site])


def test_an_image_for_a_model_that_reads_text_is_refused():
    prompt = Prompt("a", images=(tiny.picture(),))
    with pytest.raises(RecipeError, match="this model reads text only"):
        oracle.MODELS["llama"]().generate([Request(prompt)])


def test_steering_that_begins_in_the_middle_of_a_sequence_is_refused():
    model = oracle.MODELS["llama"]()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    with torch.no_grad():
        cache = model.model(**inputs).past_key_values
        more = torch.tensor([[9]])
        with pytest.raises(ModelError, match="empty cache"), model.steer(oracle.policy()):
            model.model(input_ids=more, past_key_values=cache)


def test_a_mask_of_another_shape_is_refused():
    model = oracle.MODELS["llama"]()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    n = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.zeros(1, n, n)
    with pytest.raises(ModelError, match="two-dimensional mask"), model.steer(oracle.policy()):
        oracle.plain_logits(model, inputs)


def test_the_decoder_alone_cannot_be_steered():
    model = oracle.MODELS["llama"]()
    with pytest.raises(ModelError, match="Call the model itself"), model.steer(oracle.policy()):
        model.model.model(**oracle.inputs_of(model, oracle.PROMPTS[0]))


@pytest.mark.parametrize("point", ["resid_pre", "attn_out", "mlp_out", "resid_post", "head_in"])
def test_every_point_can_be_written(point):
    """A vector added to what a half of the block adds comes out of the block as well."""
    model, site = oracle.MODELS["llama"](), Site(2, point)
    block = oracle.blocks_of(model.model)[2]
    module = {
        "resid_pre": oracle.blocks_of(model.model)[1],
        "attn_out": block.self_attn,
        "mlp_out": block.mlp,
        "resid_post": block,
        "head_in": model.model.model.norm,
    }
    with model.steer(oracle.policy(site=site, scope=Scope.ALL)):
        made = logits(model)
    with oracle.hand_hook(module[point], lambda h: h + oracle.VECTOR):
        wanted = logits(model)
    assert torch.allclose(made, wanted, atol=1e-5)
    assert not torch.allclose(made, logits(model), atol=1e-2)
