"""Tiny random vision-language models, with processors made here: no network, no files."""

from functools import cache

import transformers as hf

import tiny
from architectures.vision_parts import (
    FINE,
    GRID,
    IMAGE,
    MROPE,
    PATCHES,
    SIZE,
    TOWER,
    model_of,
    text,
    words,
)
from steersman.backends.hf import HFModel
from steersman.models.processors import make_image_only


def clip() -> hf.CLIPVisionConfig:
    return hf.CLIPVisionConfig(**TOWER, projection_dim=16)


@cache
def llava_next() -> HFModel:
    tokens = words(image_token="<image>")
    config = hf.LlavaNextConfig(
        vision_config=clip(),
        text_config=text(hf.LlamaConfig, tokens),
        image_token_index=4,
        image_grid_pinpoints=GRID,
    )
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE}, crop_size=SIZE, image_grid_pinpoints=GRID
    )
    processor = hf.LlavaNextProcessor(
        images,
        tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokens.chat_template,
    )
    return model_of(hf.LlavaNextForConditionalGeneration, config, processor, [])


@cache
def llava_onevision() -> HFModel:
    tokens = words("<video>", image_token="<image>", video_token="<video>")
    video = tokens.convert_tokens_to_ids("<video>")
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text(hf.Qwen2Config, tokens),
        image_token_index=4,
        video_token_index=video,
        image_grid_pinpoints=GRID,
    )
    images = hf.LlavaOnevisionImageProcessorPil(size=SIZE, image_grid_pinpoints=GRID)
    processor = make_image_only(
        hf.LlavaOnevisionProcessor,
        images,
        tokens,
        num_image_tokens=PATCHES,
        vision_feature_select_strategy="full",
        chat_template=tokens.chat_template,
    )
    return model_of(hf.LlavaOnevisionForConditionalGeneration, config, processor, [video])


QWEN = tiny.TEMPLATE.replace("IMAGE", "<|vision_start|> IMAGE <|vision_end|>")


def _qwen(
    config: type[hf.PreTrainedConfig],
    model: type[hf.PreTrainedModel],
    processor: type[hf.ProcessorMixin],
    text_config: dict[str, object],
    vision_config: dict[str, object],
    patch: int,
) -> HFModel:
    tokens = words(template=QWEN, image="<|image_pad|>", image_token="<|image_pad|>")
    made = config(
        text_config={**tiny.TEXT, "vocab_size": len(tokens), "rope_parameters": MROPE}
        | text_config,
        vision_config=dict(
            hidden_size=16, depth=2, num_heads=2, patch_size=patch, intermediate_size=24,
            spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=tiny.WIDTH,
        ) | vision_config,
        image_token_id=7,
        video_token_id=8,
        vision_start_token_id=5,
        vision_end_token_id=6,
    )  # fmt: skip
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=patch, min_pixels=(2 * patch) ** 2, max_pixels=(4 * patch) ** 2
    )
    ready = make_image_only(processor, images, tokens, chat_template=tokens.chat_template)
    return model_of(model, made, ready, [])


@cache
def qwen2_5_vl() -> HFModel:
    return _qwen(
        hf.Qwen2_5_VLConfig,
        hf.Qwen2_5_VLForConditionalGeneration,
        hf.Qwen2_5_VLProcessor,
        {},
        {"window_size": 56, "fullatt_block_indexes": [1]},
        patch=14,
    )


