"""ActAdd: the difference of two texts, token by token, added where the prompt begins.

Turner et al. 2023, arXiv:2308.10248

    d_i = h_l(positive)_i - h_l(negative)_i      h_i <- h_i + strength * d_i      for i < n tokens
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import Model, TokenSynthesizer
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Position, Prompt, Scope, Site, Tokens
from steersman.data.prompts import to_prompt
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add

SAME = 1e-3  # of a state's length: what two runs over the same tokens may differ by


@part("opening")
class OpeningVectors(TokenSynthesizer):
    """v_t = vectors[position_t - start] where there is such a row, else 0."""

    vectors: Float[Tensor, "k d"]
    start: int = 0

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, "t d"]:
        num = len(self.vectors)
        index = x.position - self.start
        index = torch.where((index >= 0) & (index < num), index, num)
        return torch.cat([self.vectors, torch.zeros_like(self.vectors[:1])])[index]


@part("act_add")
class ActAdd(Method[Dataset]):
    """h_i <- h_i + strength * (h(positive)_i - h(negative)_i) at `site`; i is the position.

    Paper: Activation Addition (ActAdd), arXiv:2308.10248: one pair of texts, no rows. Both texts
    must have the same number of tokens; the paper pads the shorter one with spaces.

    Departs from the paper: both texts are user turns of the chat template, with the system prompt
    and picture of the first fit row, so that their tokens stand where a request's own text stands
    (requests with another picture size or system prompt are hit elsewhere). What the two turns
    begin with alike has the difference 0. The template's tokens behind the texts count as theirs,
    but for the last `skip_last`.
    """

    site: Site
    positive: str
    negative: str
    skip_last: int = 0
    scope: Scope = Scope.PROMPT
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.positive == self.negative or self.skip_last < 0:
            raise RecipeError(
                f"The texts are {self.positive!r} and {self.negative!r}, and skip_last is "
                f"{self.skip_last}. Give two texts that differ, and a count of tokens."
            )

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "ActAdd")
        if not data.rows:
            raise DataError("ActAdd takes system prompt and picture of the first row. Give one.")
        own = replace(to_prompt(data.rows[0]), generation_prompt=False)
        pair = [replace(own, text=text) for text in (self.positive, self.negative)]
        lengths = [num_tokens(model, prompt) for prompt in pair]
        if lengths[0] != lengths[1]:
            raise RecipeError(
                f"The texts {self.positive!r} and {self.negative!r} make prompts of {lengths[0]} "
                f"and {lengths[1]} tokens. Lengthen the shorter one (the paper adds spaces)."
            )
        start, vectors = self._differences(model, pair, lengths[0])
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=OpeningVectors(vectors=vectors, start=start),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

    def _differences(
        self, model: Model, pair: list[Prompt], length: int
    ) -> tuple[int, Float[Tensor, "k d"]]:
        """Where the texts begin to differ, and by how much from there on.

        Walks back from the end. Where even the last block sees no difference, all tokens so far
        are the same ones: at an early site, the same word behind different ones may be, too.
        """
        last = Site(model.spec.num_layers - 1)
        found: list[Tensor] = []
        for skip in range(self.skip_last, length):
            seen = model.capture(pair, [self.site, last], Position("prompt", "last", skip))
            first, second = seen[last]
            if float((first - second).norm()) <= SAME * float(first.norm()):
                break
            found.append(seen[self.site][0] - seen[self.site][1])
        if not found:
            raise RecipeError(
                f"Nothing is left of the {length} tokens after the last {self.skip_last}, or the "
                "texts become the same tokens. Lower skip_last, or choose other texts."
            )
        return length - self.skip_last - len(found), torch.stack(found[::-1])


def num_tokens(model: Model, prompt: Prompt) -> int:
    """How many tokens a prompt has: the most that `capture` can skip, and one.

    Reads where a model begins, so that no block runs.
    """

    def has(num: int) -> bool:
        try:
            model.capture([prompt], [Site(0, "resid_pre")], Position("prompt", "last", num - 1))
        except RecipeError:
            return False
        return True

    model.capture([prompt], [Site(0, "resid_pre")])  # what is wrong with the prompt shows here
    low, high = 1, 2
    while has(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if has(middle) else (low, middle)
    return low
