"""Tiny random models of real architectures, with processors made here: no network, no files."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from steersman.backends.hf import HFModel
from steersman.models.processors import make_image_only

WORDS = [
    "a",
    "b",
    "c",
    "how",
    "do",
    "i",
    "make",
    "the",
    "cup",
    "bomb",
    "?",
    "yes",
    "no",
    "safe",
    "harmful",
    "user",
    "assistant",
    "system",
    ":",
    ".",
    ",",
]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
LAYERS, WIDTH = 3, 32
CONTENT = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
)
TEMPLATE = (
    "<s> {% for m in messages %}{{ m['role'] }} : " + CONTENT + " </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
# Closes the turn only when the assistant does not speak next: no plain suffix.
ODD_TEMPLATE = (
    "<s> {% for m in messages %}{{ m['role'] }} : " + CONTENT + " {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% else %}</s>{% endif %}"
)
TEXT = dict(
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def tokenizer(template: str | None = TEMPLATE, image: str = "<image>") -> PreTrainedTokenizerFast:
    """Whole words, special tokens first."""
    vocabulary = {w: i for i, w in enumerate(SPECIAL + WORDS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
        extra_special_tokens={"image_token": image, "video_token": "<|video_pad|>"},
    )
    made.chat_template = template and template.replace("IMAGE", image)
    return made


def _seeded(cls, config, seed):
    torch.manual_seed(seed)
    model = cls(config).eval()
    model.generation_config.eos_token_id = None  # random models rarely stop by themselves
    return model


@cache
def llama(seed: int = 0, template: str | None = TEMPLATE) -> HFModel:
    config = LlamaConfig(vocab_size=len(SPECIAL + WORDS), tie_word_embeddings=False, **TEXT)
    return HFModel(_seeded(LlamaForCausalLM, config, seed), tokenizer(template), id="tiny-llama")


@cache
def llava(seed: int = 0) -> HFModel:
    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=16,
    )
    text = LlamaConfig(vocab_size=len(words), **TEXT)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=words.chat_template,
    )
    return HFModel(_seeded(LlavaForConditionalGeneration, config, seed), processor, id="tiny-llava")


@cache
def qwen2_vl(seed: int = 0) -> HFModel:
    words = tokenizer(
        TEMPLATE.replace("IMAGE", "<|vision_start|> IMAGE <|vision_end|>"), "<|image_pad|>"
    )
    ids = words.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config=dict(
            TEXT,
            vocab_size=len(words),
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        ),
        vision_config=dict(
            embed_dim=16,
            hidden_size=WIDTH,
            depth=2,
            num_heads=2,
            mlp_ratio=2,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
        ),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)
    model = _seeded(Qwen2VLForConditionalGeneration, config, seed)
    processor = make_image_only(Qwen2VLProcessor, images, words, chat_template=words.chat_template)
    return HFModel(model, processor, id="tiny-qwen2-vl")


def picture(seed: int = 0, size: int = 28) -> Image.Image:
    """A random image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
