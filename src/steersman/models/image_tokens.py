"""Which token of a sequence stands for a piece of an image, and who reads nothing else."""

import inspect

from transformers import PreTrainedConfig, PreTrainedModel

NAMES = ("image_token_id", "image_token_index")
"""What configurations call it; most of them answer to both."""


def image_token(config: PreTrainedConfig) -> int | None:
    """The id that stands where an image's states go, or None if the sequence holds none.

    None for a model without images, and for one whose blocks look at the image by cross-attention:
    its sequence has a mark that an image was given, which is a token like any other.
    """
    if getattr(config.get_text_config(decoder=True), "cross_attention_layers", None):
        return None
    for name in NAMES:
        token = getattr(config, name, None)
        if token is not None:
            return int(token)
    return None


def needs_image(model: PreTrainedModel) -> bool:
    """Whether the model's forward pass cannot run without an image."""
    pixels = inspect.signature(model.forward).parameters.get("pixel_values")
    return pixels is not None and pixels.default is inspect.Parameter.empty
