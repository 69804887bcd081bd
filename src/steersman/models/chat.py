"""Prompts to tokens: chat template, images, forced completions, left padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from steersman.core.errors import ModelError, RecipeError
from steersman.core.types import Prompt

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward pass, padded on the left.

    Attributes:
        inputs: what the model's forward takes.
        prompt_length: tokens of each prompt, its completion not counted.
        completion_length: tokens of each forced completion.
    """

    inputs: dict[str, Tensor]
    prompt_length: Int[Tensor, " b"]
    completion_length: Int[Tensor, " b"]


@dataclass(frozen=True)
class Chat:
    """Renders prompts for one model.

    Args:
        processor: a processor, or a tokenizer for a model without images.
    """

    processor: ProcessorMixin | PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def takes_images(self) -> bool:
        return getattr(self.processor, "image_processor", None) is not None

    @property
    def template(self) -> str | None:
        own = getattr(self.processor, "chat_template", None)
        return own or getattr(self.tokenizer, "chat_template", None)

    def suffix(self) -> int | None:
        """Tokens of the generation prompt, or None if the template does not just append them."""
        if self.template is None:
            return 0
        lengths = set()
        for text in ("a", "What is this?"):
            with_it, without = (
                self._tokenize(self.text(Prompt(text, generation_prompt=flag)))
                for flag in (True, False)
            )
            if with_it[: len(without)] != without:
                return None
            lengths.add(len(with_it) - len(without))
        return lengths.pop() if len(lengths) == 1 else None

    def text(self, prompt: Prompt) -> str:
        """The rendered chat, without an open completion."""
        if self.template is None:
            image = getattr(self.processor, "image_token", "") * len(prompt.images)
            return "\n".join(part for part in (prompt.system, image + prompt.text) if part)
        messages = []
        if prompt.system is not None:
            messages.append({"role": "system", "content": self._content(prompt.system, 0)})
        messages.append({"role": "user", "content": self._content(prompt.text, len(prompt.images))})
        closed = prompt.close_turn and prompt.completion is not None
        if closed:
            messages.append({"role": "assistant", "content": self._content(prompt.completion, 0)})
        # Plain tokenizers and processors share the call; only processors take content lists.
        return self.processor.apply_chat_template(
            messages, add_generation_prompt=prompt.generation_prompt and not closed, tokenize=False
        )

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """All prompts as one batch. Either all of them have images, or none has.

        Raises:
            RecipeError: images were given to a model that takes none.
        """
        has_images = [bool(p.images) for p in prompts]
        assert all(has_images) or not any(has_images), "batches with and without images are apart"
        if has_images[0] and not self.takes_images:
            raise RecipeError("A prompt has an image, but this model reads text only.")
        rows, extra = self._process(prompts)
        prompt_length = [len(row["input_ids"]) for row in rows]
        if any(p.close_turn and p.completion is not None for p in prompts):
            opened = [replace(p, completion=None, close_turn=False) for p in prompts]
            before, _ = self._process(opened)
            prompt_length = [
                _common(b["input_ids"], r["input_ids"]) for b, r in zip(before, rows, strict=True)
            ]
        for row, prompt in zip(rows, prompts, strict=True):
            if prompt.completion is not None and not prompt.close_turn:
                forced = self._tokenize(prompt.completion, special=False)
                for name in row:
                    fill = {"input_ids": forced, "attention_mask": [1] * len(forced)}
                    row[name] = row[name] + fill.get(name, [0] * len(forced))
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        prompts_only = torch.tensor(prompt_length)
        return Batch({**self._padded(rows), **extra}, prompts_only, lengths - prompts_only)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, special ones left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()

    def _content(self, text: str, num_images: int) -> object:
        if not self.takes_images:
            return text
        return [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]

    def _tokenize(self, text: str, *, special: bool | None = None) -> list[int]:
        if special is None:
            bos = self.tokenizer.bos_token
            special = self.template is None or (
                self.takes_images and not (bos is not None and text.startswith(bos))
            )
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def _process(
        self, prompts: Sequence[Prompt]
    ) -> tuple[list[dict[str, list[int]]], dict[str, Tensor]]:
        """Unpadded rows of the per-token inputs, and the inputs that belong to images."""
        texts = [self.text(p) for p in prompts]
        if not prompts[0].images:
            ids = [self._tokenize(t) for t in texts]
            return [{"input_ids": i, "attention_mask": [1] * len(i)} for i in ids], {}
        bos = self.tokenizer.bos_token
        doubled = self.template is not None and bos is not None and texts[0].startswith(bos)
        images = [[image.convert("RGB") for image in p.images] for p in prompts]
        try:
            made = self.processor(
                text=texts,
                images=images,
                return_tensors="pt",
                padding=True,
                **({"add_special_tokens": False} if doubled else {}),
            )
        except (ValueError, OSError) as error:
            raise ModelError(
                f"{type(self.processor).__name__} could not process the prompt {texts[0][:80]!r}: "
                f"{error}"
            ) from error
        shape = made["input_ids"].shape
        keep = made["attention_mask"].bool()
        rows = [
            {
                name: made[name][i][keep[i]].tolist()
                for name in PER_TOKEN
                if name in made and made[name].shape == shape
            }
            for i in range(len(prompts))
        ]
        return rows, {name: made[name] for name in made if name not in PER_TOKEN}

    def _padded(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        fill = {"input_ids": pad}
        return {
            name: torch.tensor(
                [[fill.get(name, 0)] * (longest - len(row[name])) + row[name] for row in rows]
            )
            for name in rows[0]
        }


def _common(first: list[int], second: list[int]) -> int:
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
