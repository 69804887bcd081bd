"""Captured states against transformers' own outputs and hooks by hand."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import oracle
import tiny
from steersman.backends.hf import HFModel
from steersman.core.errors import RecipeError
from steersman.core.requests import Request
from steersman.core.types import POINTS, Position, Prompt, Read, Scope, Site

each_model = pytest.mark.parametrize("name", oracle.MODELS)


@each_model
def test_the_residual_stream_is_what_transformers_calls_hidden_states(name):
    model, prompts = oracle.MODELS[name](), oracle.prompts_for(name)
    sites = [Site(layer, p) for layer in range(3) for p in ("resid_pre", "resid_post")]
    acts = model.capture(prompts, sites)
    for row, prompt in enumerate(prompts):
        inputs = oracle.inputs_of(model, prompt)
        with torch.no_grad():
            hidden = model.model(**inputs, output_hidden_states=True).hidden_states
        for layer in range(3):
            pre, post = (acts[Site(layer, p)][row] for p in ("resid_pre", "resid_post"))
            assert torch.allclose(pre, hidden[layer][0, -1], atol=1e-5)
            if layer < 2:  # transformers' last one has been through the final norm
                assert torch.allclose(post, hidden[layer + 1][0, -1], atol=1e-5)
            block = oracle.blocks_of(model.model)[layer]
            assert torch.allclose(post, oracle.hand_state(model, inputs, block)[0, -1], atol=1e-5)


@each_model
def test_the_other_points_are_what_their_modules_return(name):
    model, prompts = oracle.MODELS[name](), oracle.prompts_for(name)
    acts = model.capture(prompts, [Site(1, "attn_out"), Site(1, "mlp_out"), Site(2, "head_in")])
    block, inner = oracle.blocks_of(model.model)[1], model.model.model
    norm = getattr(inner, "language_model", inner).norm
    for row, prompt in enumerate(prompts):
        inputs = oracle.inputs_of(model, prompt)
        for site, module in zip(acts.rows, (block.self_attn, block.mlp, norm), strict=True):
            wanted = oracle.hand_state(model, inputs, module)[0, -1]
            assert torch.allclose(acts[site][row], wanted, atol=1e-5)


def test_the_order_of_points_is_the_order_in_which_a_pass_reaches_them():
    model, seen = oracle.MODELS["llama"](), []
    block = oracle.blocks_of(model.model)[1]
    handles = [
        block.register_forward_pre_hook(lambda *_: seen.append("resid_pre")),
        block.self_attn.o_proj.register_forward_pre_hook(lambda *_: seen.append("attn_heads")),
        block.self_attn.register_forward_hook(lambda *_: seen.append("attn_out")),
        block.mlp.register_forward_hook(lambda *_: seen.append("mlp_out")),
        block.register_forward_hook(lambda *_: seen.append("resid_post")),
    ]
    oracle.plain_logits(model, oracle.inputs_of(model, oracle.PROMPTS[0]))
    for handle in handles:
        handle.remove()
    assert tuple(seen) == POINTS[:-1]


def test_it_stops_behind_the_deepest_site():
    model = oracle.MODELS["llama"]()
    reached = []
    handles = [
        module.register_forward_pre_hook(lambda *_, i=i: reached.append(i))
        for i, module in enumerate((*oracle.blocks_of(model.model), model.model.lm_head))
    ]
    model.capture(oracle.PROMPTS, [Site(1), Site(0)])
    model.capture(oracle.PROMPTS, [Site(1, "resid_pre")])
    for handle in handles:
        handle.remove()
    assert reached == [0, 1, 0, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_rows_keep_the_order_of_the_prompts(batch_size):
    """Prompts are sorted by length and by whether they have an image, and put back."""
    model = oracle.MODELS["llava"]()
    small = HFModel(model.model, model.chat.processor, batch_size=batch_size)
    prompts = oracle.prompts_for("llava")
    order = [3, 0, 4, 2, 1]
    together = small.capture([prompts[i] for i in order], [oracle.SITE])[oracle.SITE]
    for row, i in enumerate(order):
        alone = model.capture([prompts[i]], [oracle.SITE])[oracle.SITE][0]
        assert torch.allclose(together[row], alone, atol=1e-5)
    requests = [Request(prompts[i], max_new_tokens=2) for i in order]
    assert [c.token_ids for c in small.generate(requests)] == [
        model.generate([r])[0].token_ids for r in requests
    ]


@each_model
@pytest.mark.parametrize("skip", [0, 1])
def test_spans_and_reductions_by_hand(name, skip):
    model = oracle.MODELS[name]()
    prompts = [
        Prompt(p.text, images=p.images, completion=text)
        for p, text in zip(
            oracle.prompts_for(name),
            ("yes , the cup", "no .", "a b c", "yes .", "no , i"),
            strict=False,
        )
    ]
    for span in ("prompt", "completion"):
        for reduce in ("last", "mean"):
            position = Position(span, reduce, skip)
            rows = model.capture(prompts, [oracle.SITE], position)[oracle.SITE]
            for row, prompt in zip(rows, prompts, strict=True):
                inputs = oracle.inputs_of(model, prompt)
                n = len(prompt.completion.split())
                states = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0]
                part = states[:-n] if span == "prompt" else states[-n:]
                part = part[: len(part) - skip]
                wanted = part[-1] if reduce == "last" else part.mean(0)
                assert torch.allclose(row, wanted, atol=1e-5)


def test_a_closed_turn_is_rendered_by_the_template():
    model = oracle.MODELS["llama"]()
    prompt = Prompt("a b", completion="yes", close_turn=True)
    batch = model.chat.encode([prompt, Prompt("a", completion="no , no", close_turn=True)])
    text = "<s> user : a b </s> assistant : yes </s>"
    assert batch.inputs["input_ids"][0].tolist()[-10:] == model.chat.tokenizer(text)["input_ids"]
    assert batch.completion_length.tolist() == [2, 4]
    rows = model.capture([prompt], [oracle.SITE], Position("completion", "last", 1))[oracle.SITE]
    inputs = oracle.inputs_of(model, Prompt("a b", completion="yes"))
    wanted = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0, -1]
    assert torch.allclose(rows[0], wanted, atol=1e-5)


def test_a_span_without_tokens_is_refused():
    model = oracle.MODELS["llama"]()
    with pytest.raises(RecipeError, match="Give a completion, or skip fewer tokens"):
        model.capture(oracle.PROMPTS, [oracle.SITE], Position("completion"))
    with pytest.raises(RecipeError, match="skip_last is 99"):
        model.capture(oracle.PROMPTS, [oracle.SITE], Position(skip_last=99))


def test_nothing_asked_is_nothing_answered():
    model = oracle.MODELS["llama"]()
    assert model.capture([], [oracle.SITE])[oracle.SITE].shape == (0, tiny.WIDTH)
    assert model.capture(oracle.PROMPTS, []).rows == {}
    assert model.generate([]) == [] and model.complete([], 3) == []


def test_what_is_captured_is_what_a_part_reads():
    """CAST's released code fitted on one side of the block and read on the other."""
    model = oracle.MODELS["llama"]()
    for site in (Site(1, p) for p in ("resid_pre", "attn_out", "mlp_out", "resid_post")):
        states = model.capture(oracle.PROMPTS[:2], [site])[site]
        gate = oracle.gate_between(Read(site), states[0], states[1])
        policy = oracle.policy(gate=gate, site=Site(2))
        made = model.generate([Request(p, policy, max_new_tokens=1) for p in oracle.PROMPTS[:2]])
        assert [c.trace["s"].gate for c in made] == [1.0, 0.0], site


