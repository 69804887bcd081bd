"""Requests as batches of one model: what the model is given, and what a run is told of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from steersman.backends.edge import Edge, Given
from steersman.backends.entered import only
from steersman.backends.hf_runtime import Run
from steersman.backends.walk import Plan
from steersman.core.requests import Completion, Request
from steersman.core.types import Prompt
from steersman.models.chat import Batch, Chat
from steersman.models.offloaded import runs_on

Going = Callable[[], Bool[Tensor, " b"]]
"""Which rows go on, for callers that end rows themselves."""


class Answered(NamedTuple):
    """A batch that has run.

    Attributes:
        ids: new tokens of each row, with whatever stands behind those that ended before others.
        run: knows the traces.
    """

    ids: Int[Tensor, "b n"]
    run: Run


@dataclass(frozen=True)
class Batches:
    """One model, as requests need it.

    Attributes:
        places: whether a bare call of the model must be told positions.
        lock: held while the model runs.
    """

    model: PreTrainedModel
    chat: Chat
    edge: Edge
    places: bool
    lock: RLock

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return runs_on(self.model) or self.model.device

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        end = self.model.generation_config.eos_token_id
        return [] if end is None else end if isinstance(end, list) else [end]

    def answers(self, requests: Sequence[Request]) -> list[Completion]:
        """One batch of requests of one length and one way of sampling, which are drawn together."""
        batch = self.encode([r.prompt for r in requests])
        first = requests[0]
        settings: dict[str, Any] = {"do_sample": first.temperature > 0}
        if first.temperature > 0:
            # transformers would cut to the 50 most probable tokens by default
            settings |= {"temperature": first.temperature, "top_p": first.top_p, "top_k": 0}
        with self.lock, torch.random.fork_rng():
            torch.manual_seed(first.seed)
            settings["max_new_tokens"] = first.max_new_tokens
            made = self.run(requests, batch, settings)
        said = [self._until_end(row) for row in made.ids.tolist()]
        traces = made.run.traces([len(one) for one in said])
        return [
            Completion(
                self.chat.decode(one),
                tuple(one),
                int(num),
                trace,
                "stop" if one[-1] in self.ends else "length",
            )
            for one, num, trace in zip(said, batch.prompt_length, traces, strict=True)
        ]

    def run(
        self,
        requests: Sequence[Request],
        batch: Batch,
        settings: Mapping[str, Any],
        going: Going | None = None,
    ) -> Answered:
        """Generates for a batch, each row steered as its request asks.

        Args:
            settings: further ones of transformers' `generate`.
            going: as in `Given`.

        Raises:
            RecipeError: a request lacks the vectors that its policy takes.
        """
        plans = [Plan.of(request) for request in requests]
        given = replace(self.told(requests, batch), going=going)
        run = Run(self.edge_of(requests[0].prompt.plain), plans, given=given)
        with self.lock, only(), torch.no_grad(), run:
            ids = self.model.generate(  # pyright: ignore[reportCallIssue]  # a mixin's method
                **batch.inputs,
                pad_token_id=self.chat.tokenizer.pad_token_id,
                num_return_sequences=1,  # whatever the model's own settings are
                return_dict_in_generate=False,
                **settings,
            )
        return Answered(ids[:, batch.inputs["input_ids"].shape[1] :], run)

    def told(self, requests: Sequence[Request], batch: Batch) -> Given:
        """What a run must know of prompts that may force the beginning of the answer."""
        ends = self.ends
        return Given(
            prompt_tokens=tuple(batch.prompt_length.tolist()),
            num_generated=int(batch.completion_length.max()),
            ids=batch.inputs["input_ids"],
            bare=self._bare(requests),
            ends=torch.tensor(ends, device=self.device) if ends else None,
        )

    def edge_of(self, plain: bool) -> Edge:
        """Plain prompts have no generation prompt."""
        return replace(self.edge, suffix=0) if plain else self.edge

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """Prompts as the model takes them, on its device and in its number type."""
        batch = self.chat.encode(prompts)
        inputs = {k: v.to(self.device) for k, v in batch.inputs.items()}
        dtype = self.model.dtype
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return replace(batch, inputs=cast)

    def placed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With positions that leave padding out: `generate` makes them, a bare call does not."""
        if not self.places:
            return inputs
        return {**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}

    def _bare(self, requests: Sequence[Request]) -> dict[str, Tensor] | None:
        """Prompts without generation prompt, for templates that do not just append it."""
        reads = [r for q in requests if q.policy is not None for r in q.policy.reads]
        suffix = self.edge_of(requests[0].prompt.plain).suffix
        if suffix is not None or all(r.generation_prompt for r in reads):
            return None
        bare = [replace(q.prompt, generation_prompt=False, completion=None) for q in requests]
        return self.placed(self.encode(bare).inputs)

    def _until_end(self, token_ids: list[int]) -> list[int]:
        ends = set(self.ends)
        end = next((i for i, token in enumerate(token_ids) if token in ends), len(token_ids))
        return token_ids[: end + 1]
