"""What the tiny vision-language models share: words with image tokens, sizes, seeded models."""

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

import tiny
from steersman.backends.hf import HFModel

IMAGE, PATCHES = 28, 4  # pixels of an image's side, and the tokens it becomes
SIZE = {"height": IMAGE, "width": IMAGE}
TOWER = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=IMAGE,
    patch_size=14,
)
FINE = {**TOWER, "patch_size": 7}  # four patches become one token
GRID = [[28, 28], [28, 56], [56, 28]]
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
ZERO_AT_FIRST = ("_gate", "query_tokens", "mm_input_projection_weight", "vqmodel.quant_conv.weight")
"""Weights that new models have at zero, or so small that no image would change anything."""


def words(
    *special: str, template: str | None = tiny.TEMPLATE, image: str = "<image>", **named: str
) -> hf.PreTrainedTokenizerFast:
    """Whole words; `special` and `named` are tokens that a processor puts around images."""
    tokens = dict.fromkeys([*tiny.SPECIAL, *tiny.WORDS, image, *special, *named.values()])
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(t, special=True) for t in (image, *special)])
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        sep_token="<sep>" if "<sep>" in tokens else None,
        additional_special_tokens=tiny.SPECIAL[4:],
        extra_special_tokens=named,
    )
    made.chat_template = template and template.replace("IMAGE", image)
    return made


def model_of(
    cls: type[hf.PreTrainedModel],
    config: hf.PreTrainedConfig,
    processor: hf.ProcessorMixin,
    quiet: list[int],
) -> HFModel:
    """A seeded model that never says these tokens, which no second pass could read."""
    torch.manual_seed(0)
    model = cls(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = sorted({4, 5, 6, 7, 8, *quiet})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(ZERO_AT_FIRST):
                parameter.normal_()
    return HFModel(model, processor, id=f"tiny-{config.model_type}")


def text(kind: type[hf.PreTrainedConfig], tokens: hf.PreTrainedTokenizerFast, **changed: object):
    return kind(**{**tiny.TEXT, "vocab_size": len(tokens), **changed})