@cache
def qwen3_vl() -> HFModel:
    return _qwen(
        hf.Qwen3VLConfig,
        hf.Qwen3VLForConditionalGeneration,
        hf.Qwen3VLProcessor,
        {"head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
        {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        patch=16,
    )


@cache
def glm4v() -> HFModel:
    tokens = words(
        "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
        template=tiny.TEMPLATE.replace("IMAGE", "<|begin_of_image|> IMAGE <|end_of_image|>"),
        image="<|image|>", image_token="<|image|>", video_token="<|video|>",
        begin="<|begin_of_image|>", end="<|end_of_image|>",
    )  # fmt: skip
    names = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>")
    image, video, begin, end = (tokens.convert_tokens_to_ids(n) for n in names)
    config = hf.Glm4vConfig(
        text_config={**tiny.TEXT, "vocab_size": len(tokens), "rope_parameters": MROPE},
        vision_config=dict(
            depth=2, hidden_size=16, num_heads=2, image_size=IMAGE, patch_size=7,
            out_hidden_size=tiny.WIDTH, intermediate_size=24,
        ),
        image_token_id=image,
        video_token_id=video,
        image_start_token_id=begin,
        image_end_token_id=end,
        video_start_token_id=tokens.convert_tokens_to_ids("<|begin_of_video|>"),
        video_end_token_id=tokens.convert_tokens_to_ids("<|end_of_video|>"),
    )  # fmt: skip
    images = hf.Glm4vImageProcessorPil(
        patch_size=7, size={"shortest_edge": 2 * 14 * 14, "longest_edge": 2 * 28 * 28}
    )
    processor = make_image_only(
        hf.Glm4vProcessor, images, tokens, chat_template=tokens.chat_template
    )
    return model_of(hf.Glm4vForConditionalGeneration, config, processor, [image, video, begin, end])


IDEFICS = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
IDEFICS += tuple(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2))


def _idefics3(
    config: type[hf.PreTrainedConfig],
    model: type[hf.PreTrainedModel],
    processor: type[hf.ProcessorMixin],
    images: object,
) -> HFModel:
    tokens = words(*IDEFICS)
    made = config(
        vision_config=FINE,
        text_config=text(hf.LlamaConfig, tokens),
        image_token_id=4,
        scale_factor=2,
        pad_token_id=0,
    )
    ready = make_image_only(
        processor, images, tokens, image_seq_len=PATCHES, chat_template=tokens.chat_template
    )
    return model_of(model, made, ready, tokens.convert_tokens_to_ids(list(IDEFICS)))


@cache
def idefics3() -> HFModel:
    images = hf.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * IMAGE}, max_image_size={"longest_edge": IMAGE}
    )
    return _idefics3(
        hf.Idefics3Config, hf.Idefics3ForConditionalGeneration, hf.Idefics3Processor, images
    )


@cache
def smolvlm() -> HFModel:
    images = hf.SmolVLMImageProcessorPil(
        size={"longest_edge": IMAGE},
        max_image_size={"longest_edge": IMAGE},
        do_image_splitting=False,
    )
    return _idefics3(
        hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration, hf.SmolVLMProcessor, images
    )


@cache
def idefics2() -> HFModel:
    tokens = words(*IDEFICS[:2], image_token="<image>", image_boundary_token=IDEFICS[0])
    config = hf.Idefics2Config(
        vision_config=TOWER,
        perceiver_config=dict(
            hidden_size=tiny.WIDTH, resampler_n_latents=PATCHES, resampler_depth=1,
            resampler_n_heads=2, resampler_head_dim=8, num_key_value_heads=2,
        ),
        text_config=text(hf.MistralConfig, tokens),
        image_token_id=4,
    )  # fmt: skip
    images = hf.Idefics2ImageProcessorPil(size={"shortest_edge": 14, "longest_edge": IMAGE})
    processor = hf.Idefics2Processor(
        images, tokens, image_seq_len=PATCHES, chat_template=tokens.chat_template
    )
    quiet = tokens.convert_tokens_to_ids(list(IDEFICS[:2]))
    return model_of(hf.Idefics2ForConditionalGeneration, config, processor, quiet)


@cache
def gemma3() -> HFModel:
    named = dict(image_token="<soft>", boi_token="<boi>", eoi_token="<eoi>")
    tokens = words(image="<boi>", **named)
    soft, boi, eoi = tokens.convert_tokens_to_ids(list(named.values()))
    config = hf.Gemma3Config(
        text_config=text(
            hf.Gemma3TextConfig, tokens, head_dim=8, query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            sliding_window=16,
        ),
        vision_config=hf.SiglipVisionConfig(**FINE, vision_use_head=False),
        mm_tokens_per_image=PATCHES,
        image_token_index=soft,
        boi_token_index=boi,
        eoi_token_index=eoi,
    )  # fmt: skip
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessorPil(size=SIZE),
        tokens,
        chat_template=tokens.chat_template,
        image_seq_length=PATCHES,
    )
    return model_of(hf.Gemma3ForConditionalGeneration, config, processor, [soft, boi, eoi])


