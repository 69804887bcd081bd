"""The language model's blocks are found by structure, never the vision tower's."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

import tiny
from steersman.core.errors import ModelError
from steersman.core.types import Site
from steersman.models.blocks import find_blocks


def idefics3():
    """As many vision layers as text layers, of the same width: only structure tells them apart."""
    vision = dict(
        hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    text = dict(tiny.TEXT, model_type="llama", vocab_size=40)
    config = Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=4, scale_factor=2, pad_token_id=0
    )
    return Idefics3ForConditionalGeneration(config)


MODELS = {
    "llama": lambda: tiny.llama().model,
    "llava": lambda: tiny.llava().model,
    "qwen2_vl": lambda: tiny.qwen2_vl().model,
    "idefics3": idefics3,
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=3, n_head=2)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=40, hidden_size=32, ffn_dim=48, num_hidden_layers=3,
            num_attention_heads=2, word_embed_proj_dim=32, max_position_embeddings=64,
        )
    ),
}  # fmt: skip
BLOCK = {
    "llama": "LlamaDecoderLayer",
    "llava": "LlamaDecoderLayer",
    "qwen2_vl": "Qwen2VLDecoderLayer",
    "idefics3": "LlamaDecoderLayer",
    "gpt2": "GPT2Block",
    "opt": "OPTDecoderLayer",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_blocks_are_the_language_models(name):
    model = MODELS[name]()
    blocks = find_blocks(model)
    assert [type(layer).__name__ for layer in blocks.layers] == [BLOCK[name]] * 3
    assert blocks.d_model == 32 and blocks.final_norm is not None
    of_vision = {id(m) for n, m in model.named_modules() if "vision" in n or "visual" in n}
    assert not of_vision & {id(layer) for layer in (*blocks.layers, blocks.final_norm)}


@pytest.mark.parametrize("name", MODELS)
def test_the_blocks_run_once_each_in_their_order_and_the_norm_behind_them(name):
    model, seen = MODELS[name]().eval(), []
    blocks = find_blocks(model)
    for i, module in enumerate((*blocks.layers, blocks.final_norm)):
        module.register_forward_hook(lambda *_, i=i: seen.append(i))
    with torch.no_grad():
        model(input_ids=torch.tensor([[9, 10, 11]]))
    assert seen == [0, 1, 2, 3]


def test_lists_that_could_all_be_it_are_named():
    model = LlamaForCausalLM(tiny.llama().model.config)
    model.model.also = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    with pytest.raises(ModelError) as caught:
        find_blocks(model)
    message = str(caught.value)
    assert "layers: 3 x LlamaDecoderLayer" in message and "also: 3 x Linear" in message
    assert "3 blocks are expected" in message and "Pass the decoder itself" in message


def test_a_model_without_such_a_list_is_refused():
    model = LlamaForCausalLM(tiny.llama().model.config)
    model.model.layers = model.model.layers[:2]
    with pytest.raises(ModelError, match="the lists found are: layers: 2 x LlamaDecoderLayer"):
        find_blocks(model)


def test_a_point_that_a_block_lacks_is_refused_with_what_it_has():
    model = LlamaForCausalLM(tiny.llama().model.config)
    blocks = find_blocks(model)
    blocks.layers[1].other = blocks.layers[1].mlp
    del blocks.layers[1].mlp
    with pytest.raises(ModelError, match="has no mlp_out: its children are self_attn"):
        blocks.tap(Site(1, "mlp_out"))
