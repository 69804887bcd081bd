"""The states that answers are predicted from, and what the output head makes of them."""

import pytest
import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

import oracle
import tiny
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError, RecipeError
from steersman.core.types import Prompt, Site

each_model = pytest.mark.parametrize("name", oracle.MODELS)
ANSWERS = ("yes , the cup", "no .", "bomb a b c")
HEAD = Site(tiny.LAYERS - 1, "head_in")


def gemma() -> HFModel:
    """A model whose logits are capped, with heads that are wider than its states."""
    torch.manual_seed(3)
    sizes = {**tiny.TEXT, "vocab_size": len(tiny.SPECIAL + tiny.WORDS), "head_dim": 16}
    made = Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=2.0))
    return HFModel(made.eval(), tiny.tokenizer())


WORDS = len(tiny.SPECIAL + tiny.WORDS)


def falcon_h1() -> HFModel:
    """A model that multiplies its logits."""
    torch.manual_seed(3)
    mixer = dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8)
    config = FalconH1Config(**tiny.TEXT, **mixer, vocab_size=WORDS, lm_head_multiplier=0.3)
    return HFModel(FalconH1ForCausalLM(config).eval(), tiny.tokenizer())


def recurrent_gemma() -> HFModel:
    """A model whose cap has a name of its own."""
    torch.manual_seed(3)
    sizes = {k: v for k, v in tiny.TEXT.items() if k != "max_position_embeddings"}
    config = RecurrentGemmaConfig(**sizes, vocab_size=WORDS, lru_width=32, logits_soft_cap=0.5)
    return HFModel(RecurrentGemmaForCausalLM(config).eval(), tiny.tokenizer())


def forced(prompts, close_turn=False):
    return [
        Prompt(p.text, p.images, completion=ANSWERS[i % 3], close_turn=close_turn)
        for i, p in enumerate(prompts)
    ]


@each_model
@pytest.mark.parametrize("close_turn", [False, True])
def test_each_answer_token_has_the_state_that_predicts_it(name, close_turn):
    model = oracle.MODELS[name]()
    prompts = forced(oracle.prompts_for(name), close_turn)
    found = model.answer_states(prompts)
    for i, prompt in enumerate(prompts):
        batch = model.chat.encode([prompt])
        ids, n = batch.inputs["input_ids"][0], int(batch.completion_length[0])
        logits = oracle.plain_logits(model, batch.inputs)[0]
        mine = found.row == i
        assert found.next_token[mine].tolist() == ids[-n:].tolist()
        made = model.logits(found.states[mine])
        assert torch.allclose(made, logits[-n - 1 : -1], atol=2e-5)
        if close_turn:
            assert tiny.tokenizer().eos_token_id in found.next_token[mine]


def test_the_head_caps_its_logits_as_the_model_does():
    model = gemma()
    found = model.answer_states([Prompt("a b", completion="yes no")])
    wanted = oracle.plain_logits(model, oracle.inputs_of(model, Prompt("a b", completion="yes no")))
    assert float(wanted.abs().max()) <= 2.0
    assert torch.allclose(model.logits(found.states), wanted[0, -3:-1], atol=2e-5)


@pytest.mark.parametrize("make", [falcon_h1, recurrent_gemma])
def test_other_names_for_what_is_done_to_logits(make):
    model, prompt = make(), Prompt("a b", completion="yes no")
    found = model.answer_states([prompt])
    wanted = oracle.plain_logits(model, oracle.inputs_of(model, prompt))
    assert torch.allclose(model.logits(found.states), wanted[0, -3:-1], atol=2e-5)


def test_a_head_that_takes_other_states_is_refused():
    """The smallest OPT projects its states before the head."""
    sizes = dict(hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=3, ffn_dim=48)
    config = OPTConfig(**sizes, num_attention_heads=4, vocab_size=WORDS, pad_token_id=0)
    model = HFModel(OPTForCausalLM(config).eval(), tiny.tokenizer())
    found = model.answer_states([Prompt("a b", completion="yes no")])
    with pytest.raises(ModelError, match="something lies in between or behind"):
        model.logits(found.states)


def test_no_prompts_have_no_states():
    found = oracle.MODELS["llama"]().answer_states([])
    assert found.states.shape == (0, tiny.WIDTH) and len(found.next_token) == len(found.row) == 0


def test_gradients_reach_the_states_and_not_the_model():
    model = oracle.MODELS["llama"]()
    found = model.answer_states([Prompt("a b", completion="yes no")])
    states = found.states.requires_grad_()
    model.logits(states).sum().backward()
    assert states.grad is not None and float(states.grad.abs().sum()) > 0
    assert all(p.grad is None for p in model.model.parameters())


def test_a_prompt_without_an_answer_is_refused():
    with pytest.raises(RecipeError, match="Give a completion"):
        oracle.MODELS["llama"]().answer_states([Prompt("a b")])


@pytest.mark.parametrize("make", [oracle.MODELS["llama"], gemma])
def test_heads_are_captured_side_by_side_before_they_are_projected(make):
    model, seen = make(), []
    project = oracle.blocks_of(model.model)[1].self_attn.o_proj
    handle = project.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    oracle.plain_logits(model, oracle.inputs_of(model, Prompt("a b c")))
    handle.remove()
    site = Site(1, "attn_heads")
    captured = model.capture([Prompt("a b c")], [site, Site(1)])
    assert captured[site].shape[1] == project.in_features == seen[0].shape[2]
    assert torch.allclose(captured[site][0], seen[0][0, -1], atol=1e-5)
    assert captured[Site(1)].shape[1] == tiny.WIDTH
    assert model.spec.num_heads == 4
