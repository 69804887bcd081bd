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
from steersman.models.blocks import Blocks, find_blocks
from steersman.models.halves import trace


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


def test_lists_that_could_all_be_it_are_named_and_one_can_be_chosen():
    model = LlamaForCausalLM(tiny.llama().model.config)
    model.model.also = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    with pytest.raises(ModelError) as caught:
        find_blocks(model)
    message = str(caught.value)
    assert "model.layers: 3 x LlamaDecoderLayer" in message and "model.also: 3 x Linear" in message
    assert "3 blocks are expected" in message and 'HFModel(..., blocks="model.layers")' in message
    assert find_blocks(model, "model.layers").layers == tuple(model.model.layers)
    with pytest.raises(ModelError, match="no list of blocks at 'model.layer'.*model.also: 3 x"):
        find_blocks(model, "model.layer")


def test_a_model_without_such_a_list_is_refused():
    model = LlamaForCausalLM(tiny.llama().model.config)
    model.model.layers = model.model.layers[:2]
    with pytest.raises(ModelError, match="lists found are: model.layers: 2 x LlamaDecoderLayer"):
        find_blocks(model)


class Half(nn.Module):
    """Returns what its function makes of the state."""

    def __init__(self, of):
        super().__init__()
        self.of, self.proj = of, nn.Linear(4, 4)

    def forward(self, h):
        return self.of(self.proj, h)


class TinyAttention(Half):
    pass


class TinyMLP(Half):
    pass


class TinyBlock(nn.Module):
    def __init__(self, forward, attention=None, mlp=None):
        super().__init__()
        self.attn = TinyAttention(attention or (lambda proj, h: proj(h)))
        self.mlp = TinyMLP(mlp or (lambda proj, h: (proj(h), "router logits")))
        self.post_norm, self.drop = nn.LayerNorm(4), nn.Dropout(0.5)
        self.of = forward

    def forward(self, hidden_states):
        return self.of(self, hidden_states)


class Misnamed(nn.Module):
    def forward(self, **kwargs):
        return 2 * kwargs["x"]


class TinyDecoder(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.embed, self.layers, self.norm = (
            nn.Embedding(8, 4),
            nn.ModuleList(blocks),
            nn.LayerNorm(4),
        )

    def forward(self, input_ids, use_cache):
        h = self.embed(input_ids)
        for layer in self.layers:
            h = layer(**{"x" if isinstance(layer, Misnamed) else "hidden_states": h})
        return self.norm(h)


def in_turn(block, h):
    h = h + block.attn(h)
    return h + block.mlp(h)[0]


def at_once(block, h):
    made = block.mlp(h)[0]
    made += block.attn(h)
    return made + h


def normed_and_dropped(block, h):
    h = block.drop(block.post_norm(block.attn(h))).to(h.dtype) + h
    return torch.add(block.drop(block.mlp(h)[0]), h)


def scaled(block, h):
    h = h + 0.5 * block.attn(h)
    return h + block.mlp(h)[0]


def biased(block, h):
    """The attention's bias is added outside of it."""
    h = h + (block.attn(h) + block.attn.proj.bias.expand_as(h))
    return h + block.mlp(h)[0]


def twice(block, h):
    return in_turn(block, h + block.attn(h))


def flattened(block, h):
    h, shape = h + block.attn(h), h.shape
    flat = h.reshape(-1, 4)
    return (flat + block.mlp(flat)[0]).view(shape)


def scaled_in_place(block, h):
    made = block.attn(h)
    torch.mul(made, 0.5, out=made)
    return h + made + block.mlp(h)[0]


def something_else(block, h):
    """A half that is neither: what it is cannot be told by elimination."""
    return h + block.attn(h) + block.post_norm(h)


def alpha(block, h):
    return torch.add(h + block.attn(h), block.mlp(h)[0], alpha=2)


BLOCKS = {
    in_turn: ("attn", "attn.proj", "mlp"),
    at_once: ("attn", "attn.proj", "mlp"),
    normed_and_dropped: ("post_norm", "attn.proj", "mlp"),
    scaled: (None, None, "mlp"),
    biased: (None, None, "mlp"),
    twice: (None, None, "mlp"),
    flattened: ("attn", "attn.proj", None),
    alpha: (None, None, None),
    scaled_in_place: (None, None, "mlp"),
    something_else: ("attn", "attn.proj", None),
}


def blocks_of(*made):
    decoder = TinyDecoder(*made)
    traced = trace(decoder, made, [decoder.norm])
    return Blocks(made, traced.final_norm, 4, 1, traced.halves)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("forward", BLOCKS, ids=lambda f: f.__name__)
def test_points_are_where_the_sums_of_a_block_say(forward, training):
    block = TinyBlock(forward).train(training)
    blocks = blocks_of(TinyBlock(in_turn), block)
    for point, path in zip(("attn_out", "attn_heads", "mlp_out"), BLOCKS[forward], strict=True):
        site = Site(1, point)
        if path is None:
            with pytest.raises(ModelError, match=r"not to be had in TinyBlock.*Use resid_pre or"):
                blocks.tap(site)
        else:
            tap = blocks.tap(site)
            assert tap.module is block.get_submodule(path) and tap.before == (point == "attn_heads")
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for b in blocks.layers for m in b.modules()
    )


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (TinyBlock(lambda block, h: [h]), "returns a list"),
        (Misnamed(), "takes no tensor called hidden_states"),
        (TinyBlock(lambda block, h: h.transpose(0, 1)), r"the shape \(3, 1, 4\), not \(batch"),
    ],
)
def test_a_stream_that_is_no_state_per_token_is_refused(block, message):
    blocks = blocks_of(block)
    for point in ("resid_pre", "resid_post", "attn_out"):
        with pytest.raises(ModelError, match=message):
            blocks.tap(Site(0, point))


