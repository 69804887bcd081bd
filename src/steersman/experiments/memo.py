"""A model that remembers what it captured, for sweeps that read the same prompts at many sites."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

from steersman.core.requests import Backend, Completion, Request
from steersman.core.types import Activations, AnswerStates, ModelSpec, Position, Prompt, Site


class MemoModel:
    """Wraps a backend: one pass over a list of prompts serves every `resid_post` site of it.

    Memory grows with rows x layers x width, so this is for sweeps over small models and data.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._kept: dict[str, Activations] = {}

    @property
    def spec(self) -> ModelSpec:
        return self._backend.spec

    def capture(
        self, prompts: Sequence[Prompt], sites: Sequence[Site], position: Position = Position()
    ) -> Activations:
        """As the backend's; repeated prompts cost nothing."""
        every = self.spec.sites()
        if not set(sites) <= set(every):
            return self._backend.capture(prompts, sites, position)
        key = _key(prompts, position)
        if key not in self._kept:
            self._kept[key] = self._backend.capture(prompts, every, position)
        return Activations({site: self._kept[key][site] for site in sites})

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        return self._backend.complete(prompts, max_new_tokens, temperature=temperature, seed=seed)

    def answer_states(self, prompts: Sequence[Prompt]) -> AnswerStates:
        return self._backend.answer_states(prompts)

    def logits(self, states: Tensor) -> Tensor:
        return self._backend.logits(states)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return self._backend.generate(requests)


def _key(prompts: Sequence[Prompt], position: Position) -> str:
    digest = hashlib.sha256(repr(position).encode())
    for p in prompts:
        said = (p.text, p.system, p.completion, p.close_turn, p.generation_prompt, len(p.images))
        digest.update(repr(said).encode())
        for image in p.images:
            digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()
