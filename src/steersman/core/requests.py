"""What is asked of a backend and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.roles import Model
from steersman.core.steerer import Policy, not_a_policy
from steersman.core.types import Prompt

Finish = Literal["stop", "length", "cancelled"]
SHADOW = "shadow"
"""Why a request in shadow was not steered."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete, steered by its own policy or by none.

    Attributes:
        strength: multiplies the fitted strength of every steerer; 1 is as fitted, 0 unsteered.
        vectors: by steerer, for synthesizers that take their vector from the request.
        temperature: 0 is greedy.
        seed: of sampling, 64 bits; `generate` draws requests together when their seeds agree, and
            `generate_live` each by itself.
        shadow: gates and vectors are computed and traced, and nothing is written.

    Raises:
        RecipeError: a number is out of range.
    """

    prompt: Prompt
    policy: Policy | None = None
    strength: float = 1.0
    vectors: Mapping[str, Float[Tensor, " d"]] = field(default_factory=dict)
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    shadow: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, Prompt):
            raise RecipeError(f"A request asks {self.prompt!r}; give a Prompt: Prompt(text).")
        if self.policy is not None and not isinstance(self.policy, Policy):
            raise RecipeError(not_a_policy(self.policy))
        if not isinstance(self.strength, (int, float)):
            raise RecipeError(f"strength is {self.strength!r}; it must be a finite number.")
        if self.max_new_tokens < 1:
            raise RecipeError(f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more.")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise RecipeError(
                f"temperature {self.temperature} and top_p {self.top_p} cannot be used: give a "
                "temperature of 0 or more and a top_p above 0 and at most 1."
            )
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise RecipeError(f"seed is {self.seed}; give a whole number of 64 bits.")
        if not abs(self.strength) < float("inf"):
            raise RecipeError(f"strength is {self.strength}; it must be a finite number.")
        if self.vectors and self.policy is None:
            raise RecipeError("A request brings vectors, but no policy that takes them. Give both.")
        for name, vector in self.vectors.items():
            if not bool(torch.isfinite(vector).all()):
                raise RecipeError(f"The vector for {name!r} holds NaN or infinity.")


@dataclass(frozen=True, slots=True)
class SteererTrace:
    """What one steerer did to one request.

    Attributes:
        gate: mean gate over the tokens in scope.
        strength: mean strength that the operator was given, over the tokens in scope.
        tokens_in_scope: tokens the scope names, summed over sites.
        tokens_written: of these, those that were changed.
        relative_norm: mean of |h' - h| / |h| over the tokens written.
        reason: why nothing was written; empty if something was.
        written_at: tokens written by site, as in "resid_post[14]".
    """

    gate: float
    strength: float
    tokens_in_scope: int
    tokens_written: int
    relative_norm: float
    reason: str = ""
    written_at: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, and by steerer what steering did to it (empty for an unsteered request).

    Attributes:
        finish: why it ended: at a token that ends answers, at its greatest length, or because
            nobody waited for it any more.
    """

    text: str
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    trace: Mapping[str, SteererTrace] = field(default_factory=dict)
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a forced answer is, token by token, under the request's own steering.

    Attributes:
        logprobs: natural logarithms, one for each token of the completion.
        greedy: whether each token was the likeliest one.
        divergence: KL(steered || unsteered) of the distribution before each token, in nats; all 0
            for an unsteered request.
        trace: as that of a `Completion`.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    divergence: tuple[float, ...]
    trace: Mapping[str, SteererTrace] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Log-probability of the whole completion."""
        return sum(self.logprobs)


@runtime_checkable
class Backend(Model, Protocol):
    """What evaluation and serving need of a model."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completes every request; the answers are in the order of the requests."""
        ...

    def likelihoods(
        self, requests: Sequence[Request], *, divergence: bool = False
    ) -> list[Likelihood]:
        """How likely the forced completion of every request is, in the order of the requests.

        Args:
            divergence: run the unsteered model beside the steered one; without it, 0 everywhere.

        Raises:
            RecipeError: a request forces no completion.
        """
        ...
