"""Prompts to tokens: chat template, images, forced completions, left padding."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from steersman.core.errors import ModelError, RecipeError
from steersman.core.types import Prompt

PER_TOKEN = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "cross_attention_mask",  # (b, s, images, tiles): which images a token looks at
    "image_embeds_position_mask",
)
FOR_TRAINING = "labels"  # from processors whose token types tell the prompt (0) from the answer (1)
Row = dict[str, Tensor]
"""The per-token inputs of one prompt, tokens first, without padding."""


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
class Encoded:
    """Prompts as tokens, without padding.

    Attributes:
        rows: the per-token inputs of each prompt, its completion included.
        prompt_length: tokens of each prompt, its completion not counted.
        images: the inputs that belong to the images of the prompts `processed`, in their order.
        processed: indices of the prompts that the processor saw.
        answer_type: the type of an answer's tokens, in models that tell types apart.
    """

    rows: list[Row]
    prompt_length: list[int]
    images: dict[str, Tensor]
    processed: list[int]
    answer_type: int = 0


@dataclass(frozen=True)
class Chat:
    """Renders prompts for one model.

    Args:
        processor: a processor, or a tokenizer for a model without images.
        needs_images: whether the model cannot run without an image.
    """

    processor: ProcessorMixin | PreTrainedTokenizerBase
    needs_images: bool = False

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
        return self._own_template or getattr(self.tokenizer, "chat_template", None)

    @property
    def _own_template(self) -> str | None:
        return getattr(self.processor, "chat_template", None)

    def suffix(self) -> int | None:
        """Tokens of the generation prompt, or None if the template does not just append them."""
        ids = self.suffix_ids()
        return None if ids is None else len(ids)

    def suffix_ids(self) -> tuple[int, ...] | None:
        """The generation prompt itself, or None if the template does not just append it."""
        if self.template is None:
            return ()
        found: set[tuple[int, ...]] = set()
        for text in ("a", "What is this?"):
            given = [Prompt(text, generation_prompt=flag) for flag in (True, False)]
            try:
                with_it, without = (self._process([p])[0][0]["input_ids"].tolist() for p in given)
            except ModelError:  # text alone is refused, and tells nothing
                return None
            if with_it[: len(without)] != without:
                return None
            found.add(tuple(with_it[len(without) :]))
        return found.pop() if len(found) == 1 else None

    def text(self, prompt: Prompt) -> str:
        """The rendered chat, without an open completion.

        Raises:
            RecipeError: a turn is to be closed, and no template says how.
        """
        if self.template is None or prompt.plain:
            if prompt.close_turn and prompt.completion is not None:
                raise RecipeError(
                    "close_turn ends the turn as the chat template does, and this model has no "
                    "template. Leave close_turn out."
                )
            image = self._placeholder() * len(prompt.images)
            if prompt.plain:
                return image + prompt.text
            said = (prompt.system, *(turn.text for turn in prompt.history), image + prompt.text)
            return "\n".join(part for part in said if part)
        messages = []
        if prompt.system is not None:
            messages.append({"role": "system", "content": self._content(prompt.system, 0)})
        for turn in prompt.history:
            messages.append({"role": turn.role, "content": self._content(turn.text, 0)})
        messages.append({"role": "user", "content": self._content(prompt.text, len(prompt.images))})
        closed = prompt.close_turn and prompt.completion is not None
        if closed:
            messages.append({"role": "assistant", "content": self._content(prompt.completion, 0)})
        # Plain tokenizers and processors share the call; only processors take content lists.
        speaker = self.processor if self._own_template else self.tokenizer
        return speaker.apply_chat_template(
            messages, add_generation_prompt=prompt.generation_prompt and not closed, tokenize=False
        )

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """All prompts as one batch. Either all of them have images, or none has.

        Raises:
            RecipeError: images were given to a model that takes none, or none to one that needs
                them.
            ModelError: the processor refuses a prompt.
        """
        made = self.rows(prompts)
        lengths = torch.tensor([len(row["input_ids"]) for row in made.rows])
        prompts_only = torch.tensor(made.prompt_length)
        return Batch(
            {**self.padded(made.rows), **made.images}, prompts_only, lengths - prompts_only
        )

    def rows(self, prompts: Sequence[Prompt], same: Sequence[Hashable] | None = None) -> Encoded:
        """The tokens of all prompts. Either all of them have images, or none has.

        Args:
            same: equal for prompts with equal images; prompts with equal text, too, are then
                processed once.

        Raises:
            RecipeError: images were given to a model that takes none, or none to one that needs
                them.
            ModelError: the processor refuses a prompt.
        """
        has_images = [bool(p.images) for p in prompts]
        assert all(has_images) or not any(has_images), "batches with and without images are apart"
        assert len({p.plain for p in prompts}) == 1, "plain prompts are apart"
        if has_images[0] and not self.takes_images:
            raise RecipeError("A prompt has an image, but this model reads text only.")
        if self.needs_images and not has_images[0]:
            raise RecipeError(
                "A prompt has no image, but this model cannot run without one. Give each an image."
            )
        if self._images_in_front and max(len(p.images) for p in prompts) > 1:
            raise RecipeError(
                "A prompt has several images, but this model reads one, in front of the text. Give "
                "one to each prompt."
            )
        texts = [self.text(p) for p in prompts]
        keys = [*zip(texts, same, strict=True)] if same is not None else [*range(len(prompts))]
        processed = {key: i for i, key in reversed([*enumerate(keys)])}
        firsts = sorted(processed.values())
        place = {keys[i]: n for n, i in enumerate(firsts)}
        once, extra, answer_type = self._process([prompts[i] for i in firsts])
        rows = [once[place[key]] for key in keys]
        prompt_length = [len(row["input_ids"]) for row in rows]
        if any(p.close_turn and p.completion is not None for p in prompts):
            opened = [replace(p, completion=None, close_turn=False) for p in prompts]
            before, _, _ = self._process(opened)
            prompt_length = [
                _common(b["input_ids"], r["input_ids"]) for b, r in zip(before, rows, strict=True)
            ]
        for i, prompt in enumerate(prompts):
            if prompt.completion is not None and not prompt.close_turn:
                forced = self._tokenize(prompt.completion, special=False)
                rows[i] = continued(rows[i], torch.tensor(forced, dtype=torch.long), answer_type)
        return Encoded(rows, prompt_length, extra, firsts, answer_type)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, special ones left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()

    @property
    def _images_in_front(self) -> bool:
        """Whether the processor itself puts the tokens of one image before the text."""
        return getattr(self.processor, "num_query_tokens", None) is not None

    def _placeholder(self) -> str:
        """What stands for an image in plain text."""
        return "" if self._images_in_front else str(getattr(self.processor, "image_token", ""))

    def _content(self, text: str, num_images: int) -> object:
        if not self.takes_images:
            return text
        return [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def _process(self, prompts: Sequence[Prompt]) -> tuple[list[Row], dict[str, Tensor], int]:
        """Unpadded rows, the inputs that belong to images, and the token type of an answer."""
        texts = [self.text(p) for p in prompts]
        if not self.takes_images:
            special = self.template is None or prompts[0].plain
            ids = [torch.tensor(self._tokenize(t, special=special)).long() for t in texts]
            return [{"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids], {}, 0
        bos = self.tokenizer.bos_token
        templated = self.template is not None and not prompts[0].plain
        doubled = templated and bos is not None and texts[0].startswith(bos)
        images = [[image.convert("RGB") for image in p.images] for p in prompts]
        try:
            made = self.processor(
                text=texts,
                images=images if prompts[0].images else None,
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
                name: made[name][i][keep[i]]
                for name in PER_TOKEN
                if name in made and made[name].shape[:2] == shape
            }
            for i in range(len(prompts))
        ]
        others = {n: made[n] for n in made if n not in PER_TOKEN and n != FOR_TRAINING}
        return rows, others, int(FOR_TRAINING in made)

    def padded(
        self, rows: Sequence[Row], side: Literal["left", "right"] = "left"
    ) -> dict[str, Tensor]:
        """Rows as one batch."""
        fill = {"input_ids": self.tokenizer.pad_token_id or 0}
        return {
            name: pad_sequence(
                [row[name] for row in rows],
                batch_first=True,
                padding_value=fill.get(name, 0),
                padding_side=side,
            )
            for name in rows[0]
        }


def continued(row: Row, forced: Int[Tensor, " n"], answer_type: int) -> Row:
    """The row with tokens of the answer behind it, which look at the images that its end saw."""
    behind: Row = {"input_ids": forced, "attention_mask": torch.ones_like(forced)}
    behind["token_type_ids"] = torch.full_like(forced, answer_type)
    if "cross_attention_mask" in row:
        seen = row["cross_attention_mask"]
        behind["cross_attention_mask"] = seen[-1:].expand(len(forced), *seen.shape[1:])
    return {
        name: torch.cat([was, behind.get(name, torch.zeros_like(forced)).to(was.dtype)])
        for name, was in row.items()
    }


def _common(first: Int[Tensor, " n"], second: Int[Tensor, " m"]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(first), len(second))
    return int((first[:shorter] == second[:shorter]).long().cumprod(0).sum())
