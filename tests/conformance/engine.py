"""What the table of backends needs of a backend, and transformers in every way that it runs."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import tiny
from packing import D
from steersman.backends.hf import HFModel
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Policy

IMAGE = 4
"""The id of tokens that count as an image's; this model reads them as it reads words."""


TOLD = 1 << 10


@dataclass(frozen=True)
class Ask:
    """One prompt, as token ids, and how its answer is steered."""

    ids: tuple[int, ...]
    policy: Policy | None = None
    strength: float = 1.0
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The tokens of a greedy answer, and the logits `(n, v)` that each was taken from."""

    tokens: list[int]
    logits: torch.Tensor
    trace: Mapping[str, SteererTrace]


class Engine(Protocol):
    """A backend, in one of the ways in which it runs. One more of them is one more row of ENGINES.

    Attributes:
        precise: computes in float32, so that another way of running gives nearly the same numbers.
        bitwise: a row's bits do not depend on what else is in a batch of the same shape.
        whole_prompts: takes prompts in one piece, as policies need that read behind their writes.
        keeps: caches what was written, as policies need that look again behind their writes.
    """

    name: str
    precise: bool
    bitwise: bool
    whole_prompts: bool
    keeps: bool

    def run(self, asks: Sequence[Ask], num: int) -> list[Answer]: ...


@cache
def weights(dtype: torch.dtype = torch.float32) -> HFModel:
    """The model that every engine runs: states of the size that the parts' EXAMPLES expect."""
    words = tiny.tokenizer()
    sizes = dict(hidden_size=D, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1)
    torch.manual_seed(1)
    config = LlamaConfig(
        **{**tiny.TEXT, **sizes}, vocab_size=len(words), tie_word_embeddings=False,
        image_token_id=IMAGE,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.4)
        model.model.embed_tokens.weight.normal_()
    return HFModel(deepcopy(model).to(dtype), words, id="tiny-8")


@dataclass(frozen=True)
class HF:
    """Transformers, with a loop by hand or its own `generate`.

    Attributes:
        way: `generate` of transformers; our own loop over the cache; or the answer that `generate`
            gave, behind its prompt in one pass.
        piece: columns of the prompt that run in one pass; 0 for all, TOLD for all and their number.
    """

    name: str
    way: Literal["generate", "loop", "one pass"] = "generate"
    cache: Literal["dynamic", "static", "none"] = "dynamic"
    side: Literal["left", "right"] = "left"
    piece: int = 0
    dtype: torch.dtype = torch.float32
    bitwise: bool = True

    @property
    def precise(self) -> bool:
        return self.dtype == torch.float32

    @property
    def whole_prompts(self) -> bool:
        return self.piece in (0, TOLD)

    @property
    def keeps(self) -> bool:
        return self.cache != "none" and self.way != "one pass"

    @torch.no_grad()
    def run(self, asks: Sequence[Ask], num: int) -> list[Answer]:
        model = weights(self.dtype)
        lengths = [len(ask.ids) for ask in asks]
        told = lengths if self.piece or self.way == "one pass" else None
        ids, mask = self._padded([ask.ids for ask in asks])
        said = None
        if self.way == "one pass":
            said = torch.tensor([a.tokens for a in HF("first").run(asks, num)])
        settings = {"vectors": [ask.vectors for ask in asks], "prompt_tokens": told}
        plans = [ask.policy for ask in asks], [ask.strength for ask in asks]
        with model.steer(*plans, **settings) as run:
            if self.way == "generate":
                tokens, logits = self._generate(ids, mask, num)
            elif said is not None:
                tokens, logits = said, self._one_pass(ids, mask, said)
            else:
                tokens, logits = self._loop(ids, mask, num)
            traces = run.traces()
        rows = zip(tokens.tolist(), logits, traces, strict=True)
        return [Answer(t, one, trace) for t, one, trace in rows]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(row) for row in rows)
        ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            at = slice(width - len(row), None) if self.side == "left" else slice(len(row))
            ids[i, at], mask[i, at] = torch.tensor(row), 1
        return ids, mask

    def _generate(self, ids, mask, num):
        kind = {"dynamic": {}, "static": {"cache_implementation": "static"},
                "none": {"use_cache": False}}[self.cache]  # fmt: skip
        out = weights(self.dtype).model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=num, do_sample=False,
            pad_token_id=0, output_logits=True, return_dict_in_generate=True, **kind,
        )  # fmt: skip
        return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, 1)

    def _one_pass(self, ids, mask, said):
        whole = torch.cat([ids, said[:, :-1]], 1)
        seen = torch.cat([mask, torch.ones_like(said[:, :-1])], 1)
        place = (seen.cumsum(1) - 1).clamp(min=0)
        model = weights(self.dtype).model
        out = model(input_ids=whole, attention_mask=seen, position_ids=place, use_cache=False)
        return out.logits[:, ids.shape[1] - 1 :]

    def _loop(self, ids, mask, num):
        model, rows = weights(self.dtype).model, torch.arange(len(ids))
        place = (mask.cumsum(1) - 1).clamp(min=0)
        kept = (
            StaticCache(config=model.config, max_cache_len=64) if self.cache == "static" else None
        )
        found = torch.zeros(len(ids), ids.shape[1], model.config.vocab_size)
        width = self.piece or ids.shape[1]
        for first in range(0, ids.shape[1], width):
            columns = slice(first, first + width)
            out = model(
                input_ids=ids[:, columns], attention_mask=mask[:, : first + width],
                position_ids=place[:, columns], past_key_values=kept, use_cache=True,
            )  # fmt: skip
            kept, found[:, columns] = out.past_key_values, out.logits.float()
        last = (mask * torch.arange(1, ids.shape[1] + 1)).argmax(1)
        logits, tokens = [found[rows, last].to(out.logits.dtype)], []
        for step in range(num):
            tokens.append(logits[-1].argmax(-1, keepdim=True))
            if step == num - 1:
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = model(
                input_ids=tokens[-1], attention_mask=mask, past_key_values=kept, use_cache=True,
                position_ids=mask.sum(1, keepdim=True) - 1,
            )  # fmt: skip
            kept = out.past_key_values
            logits.append(out.logits[:, -1])
        return torch.cat(tokens, 1), torch.stack(logits, 1)


REFERENCE = HF("generate")
ENGINES: tuple[Engine, ...] = (
    REFERENCE,
    HF("static cache", cache="static"),
    HF("no cache", cache="none"),
    HF("one pass", way="one pass"),
    HF("length told", way="loop", piece=TOLD),
    HF("pieces", way="loop", piece=4),
    HF("pieces, static cache, right padding", way="loop", piece=5, cache="static", side="right"),
    HF("right padding", way="loop", side="right"),
    HF("bfloat16", dtype=torch.bfloat16),
)