@cache
def internvl() -> HFModel:
    named = dict(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    tokens = words(image="<IMG_CONTEXT>", **named)
    quiet = tokens.convert_tokens_to_ids(list(named.values()))
    config = hf.InternVLConfig(
        vision_config={**FINE, "image_size": [IMAGE, IMAGE], "patch_size": [7, 7]},
        text_config=text(hf.Qwen2Config, tokens),
        image_token_id=quiet[2],
        image_seq_length=PATCHES,
    )
    processor = make_image_only(
        hf.InternVLProcessor,
        hf.GotOcr2ImageProcessorPil(size=SIZE, max_patches=2, crop_to_patches=True),
        tokens,
        image_seq_length=PATCHES,
        chat_template=tokens.chat_template,
    )
    return model_of(hf.InternVLForConditionalGeneration, config, processor, quiet)


@cache
def mllama() -> HFModel:
    tokens = words("<|python_tag|>", image="<|image|>", image_token="<|image|>")
    image = tokens.convert_tokens_to_ids("<|image|>")
    config = hf.MllamaConfig(
        vision_config=dict(
            hidden_size=16, num_hidden_layers=2, num_global_layers=1, attention_heads=2,
            intermediate_size=24, image_size=IMAGE, patch_size=14, max_num_tiles=2,
            intermediate_layers_indices=[0], vision_output_dim=32,
            supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
        ),
        text_config=text(hf.MllamaTextConfig, tokens, cross_attention_layers=[2]).to_dict(),
        image_token_index=image,
    )  # fmt: skip
    images = hf.MllamaImageProcessorPil(size=SIZE, max_image_tiles=2)
    processor = hf.MllamaProcessor(images, tokens, chat_template=tokens.chat_template)
    return model_of(hf.MllamaForConditionalGeneration, config, processor, [])


@cache
def paligemma() -> HFModel:
    tokens = words(template=None, image_token="<image>")
    images = hf.SiglipImageProcessorPil(size=SIZE)
    images.image_seq_length = PATCHES
    processor = hf.PaliGemmaProcessor(images, tokens)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text(hf.GemmaConfig, tokens, head_dim=8),
        image_token_index=4,
        projection_dim=tiny.WIDTH,
        hidden_size=tiny.WIDTH,
    )
    quiet = list(range(len(tiny.SPECIAL + tiny.WORDS), len(tokens)))  # places and outlines
    return model_of(hf.PaliGemmaForConditionalGeneration, config, processor, quiet)


@cache
def blip2() -> HFModel:
    tokens = words(template=None)
    processor = hf.Blip2Processor(
        hf.BlipImageProcessorPil(size=SIZE), tokens, num_query_tokens=PATCHES
    )
    config = hf.Blip2Config(
        vision_config={**TOWER, "initializer_range": 0.02},
        qformer_config=dict(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        ),
        text_config=text(
            hf.OPTConfig, tokens, ffn_dim=48, word_embed_proj_dim=tiny.WIDTH
        ).to_dict(),
        num_query_tokens=PATCHES,
        image_token_index=4,
    )
    return model_of(hf.Blip2ForConditionalGeneration, config, processor, [])


@cache
def aya_vision() -> HFModel:
    special = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>")
    tokens = words(*special, "TILE", "TILE_GLOBAL")
    quiet = tokens.convert_tokens_to_ids([*special, "TILE", "TILE_GLOBAL"])
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**FINE, vision_use_head=False),
        text_config=text(hf.Cohere2Config, tokens),
        image_token_index=quiet[2],
    )
    processor = hf.AyaVisionProcessor(
        hf.GotOcr2ImageProcessorPil(size=SIZE),
        tokens,
        patch_size=7,
        img_size=IMAGE,
        downsample_factor=2,
        chat_template=tokens.chat_template,
    )
    return model_of(hf.AyaVisionForConditionalGeneration, config, processor, quiet)


@cache
def ovis2() -> HFModel:
    special = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokens = words(*special)
    quiet = tokens.convert_tokens_to_ids(list(special))
    config = hf.Ovis2Config(
        vision_config={**TOWER, "vocab_size": 24, "num_visual_indicator_tokens": 5},
        text_config=text(hf.Qwen2Config, tokens),
        image_token_id=quiet[0],
        visual_indicator_token_ids=quiet[1:],
        hidden_size=tiny.WIDTH,
        vocab_size=len(tokens),
    )
    processor = hf.Ovis2Processor(
        hf.Ovis2ImageProcessorPil(size=SIZE),
        tokens,
        image_seq_length=PATCHES,
        chat_template=tokens.chat_template,
    )
    return model_of(hf.Ovis2ForConditionalGeneration, config, processor, quiet)
