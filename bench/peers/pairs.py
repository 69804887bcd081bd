"""Contrast pairs of random words, and how transformers alone reads them.

Needs torch and transformers only: the environments of the peers import it too.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peers.shapes import SEED, Shape
from peers.shapes import SHAPES as GENERATING
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHAPES = {"quick": Shape(64, 4, 4, 4, 96, 512), "llama-1024": GENERATING["llama-1024"]}
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""By number type: how far a state may be from another way's, relative to its norm."""


@dataclass(frozen=True)
class Pair:
    """A prompt with the two completions that it is read behind."""

    prompt: str
    positive: str
    negative: str
    image: Any = None

    @property
    def num_words(self) -> int:
        """Its distinct words, each of which is a token."""
        return len(f"{self.prompt} {self.positive} {self.negative}".split())


class Line(NamedTuple):
    """A prompt with one of its completions."""

    text: str
    image: Any


Read = Callable[[Sequence[Pair]], Tensor]
"""The state of the last token, `(2n, d)` in float32: of all positive lines, then the negative."""
Encode = Callable[[Sequence[Line]], Mapping[str, Tensor]]


def random_pairs(
    shape: Shape, num: int, *, shortest: int = 24, longest: int = 24, said: int = 4
) -> list[Pair]:
    """Pairs with prompts of so many words, and completions of `said`."""
    draw = random.Random(SEED)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(len(SPECIAL), shape.vocabulary)}" for _ in range(count))

    return [
        Pair(words(draw.randint(shortest, longest)), words(said), words(said)) for _ in range(num)
    ]


def lines(pairs: Sequence[Pair]) -> list[Line]:
    """The positive line of every pair, then every negative one."""
    positive = [Line(f"{p.prompt} {p.positive}", p.image) for p in pairs]
    return positive + [Line(f"{p.prompt} {p.negative}", p.image) for p in pairs]


def tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """One token for every word between spaces; without a chat template."""
    words = {word: i for i, word in enumerate(SPECIAL)}
    words |= {f"w{i}": i for i in range(len(SPECIAL), shape.vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def text_only(words: PreTrainedTokenizerFast) -> Encode:
    return lambda said: words([line.text for line in said], padding=True, return_tensors="pt")


def whole(model: PreTrainedModel, encode: Encode, layer: int, batch: int) -> Read:
    """The whole model with its head, over lines of similar length; every state of it is kept."""

    def read(pairs: Sequence[Pair]) -> Tensor:
        said = lines(pairs)
        order = sorted(range(len(said)), key=lambda i: len(said[i].text.split()))
        rows = torch.zeros(len(said), model.get_input_embeddings().embedding_dim)
        for start in range(0, len(order), batch):
            picked = order[start : start + batch]
            inputs = {
                name: value.to(model.device, model.dtype if value.is_floating_point() else None)
                for name, value in encode([said[i] for i in picked]).items()
            }
            with torch.inference_mode():
                out = model(**inputs, output_hidden_states=True, use_cache=False)
            rows[picked] = out.hidden_states[layer + 1][:, -1].float().cpu()
        return rows

    return read


def distance(rows: Tensor, wanted: Tensor) -> float:
    """How far the worst row is from the wanted one, relative to its norm."""
    return float(((rows - wanted).norm(dim=1) / wanted.norm(dim=1)).max())
