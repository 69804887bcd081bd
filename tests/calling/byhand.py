"""What every way of calling must give: a plain hook by hand, and one request at a time."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import oracle
import tiny
from steersman.backends.hf import HFModel
from steersman.core.requests import Request
from steersman.core.types import Prompt

PUSH = 1.5 * torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(8))
OTHER = -0.7 * PUSH.flip(0)
POLICY = oracle.policy(PUSH)
NUM = 8


def _made(seed: int = 2) -> HFModel:
    """Weights that are large enough for an answer to depend on every word before it."""
    torch.manual_seed(seed)
    words = len(tiny.SPECIAL + tiny.WORDS)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=words, initializer_range=0.3, **tiny.TEXT))
    made.generation_config.eos_token_id = None
    made.generation_config.suppress_tokens = [0, 1, 2, 3, *range(4, 9)]  # it says words only
    return HFModel(made.eval(), tiny.tokenizer(), id="talkative")


llama = cache(_made)
"""Shared by tests that leave it as it is."""


def fresh() -> HFModel:
    """One of its own, for tests that wrap it or change its weights."""
    return _made()


@contextmanager
def pushed(model: HFModel, vectors: torch.Tensor = PUSH, layer: int = 1):
    """The scope last_and_generated in a cached call: the last column of every pass.

    Args:
        vectors: `(d,)`, or one for each row `(b, d)`.
    """
    rows = vectors if vectors.dim() == 2 else vectors[None]

    def edit(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[:, :-1], h[:, -1:] + rows[:, None].to(h)], 1)

    with oracle.hand_hook(oracle.blocks_of(model.model)[layer], edit):
        yield


def said(out: object, inputs: dict[str, torch.Tensor]) -> list[list[int]]:
    """The new tokens of each row."""
    ids = out if isinstance(out, torch.Tensor) else out.sequences
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def alone(model: HFModel, prompt: Prompt, num: int = NUM, policy=POLICY, strength=1.0) -> list[int]:
    """What our own generate answers to this one request."""
    request = Request(prompt, policy, strength, max_new_tokens=num)
    return list(model.generate([request])[0].token_ids)


Marks = Callable[[list[int], int], list[bool]]


def behind_prompt(ids: list[int], prompt_length: int) -> list[bool]:
    """Marks the scope last_and_generated."""
    return oracle.marks("last_and_generated", ids, prompt_length, None)


@torch.no_grad()
def greedy(
    model: HFModel,
    inputs: dict[str, torch.Tensor],
    num: int = NUM,
    *,
    vector: torch.Tensor = PUSH,
    marks: Marks = behind_prompt,
) -> tuple[list[int], torch.Tensor]:
    """One row, one token at a time, without a cache: what it says, and the logits `(num, v)`."""
    never, whole = model.model.generation_config.suppress_tokens or [], inputs
    n, tokens, logits = inputs["input_ids"].shape[1], [], []
    for _ in range(num):
        marked = marks(whole["input_ids"][0].tolist(), n)
        logits.append(oracle.hand_logits(model, whole, marked, vector)[0, -1])
        allowed = logits[-1].clone()
        allowed[never] = -torch.inf
        tokens.append(int(allowed.argmax()))
        whole = oracle.extended(inputs, torch.tensor([tokens]))
    return tokens, torch.stack(logits)


@torch.no_grad()
def logits_of(
    model: HFModel,
    inputs: dict[str, torch.Tensor],
    tokens: Sequence[int],
    *,
    vector: torch.Tensor = PUSH,
    marks: Marks = behind_prompt,
) -> torch.Tensor:
    """The logits `(num, v)` that this answer is said from, in one pass."""
    n = inputs["input_ids"].shape[1]
    whole = oracle.extended(inputs, torch.tensor([list(tokens)]))
    marked = marks(whole["input_ids"][0].tolist(), n)
    return oracle.hand_logits(model, whole, marked, vector)[0, n - 1 : -1]


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 2e-4) -> bool:
    return torch.allclose(a, b, atol=atol)
