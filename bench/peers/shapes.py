"""The models that are timed: random weights, and prompts of random tokens.

Needs torch and transformers only: the environments of the peers import it too.
"""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
)

SEED = 0
FIRST, LAST = 3, 500  # the ids that prompts are drawn from: no special token of any shape


@dataclass(frozen=True)
class Shape:
    """How large a model is, and how much it reads and writes.

    Attributes:
        vision: a Qwen2-VL with one block in its vision tower, which text never reaches; else a
            Llama.
        prompt: tokens of every prompt.
        new: tokens that are generated; never fewer, since there is no end token.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    vision: bool = False
    prompt: int = 32
    new: int = 32

    @property
    def layer(self) -> int:
        """The block where steering happens."""
        return self.layers // 2


SHAPES = {
    "quick": Shape(64, 2, 4, 4, 96, 512, prompt=8, new=6),
    "llama-1024": Shape(1024, 16, 16, 16, 2816, 32000),
    "qwen2-vl-7b": Shape(3584, 28, 28, 4, 18944, 152064, vision=True),
}


def build(shape: Shape, device: str, *, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """The model on the device."""
    sizes = dict(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        if shape.vision:
            pairs = shape.width // shape.heads // 2
            section = [pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8]
            rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
            config = Qwen2VLConfig(
                text_config=dict(sizes, rope_parameters=rope),
                vision_config=dict(depth=1, hidden_size=shape.width),
                tie_word_embeddings=False,
            )
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        else:
            config = LlamaConfig(**sizes, tie_word_embeddings=False)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None
    return model.eval()


def prompts(shape: Shape, batch: int, device: str) -> dict[str, Tensor]:
    """Inputs of so many rows, all of one length."""
    draw = torch.Generator().manual_seed(SEED)
    ids = torch.randint(FIRST, LAST, (batch, shape.prompt), generator=draw).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def vector(shape: Shape, device: str) -> Tensor:
    """What a constant steering vector adds, in the model's own type."""
    draw = torch.Generator().manual_seed(SEED)
    return (0.1 * torch.randn(shape.width, generator=draw)).to(device, torch.bfloat16)


def sampling(new: int) -> dict[str, object]:
    """How `generate` is asked for exactly so many greedy tokens, of a model without end token."""
    return dict(max_new_tokens=new, do_sample=False, pad_token_id=0)


def tokenizer() -> PreTrainedTokenizerFast:
    """For those who must have one; the prompts are tokens already."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(FIRST, LAST)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
