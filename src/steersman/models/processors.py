"""Processors for machines without torchvision: images by PIL, no video."""

from functools import cache

import transformers
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    Idefics3Processor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SmolVLMProcessor,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

VIDEO = "video_processor"
SAME_IMAGES: dict[type[ProcessorMixin], type[ProcessorMixin]] = {
    SmolVLMProcessor: Idefics3Processor  # its video half asks for num2words, too
}
"""Processors whose image half is another processor."""


class NoVideo:
    """Stands where a processor keeps its video half, which exists for torchvision only."""

    _auto_class = None
    model_input_names: tuple[str, ...] = ()


class ImageOnly(ProcessorMixin):
    """Put before a processor class, this leaves its video half out."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
        if isinstance(argument, NoVideo):
            return NoVideo
        return super().check_argument_for_proper_class(argument_name, argument)

    def to_dict(self) -> dict[str, object]:
        return {name: value for name, value in super().to_dict().items() if name != VIDEO}


@cache
def image_only(cls: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """`cls` without its video half: it is given and asked for images and text alone."""
    cls = SAME_IMAGES.get(cls, cls)
    if VIDEO not in cls.get_attributes():
        return cls
    return type(cls.__name__, (ImageOnly, cls), {})


def make_image_only(
    cls: type[ProcessorMixin],
    image_processor: object,
    tokenizer: PreTrainedTokenizerBase,
    **settings: object,
) -> ProcessorMixin:
    """A processor like those of `cls`, for images and text."""
    made = image_only(cls)
    parts = {"image_processor": image_processor, "tokenizer": tokenizer, VIDEO: NoVideo()}
    return made.from_args_and_dict([parts[name] for name in made.get_attributes()], settings)


def load_processor(path: str, model_type: str) -> ProcessorMixin:
    """The processor at `path`, for images and text alone where torchvision is missing.

    Raises:
        ValueError: what is there prepares no images, or none without torchvision.
    """
    name = PROCESSOR_MAPPING_NAMES.get(model_type)
    cls = getattr(transformers, name) if name else None
    if getattr(cls, "is_dummy", False):  # what transformers shows where a library is missing
        raise ValueError(f"its {name} needs torchvision, which is missing. Install torchvision.")
    has_video = cls is not None and VIDEO in cls.get_attributes()
    try:
        made = AutoProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
        if getattr(made, "image_processor", None) is not None:
            return made
    except (ImportError, AttributeError, OSError, ValueError, TypeError):
        if not has_video:
            raise
    if not has_video:  # transformers answers with the tokenizer alone
        raise ValueError("its processor prepares no images, though the model sees them.")
    saved, _ = cls.get_processor_dict(path)
    settings = {name: value for name, value in saved.items() if name not in cls.get_attributes()}
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    images = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    settings.setdefault("chat_template", tokenizer.chat_template)
    return make_image_only(cls, images, tokenizer, **settings)
