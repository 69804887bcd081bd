"""Tiny random models with a codebook of image tokens."""

from functools import cache

import transformers as hf

import tiny
from architectures.vision_parts import PATCHES, SIZE, TOWER, model_of, text, words
from steersman.backends.hf import HFModel

VQ = dict(
    embed_dim=8,
    num_embeddings=8,
    latent_channels=8,
    base_channels=32,
    channel_multiplier=[1, 1, 1],
    num_res_blocks=1,
)


@cache
def chameleon() -> HFModel:
    pieces = [f"IMGIMG{letter}Z" for letter in "ABCDEFGH"]
    tokens = words(
        "<sep>", "<racm3:break>", "<eoss>", *pieces, template=None, image_token="<image>",
        boi_token="<racm3:break>", eoi_token="<eoss>",
    )  # fmt: skip
    ids = {name: tokens.convert_tokens_to_ids(name) for name in ("<image>", *pieces)}
    config = text(
        hf.ChameleonConfig,
        tokens,
        vq_config={**VQ, "resolution": 8},
        vocabulary_map=ids,
    )
    images = hf.ChameleonImageProcessorPil(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )
    processor = hf.ChameleonProcessor(images, tokens, image_seq_length=PATCHES)
    quiet = [tokens.convert_tokens_to_ids(t) for t in ("<racm3:break>", "<eoss>")]
    return model_of(hf.ChameleonForConditionalGeneration, config, processor, quiet)


@cache
def janus() -> HFModel:
    named = dict(image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    tokens = words(**named)
    config = hf.JanusConfig(
        vision_config={**TOWER, "projection_dim": tiny.WIDTH, "num_image_tokens": PATCHES},
        vq_config={**VQ, "projection_dim": tiny.WIDTH, "image_token_embed_dim": 8},
        text_config=text(hf.LlamaConfig, tokens),
        image_token_id=4,
    )
    processor = hf.JanusProcessor(
        hf.JanusImageProcessorPil(size=SIZE),
        tokens,
        chat_template=tokens.chat_template,
        num_image_tokens=PATCHES,
    )
    quiet = tokens.convert_tokens_to_ids(["<boi>", "<eoi>"])
    return model_of(hf.JanusForConditionalGeneration, config, processor, quiet)
