"""Recheck: a gate that looks again while the answer is being written."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.ops import latch
from steersman.core.part import part
from steersman.core.roles import ContextGate, Gate
from steersman.core.types import Read, Tokens


@part("recheck")
class Recheck(Gate[Tensor]):
    """g_t = inner(h_s), where s is the last token read at or before t.

    The prompt is read as `inner` reads it (check 0), then every `every`-th generated token:

        check(t) = (offset_t + 1) // every,   at most max_checks - 1

    After `max_checks` decisions the last one stays. Decisions are kept by their number, so that a
    prompt and its answer in one pass give what they gave token by token.

    Behind `inner`'s site a token is written by its own check. Before it, where the check of that
    token is still to come, by the check of the tokens before; generation then begins with a probe
    pass, later checks see states that were steered, and a cache is needed: one pass over prompt
    and answer cannot repeat them. `inner` was fitted on prompts: whether it can judge answers must
    be measured.
    """

    inner: ContextGate
    every: int
    max_checks: int = 64

    def __post_init__(self) -> None:
        if self.every < 1 or self.max_checks < 1:
            raise RecipeError(
                f"recheck: every is {self.every} and max_checks {self.max_checks}; both must be 1 "
                "or more. To decide once, use the inner gate alone."
            )

    @property
    def reads(self) -> tuple[Read, ...]:
        return (replace(self.inner.read, every=self.every),)

    def init(self, num_requests: int, like: Tensor) -> Float[Tensor, "r k"]:
        return torch.zeros(num_requests, self.max_checks, device=like.device)

    def observe(self, x: Tokens, state: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        check = self._check(x.offset + 1)
        # Past max_checks nothing is kept, and the last decision stays.
        here = self.reads[0].here(x) & (x.offset < self.max_checks * self.every - 1)
        slot = x.request * self.max_checks + check
        # For every token: one state per request and check would be far larger than one number.
        decided = self.inner.decide(x.h.float())[:, None]
        made, seen = latch(decided, here, slot, state.numel())
        return torch.where(seen, made[:, 0], state.reshape(-1)).reshape(state.shape)

    def __call__(self, x: Tokens, state: Float[Tensor, "r k"]) -> Float[Tensor, " t"]:
        ahead = int(x.site.depth < self.inner.read.site.depth)
        return state[x.request, self._check(x.offset + 1 - ahead)]

    def _check(self, num_tokens: Int[Tensor, " t"]) -> Int[Tensor, " t"]:
        """The last check made after so many generated tokens."""
        return (num_tokens // self.every).clamp(0, self.max_checks - 1)