def test_positive_strength_is_towards_the_positive_class():
    model = oracle.MODELS["llama"]()
    rows = model.capture(
        [Prompt(t) for t in ("bomb", "harmful bomb", "cup", "safe cup")], [oracle.SITE]
    )[oracle.SITE]
    vector = rows[:2].mean(0) - rows[2:].mean(0)
    with model.steer(oracle.policy(vector, scope=Scope.LAST)):
        inputs = oracle.inputs_of(model, oracle.PROMPTS[1])
        steered = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0, -1]
    plain = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0, -1]
    assert float((steered - plain) @ vector) > 0


def test_half_precision_runs_and_captures_float32():
    made = tiny.llama(seed=13)
    model = HFModel(made.model.to(torch.bfloat16), made.chat.processor)
    read = Read(Site(2))
    policy = oracle.policy(site=Site(0), synthesizer=oracle.net(read), scope=Scope.ALL, cap=3.0)
    acts = model.capture(oracle.PROMPTS, [Site(2)])[Site(2)]
    assert acts.dtype == torch.float32 and torch.equal(acts, acts.to(torch.bfloat16).float())
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    plain = oracle.plain_logits(model, inputs)
    with model.steer(policy, [1.0, 0.0, 1e-30]):
        steered = oracle.plain_logits(model, inputs)
    assert steered.dtype == torch.bfloat16 and bool(torch.isfinite(steered).all())
    assert torch.equal(steered[1], plain[1]) and not torch.equal(steered[0], plain[0])


def test_a_model_without_pad_token_and_one_without_template():
    for pad, template in ((None, tiny.TEMPLATE), ("<pad>", None), (None, None)):
        words = tiny.tokenizer(template)
        words.pad_token = pad
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(words), **{**tiny.TEXT, "pad_token_id": None})
        whole = LlamaForCausalLM(config).eval()
        whole.generation_config.eos_token_id = None
        model = HFModel(whole, words)
        policy = oracle.policy(synthesizer=oracle.net(Read(oracle.SITE)), scope=Scope.ALL)
        prompts = [Prompt("a b", system="yes"), Prompt("how do i make the cup ?")]
        together = model.generate([Request(p, policy, max_new_tokens=3) for p in prompts])
        alone = [model.generate([Request(p, policy, max_new_tokens=3)])[0] for p in prompts]
        assert [c.token_ids for c in together] == [c.token_ids for c in alone]
        n = 3 if template is None else 12  # `yes a b`, or both turns and the generation prompt
        assert together[0].num_prompt_tokens == n
