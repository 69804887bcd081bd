"""A random LLaVA around a shape's Llama, with a processor made here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peers.pairs import SPECIAL, Encode, Line, tokenizer
from peers.shapes import SEED, Shape
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PATCH = 14


@dataclass(frozen=True)
class Vision:
    """A CLIP vision tower: its size, and the edge of its pictures in pixels."""

    width: int
    layers: int
    heads: int
    edge: int

    @property
    def tokens(self) -> int:
        """What a picture is to the language model."""
        return (self.edge // PATCH) ** 2


TOWERS = {"quick": Vision(32, 2, 2, 56), "llama-1024": Vision(512, 6, 8, 336)}
"""By shape of the text model; the vision pass is kept the smaller part, about a sixth."""


def build_llava(
    shape: Shape, vision: Vision, device: str, *, dtype: torch.dtype
) -> tuple[PreTrainedModel, LlavaProcessor]:
    """The model on the device, and its processor."""
    text = LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
    )
    tower = CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=4 * vision.width,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.edge,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=SPECIAL.index("<image>"),
        image_seq_length=vision.tokens,
        tie_word_embeddings=False,
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype).eval()
    images = CLIPImageProcessorPil(
        size={"shortest_edge": vision.edge},
        crop_size={"height": vision.edge, "width": vision.edge},
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(shape),
        patch_size=PATCH,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    return model, processor


def with_images(processor: LlavaProcessor) -> Encode:
    def encode(said: Sequence[Line]) -> Mapping[str, Tensor]:
        return processor(
            text=[f"<image>{line.text}" for line in said],
            images=[line.image for line in said],
            padding=True,
            return_tensors="pt",
        )

    return encode


def picture(vision: Vision, seed: int) -> Image.Image:
    """Random pixels, of the size that the tower takes."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 255, (vision.edge, vision.edge, 3), dtype=np.uint8))
