"""Who a model is that another program runs: told from its files."""

from pathlib import Path

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

from steersman.core.errors import ModelError
from steersman.core.types import ModelSpec
from steersman.models.fingerprint import fingerprint, fingerprint_without_weights
from steersman.models.image_tokens import image_token
from steersman.models.load import LOADING, load_pretrained
from steersman.models.processors import load_processor

SMALL = 4_000_000_000  # bytes of weights that are read to be compared


def processor_of(path: str) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The processor of a model, or its tokenizer if it reads text only.

    Raises:
        ModelError: there is none.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return load_processor(path, config.model_type)
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except LOADING as error:
        raise ModelError(
            f"The processor of {path} could not be loaded ({str(error).splitlines()[0]}), and the "
            "chat template is needed to compare the model with the policies."
        ) from error


def spec_of(path: str, *, weights: bool | None = None) -> ModelSpec:
    """The spec of the model at `path`, as if it had been loaded.

    Args:
        weights: read them for their fingerprint; None does so where they are few.

    Raises:
        ModelError: it cannot be read.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    text = config.get_text_config(decoder=True)
    pictures = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    mapping = (
        transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if pictures
        else transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    )
    if weights is None:
        weights = 0 < _size(path) <= SMALL
    if weights:
        loaded = load_pretrained(path)
        hashes = fingerprint(loaded.model, loaded.processor)
    else:
        hashes = fingerprint_without_weights(config, processor_of(path))
    return ModelSpec(
        id=path,
        architecture=mapping[type(config)].__name__,
        d_model=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_heads=getattr(text, "num_attention_heads", 0),
        modalities=("text", "image") if pictures else ("text",),
        fingerprint=hashes,
    )


def image_token_of(path: str) -> int | None:
    """As `models.image_tokens.image_token`, for a model that is not loaded."""
    return image_token(AutoConfig.from_pretrained(path, trust_remote_code=False))


def _size(path: str) -> int:
    folder = Path(path)
    if not folder.is_dir():
        return 0
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
