"""Processors for machines without torchvision: images by PIL, no video."""

from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2VLProcessor,
)

QWEN_VL = ("qwen2_vl", "qwen2_5_vl")


class ImageOnlyQwen2VLProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without its video half, which exists for torchvision only."""

    def __init__(
        self,
        image_processor: object = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        assert tokenizer is not None
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.video_token = getattr(tokenizer, "video_token", "<|video_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def load_processor(path: str, model_type: str) -> ProcessorMixin:
    """The processor at `path`; Qwen2-VL falls back to images only where torchvision is missing.

    Raises:
        ValueError: what is there prepares no images.
    """
    try:
        made = AutoProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
        if getattr(made, "image_processor", None) is not None:
            return made
    except (ImportError, AttributeError, ValueError):
        if model_type not in QWEN_VL:
            raise
    if model_type not in QWEN_VL:  # transformers answers with the tokenizer alone
        raise ValueError("its processor prepares no images, though the model sees them.")
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    images = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    return ImageOnlyQwen2VLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