def test_blocks_that_run_twice_in_one_pass_are_refused():
    block = TinyBlock(in_turn)
    decoder = TinyDecoder(block, block)
    traced = trace(decoder, [block], [decoder.norm])
    with pytest.raises(ModelError, match="it runs 2 times in one pass"):
        Blocks((block,), None, 4, 1, traced.halves).tap(Site(0))


def test_a_module_that_two_blocks_share_is_refused():
    first, second = TinyBlock(in_turn), TinyBlock(in_turn)
    second.mlp = first.mlp
    blocks = blocks_of(first, second)
    for layer in (0, 1):
        with pytest.raises(ModelError, match=r"mlp \(TinyMLP\), which runs 2 times in one pass"):
            blocks.tap(Site(layer, "mlp_out"))
        assert not blocks.tap(Site(layer, "attn_out")).before


def test_a_norm_that_also_runs_before_the_blocks_is_no_final_norm():
    block = TinyBlock(in_turn)
    decoder = TinyDecoder(block)
    decoder.embed = nn.Sequential(decoder.embed, decoder.norm)
    traced = trace(decoder, [block], [decoder.norm])
    blocks = Blocks((block,), traced.final_norm, 4, 1, traced.halves)
    with pytest.raises(ModelError, match="a norm that runs once, behind the last block"):
        blocks.tap(Site(0, "head_in"))


def test_a_decoder_that_takes_no_plain_ids_keeps_the_stream_and_says_why_not_more():
    block = TinyBlock(in_turn)
    decoder = TinyDecoder(block)
    decoder.embed = nn.Embedding(1, 4)
    traced = trace(decoder, [block], [decoder.norm])
    blocks = Blocks((block,), traced.final_norm, 4, 1, traced.halves)
    assert blocks.tap(Site(0)).module is block
    with pytest.raises(ModelError, match="a pass over three tokens failed .IndexError"):
        blocks.tap(Site(0, "mlp_out"))


def test_a_model_without_weights_has_its_stream_and_says_why_not_more():
    with torch.device("meta"):
        model = LlamaForCausalLM(tiny.llama().model.config)
    blocks = find_blocks(model)
    assert blocks.tap(Site(0)).module is model.model.layers[0]
    with pytest.raises(ModelError, match="has no weights yet"):
        blocks.tap(Site(0, "attn_out"))


def test_a_model_whose_weights_are_kept_elsewhere_is_traced_where_it_runs():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(LlamaForCausalLM(tiny.llama().model.config), torch.device("cpu"))
    assert all(p.is_meta for p in model.parameters())
    blocks = find_blocks(model)
    assert blocks.final_norm is model.model.norm and not blocks.padding_disturbs
    assert blocks.tap(Site(1, "attn_out")).module is model.model.layers[1].self_attn
    assert blocks.tap(Site(1, "attn_heads")).module is model.model.layers[1].self_attn.o_proj


def test_finding_blocks_leaves_the_model_and_its_random_numbers_as_they_were():
    model = LlamaForCausalLM(tiny.llama().model.config).train()
    before = torch.random.get_rng_state()
    find_blocks(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(m.training and not m._forward_hooks for m in model.modules())
