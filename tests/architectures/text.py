"""Tiny random text models, one for each architecture: built from their configurations alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import transformers
from transformers import PreTrainedModel

import tiny
from architectures.architecture import POINTS, Architecture
from steersman.backends.hf import HFModel

STREAM = ("resid_pre", "resid_post", "head_in")
NO_MLP = tuple(p for p in POINTS if p != "mlp_out")
NO_HEADS = tuple(p for p in POINTS if p != "attn_heads")
POST_NORM = "attn_out and mlp_out are behind the norms that follow both halves."
PARALLEL = "Both halves read the block's input."
NO_HALVES = "A block has no attention and no MLP."
ONE_BY_ONE = "Padding disturbs it: rows run one at a time."
HYBRID = "A hybrid: attn_out and attn_heads in its softmax attention blocks only."
SMALL = dict(
    vocab_size=len(tiny.tokenizer()),
    hidden_size=tiny.WIDTH,
    num_hidden_layers=tiny.LAYERS,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GROUPED = dict(SMALL, num_key_value_heads=2)
HEADS8 = dict(GROUPED, head_dim=8)
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=16)
MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8)


def bare(model_class: str, frozen: tuple[tuple[str, object], ...]) -> PreTrainedModel:
    """A model of random weights, biases, norms and scales among them."""
    cls = getattr(transformers, model_class)
    torch.manual_seed(0)
    model = cls(cls.config_class(**{k: _thawed(v) for k, v in frozen})).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    model.generation_config.eos_token_id = None  # random models rarely stop by themselves
    return model


@cache
def build(model_class: str, frozen: tuple[tuple[str, object], ...]) -> HFModel:
    """The model behind our interface, made once."""
    return HFModel(bare(model_class, frozen), tiny.tokenizer(), id=f"tiny-{model_class}")


def _frozen(value):
    if isinstance(value, dict):
        return ("dict", *((k, _frozen(v)) for k, v in value.items()))
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _thawed(value):
    if isinstance(value, tuple) and value[:1] == ("dict",):
        return {k: _thawed(v) for k, v in value[1:]}
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value


def text(
    name,
    model_class,
    config,
    *,
    points=POINTS,
    notes="",
    shares=("completions", "header"),
    **fields,
) -> Architecture:
    frozen = tuple((k, _frozen(v)) for k, v in {**config, **fields}.items())
    made = partial(build, model_class, frozen)
    return Architecture(name, model_class, made, points, notes=notes, shares=shares)


TEXT: tuple[Architecture, ...] = (
    text("Llama", "LlamaForCausalLM", GROUPED),
    text("Qwen2", "Qwen2ForCausalLM", GROUPED),
    text("Qwen3", "Qwen3ForCausalLM", dict(HEADS8, head_dim=16),
         notes="Heads are wider together than the stream."),
    text("Gemma 2", "Gemma2ForCausalLM", HEADS8, sliding_window=4, query_pre_attn_scalar=8,
         notes=POST_NORM),
    text("Gemma 3", "Gemma3ForCausalLM", HEADS8, sliding_window=4, query_pre_attn_scalar=8,
         layer_types=["sliding_attention", "full_attention", "sliding_attention"],
         notes=POST_NORM),
    text("Mistral", "MistralForCausalLM", GROUPED, sliding_window=4),
    text("Mixtral", "MixtralForCausalLM", GROUPED, num_local_experts=4,
         notes="mlp_out is the experts' sum."),
    text("Phi-3", "Phi3ForCausalLM", GROUPED),
    text("GPT-2", "GPT2LMHeadModel", SMALL, n_positions=512),
    text("GPT-NeoX", "GPTNeoXForCausalLM", SMALL, notes=PARALLEL),
    text("OLMo 2", "Olmo2ForCausalLM", GROUPED,
         notes=POST_NORM),
    text("Falcon", "FalconForCausalLM", SMALL, notes=PARALLEL),
    text("Falcon 40B", "FalconForCausalLM", SMALL, new_decoder_architecture=True, num_kv_heads=2,
         notes="Both halves read the block's input, each through its own norm."),
    text("Mamba", "MambaForCausalLM", SMALL, shares=(), points=STREAM, state_size=8,
         notes=NO_HALVES),
    text("Mamba 2", "Mamba2ForCausalLM", SMALL, shares=(), points=STREAM, state_size=8, num_heads=8,
         head_dim=8, n_groups=2, chunk_size=8, notes=NO_HALVES),
    text("Falcon Mamba", "FalconMambaForCausalLM", SMALL, shares=(), points=STREAM, state_size=8,
         notes=NO_HALVES),
    text("Jamba", "JambaForCausalLM", GROUPED, shares=(), points=(*STREAM, "mlp_out"),
         num_experts=4, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
         mamba_d_state=8, notes=HYBRID),
    text("Bamba", "BambaForCausalLM", GROUPED, points=(*STREAM, "mlp_out"),
         attn_layer_indices=[1], **MAMBA2,
         notes=HYBRID),
    text("RecurrentGemma", "RecurrentGemmaForCausalLM", GROUPED, shares=(),
         points=(*STREAM, "mlp_out"), block_types=["recurrent", "attention"],
         attention_window_size=64, lru_width=32, notes=HYBRID + " " + ONE_BY_ONE),
    text("LFM2", "Lfm2ForCausalLM", GROUPED, points=(*STREAM, "mlp_out"),
         layer_types=["conv", "full_attention", "conv"],
         notes=HYBRID),
    text("Falcon-H1", "FalconH1ForCausalLM", GROUPED, points=(*STREAM, "mlp_out"), mamba_d_ssm=64,
         **MAMBA2, notes="Attention and state space share a half; the attention's part is scaled."),
    text("Zamba 2", "Zamba2ForCausalLM", GROUPED, points=STREAM, mamba_d_state=8, n_mamba_heads=8,
         chunk_size=8, use_mamba_kernels=False, layers_block_type=["mamba", "hybrid", "mamba"],
         notes="Its shared attention writes into the state space's input, not into the stream."),
    text("Qwen3-Next", "Qwen3NextForCausalLM", HEADS8, points=(*STREAM, "mlp_out"),
         layer_types=["linear_attention", "full_attention", "linear_attention"],
         linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2,
         linear_num_value_heads=4, num_experts=4, shared_expert_intermediate_size=16, **MOE,
         notes=HYBRID),
    text("OPT", "OPTForCausalLM", SMALL, points=NO_MLP, ffn_dim=48, word_embed_proj_dim=32,
         notes="Its MLP runs on tokens flattened over the batch: no mlp_out."),
    text("BLOOM", "BloomForCausalLM", SMALL, n_layer=3, n_head=4,
         notes="Its halves return the stream with what they add: taps are on the projections."),
    text("MPT", "MptForCausalLM", SMALL, max_seq_len=512, expansion_ratio=2),
    text("GPT-J", "GPTJForCausalLM", SMALL, n_positions=512, rotary_dim=4,
         notes=PARALLEL),
    text("GPT-Neo", "GPTNeoForCausalLM", SMALL, window_size=4,
         attention_types=[[["global", "local", "global"], 1]], num_layers=3, num_heads=4),
    text("GPTBigCode", "GPTBigCodeForCausalLM", SMALL, n_positions=512),
    text("CodeGen", "CodeGenForCausalLM", SMALL, n_positions=512, rotary_dim=4, n_inner=48,
         notes=PARALLEL),
    text("Phi", "PhiForCausalLM", GROUPED, notes=PARALLEL),
    text("StableLM", "StableLmForCausalLM", GROUPED),
    text("Starcoder 2", "Starcoder2ForCausalLM", GROUPED),
    text("Cohere", "CohereForCausalLM", GROUPED, notes=PARALLEL),
    text("Cohere 2", "Cohere2ForCausalLM", GROUPED, sliding_window=4,
         notes=PARALLEL),
    text("DeepSeek-V3", "DeepseekV3ForCausalLM", dict(SMALL, num_key_value_heads=4),
         n_routed_experts=4, n_group=2, topk_group=1, kv_lora_rank=8, q_lora_rank=8,
         qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1, **MOE),
    text("Granite", "GraniteForCausalLM", GROUPED, points=STREAM, residual_multiplier=0.3,
         logits_scaling=2.0, embedding_multiplier=3.0, attention_multiplier=0.4,
         notes="Both halves are scaled before they are added: no attn_out, attn_heads, mlp_out."),
    text("GPT-OSS", "GptOssForCausalLM", HEADS8, num_local_experts=4, num_experts_per_tok=2,
         sliding_window=4),
    text("Nemotron", "NemotronForCausalLM", GROUPED),
    text("GLM-4", "Glm4ForCausalLM", HEADS8,
         notes=POST_NORM),
    text("SmolLM3", "SmolLM3ForCausalLM", GROUPED),
    text("ERNIE 4.5", "Ernie4_5ForCausalLM", HEADS8),
    text("XGLM", "XGLMForCausalLM", SMALL, d_model=32, ffn_dim=48, num_layers=3,
         attention_heads=4),
    text("BioGPT", "BioGptForCausalLM", SMALL),
    text("OLMoE", "OlmoeForCausalLM", GROUPED, num_experts=4, num_experts_per_tok=2),
    text("EXAONE 4", "Exaone4ForCausalLM", GROUPED, sliding_window=4,
         layer_types=["sliding_attention", "full_attention", "sliding_attention"],
         notes=POST_NORM),
    text("Persimmon", "PersimmonForCausalLM", SMALL),
    text("Gemma", "GemmaForCausalLM", HEADS8),
    text("OLMo", "OlmoForCausalLM", GROUPED),
    text("OLMo 3", "Olmo3ForCausalLM", GROUPED, sliding_window=4, notes=POST_NORM),
    text("OLMo Hybrid", "OlmoHybridForCausalLM", HEADS8, points=(*STREAM, "mlp_out"),
         layer_types=["linear_attention", "full_attention", "linear_attention"],
         linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=4,
         linear_num_value_heads=4, notes=HYBRID),
    text("Qwen2 MoE", "Qwen2MoeForCausalLM", GROUPED, num_experts=4,
         shared_expert_intermediate_size=16, **MOE),
    text("Qwen3 MoE", "Qwen3MoeForCausalLM", HEADS8, num_experts=4, **MOE),
    text("Qwen3.5", "Qwen3_5ForCausalLM", HEADS8, points=(*STREAM, "mlp_out"),
         layer_types=["linear_attention", "full_attention", "linear_attention"],
         linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2,
         linear_num_value_heads=4, notes=HYBRID),
    text("Phi-MoE", "PhimoeForCausalLM", GROUPED, num_local_experts=4, num_experts_per_tok=2),
    text("GLM-4 MoE", "Glm4MoeForCausalLM", HEADS8, n_routed_experts=4, n_group=2, topk_group=1,
         **MOE),
    text("Llama 4", "Llama4ForCausalLM", HEADS8, points=NO_MLP, num_local_experts=4,
         num_experts_per_tok=1, intermediate_size_mlp=48,
         notes="Its experts run on tokens flattened over the batch: no mlp_out."),
    text("DeepSeek-V2", "DeepseekV2ForCausalLM", dict(SMALL, num_key_value_heads=4),
         n_routed_experts=4, n_group=2, topk_group=1, kv_lora_rank=8, q_lora_rank=8,
         qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1, **MOE),
    text("JetMoE", "JetMoeForCausalLM", GROUPED, num_local_experts=4, num_experts_per_tok=2,
         kv_channels=8, points=NO_HEADS, notes="Each head has its own experts: no attn_heads."),
    text("MiniMax", "MiniMaxForCausalLM", HEADS8, shares=(), points=STREAM, num_local_experts=4,
         num_experts_per_tok=2, block_size=8,
         layer_types=["linear_attention", "full_attention", "linear_attention"],
         notes="The stream itself is scaled in every block: no attn_out, attn_heads, mlp_out."),
    text("NanoChat", "NanoChatForCausalLM", GROUPED,
         points=tuple(p for p in POINTS if p != "head_in"),
         notes="The same norm runs before the first block and behind the last: no head_in."),
    text("ModernBERT decoder", "ModernBertDecoderForCausalLM", SMALL, local_attention=8,
         notes="A prediction head lies between head_in and the output embedding: no logits."),
)  # fmt: skip


@dataclass(frozen=True)
class Refused:
    """An architecture that is refused, in whole or in part.

    Attributes:
        build: makes the bare model.
        error: what the error says, as a pattern; empty where padding is all that disturbs it.
        at_load: whether HFModel itself refuses; else every site does.
        why: what is the matter, for the docs.
    """

    name: str
    model_class: str
    build: Callable[[], PreTrainedModel]
    error: str
    why: str
    at_load: bool = True


def but(config, *names):
    return {k: v for k, v in config.items() if k not in names}


def refused(name, model_class, config, *, error="", why, at_load=True, **fields) -> Refused:
    frozen = tuple((k, _frozen(v)) for k, v in {**config, **fields}.items())
    return Refused(name, model_class, partial(bare, model_class, frozen), error, why, at_load)


ENCODER = "Prompt and answer run through different blocks; one site would mean two places."
COUNTS_PADDING = "Its learned positions count padding: a prompt means something else in a batch."
SIDES = {f"{side}_{k}": v for side in ("encoder", "decoder")
         for k, v in (("layers", 3), ("attention_heads", 4), ("ffn_dim", 48))}  # fmt: skip

REFUSED: tuple[Refused, ...] = (
    refused("T5", "T5ForConditionalGeneration", SMALL, d_model=16, d_ff=16, d_kv=8, num_layers=2,
            num_heads=2, error="is an encoder-decoder", why=ENCODER),
    refused("BART", "BartForConditionalGeneration", SMALL, d_model=32, **SIDES,
            error="is an encoder-decoder", why=ENCODER),
    refused("XLM", "XLMWithLMHeadModel", SMALL, emb_dim=32, n_layers=3, n_heads=4,
            error="could not be told apart: 3 blocks",
            why="It has no blocks: attentions, norms and MLPs lie in lists of their own."),
    refused("HRM", "HrmTextForCausalLM", GROUPED, error="L_module.layers.*H_module.layers",
            why="It runs two stacks of blocks in turns, many times in one pass."),
    refused("LongCat-Flash", "LongcatFlashForCausalLM", but(SMALL, "num_hidden_layers"),
            error="6 blocks are expected", num_layers=3, ffn_hidden_size=48,
            expert_ffn_hidden_size=16, n_routed_experts=4,
            num_key_value_heads=4, moe_topk=2, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
            qk_nope_head_dim=4, v_head_dim=8, head_dim=4, zero_expert_num=1,
            why='Its configuration counts two layers for each block: name the blocks yourself, '
                '`HFModel(..., blocks="model.layers")`. A block has two attentions and two MLPs, '
                "so there are no attn_out, attn_heads and mlp_out."),
    refused("DeepSeek-V4", "DeepseekV4ForCausalLM", HEADS8, n_routed_experts=4, q_lora_rank=8,
            qk_rope_head_dim=4, at_load=False, **MOE,
            error=r"states have the shape \(1, 3, 4, 32\)",
            why="It carries several streams side by side: a state is a matrix, not a vector."),
    refused("XLNet", "XLNetLMHeadModel", but(SMALL, "max_position_embeddings"),
            n_layer=3, n_head=4, d_model=32, d_inner=48, d_head=8, at_load=False,
            error=r"states have the shape \(3, 1, 32\)",
            why="Tokens come before rows in its blocks."),
    refused("OpenAI GPT", "OpenAIGPTLMHeadModel", SMALL, n_positions=512, n_layer=3, n_head=4,
            at_load=False, error="returns a list",
            why="Its blocks return lists, and it has no cache."),
    refused("BART's decoder", "BartForCausalLM", SMALL, d_model=32, **SIDES, why=COUNTS_PADDING),
    refused("Whisper's decoder", "WhisperForCausalLM", SMALL, d_model=32, **SIDES,
            max_source_positions=16, max_target_positions=512, why=COUNTS_PADDING),
)  # fmt: skip
