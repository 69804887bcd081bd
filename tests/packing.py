"""Requests as lists of tokens, and every way to pack them: the oracle that parts are held to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Modality, Read, Site, Span, Tokens

D = 8
SITE = Site(1)
READ = Read(SITE)


@dataclass(frozen=True)
class Talk:
    """One request: a prompt and what was generated, with a state for every token and site.

    Attributes:
        states: `(t, d)`.
        spans: which tokens lie inside each span that a scope leaves out.
    """

    states: torch.Tensor
    prompt_length: int
    spans: Mapping[Span, Sequence[bool]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)


def talk(seed: int, prompt_length: int = 4, generated: int = 3, dtype=torch.float32) -> Talk:
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(prompt_length + generated, D, generator=draw).to(dtype)
    return Talk(states, prompt_length)


def pack(talks: Sequence[Talk], spans: Sequence[tuple[int, int, int]], site: Site = SITE) -> Tokens:
    """Tokens of `spans` (request, first, behind the last), in this order, as one pass."""
    index = [(r, p) for r, start, stop in spans for p in range(start, stop)]
    position = torch.tensor([p for _, p in index])
    lengths = torch.tensor([talks[r].prompt_length for r, _ in index])
    known = dict.fromkeys(span for one in talks for span in one.spans)
    return Tokens(
        site=site,
        h=torch.stack([talks[r].states[p] for r, p in index]),
        request=torch.tensor([r for r, _ in index]),
        position=position,
        offset=position - lengths,
        modality=torch.where(position == 1, int(Modality.IMAGE), int(Modality.TEXT)),
        spans={
            span: torch.tensor([bool(talks[r].spans[span][p]) for r, p in index]) for span in known
        },
    )


def whole(talks: Sequence[Talk]) -> list[tuple[int, int, int]]:
    return [(r, 0, len(t)) for r, t in enumerate(talks)]


def run(
    steerer: Steerer | Policy,
    talks: Sequence[Talk],
    passes: Sequence[Sequence[tuple[int, int, int]]],
    strength: Sequence[float],
    vectors: torch.Tensor | None = None,
) -> dict[tuple[int, int], torch.Tensor]:
    """The steered state of every token, pass by pass, by (request, position)."""
    policy = steerer if isinstance(steerer, Policy) else Policy(steerers={"s": steerer})
    given = {
        name: vectors
        for name, s in policy.steerers.items()
        if s.synthesizer.needs_vector and vectors is not None
    }
    state = policy.init(len(talks), talks[0].states, given)
    made = {}
    for spans in passes:
        x = pack(talks, spans)
        state = policy.observe(x, state)
        h = policy(x, state, torch.tensor(strength))
        index = [(r, p) for r, start, stop in spans for p in range(start, stop)]
        made.update(zip(index, h, strict=True))
    return made


def given_vectors(num: int) -> torch.Tensor:
    return torch.randn(num, D, generator=torch.Generator().manual_seed(99))
