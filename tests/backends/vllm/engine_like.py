"""A toy engine: packs pieces of requests into passes, keeps a cache, preempts. And what is right.

Block l of the toy adds tanh(W_l c) to the stream, where c is the mean of the block's inputs so far
in the sequence: like attention, it sees what earlier tokens were at this block when they ran.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from steersman.backends.vllm.board import Board
from steersman.core.types import Site, Tokens

WIDTH, LAYERS = 8, 3
SITES = [Site(i, p) for i in range(LAYERS) for p in ("resid_pre", "resid_post")]
HEAD = Site(LAYERS - 1, "head_in")


def weights(seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(WIDTH, WIDTH, generator=draw) / 2 for _ in range(LAYERS)]


@dataclass
class Asked:
    """A request: the states that its tokens enter with, and how it is steered."""

    name: str
    inputs: torch.Tensor
    num_prompt: int
    order: object = None
    policy: object = None
    done: int = 0
    cache: list = field(default_factory=lambda: [torch.zeros(0, WIDTH) for _ in range(LAYERS)])
    out: torch.Tensor = field(default_factory=lambda: torch.zeros(0, WIDTH))
    heads: dict = field(default_factory=dict)


class Engine:
    """Runs passes over a board."""

    def __init__(self, policies, *, num_rows=4, seed=0):
        self.weights = weights(seed)
        self.board = Board(
            {site: WIDTH for site in [*SITES, HEAD]},
            num_rows=num_rows,
            num_tokens=64,
            like=torch.empty(0, WIDTH),
        )
        for digest, policy in policies.items():
            self.board.load(digest, policy)
        self.known = {}

    def run(self, plan):
        """One pass; `plan` lists requests and how many tokens of each come."""
        pieces = [(asked, asked.done, num) for asked, num in plan if num]
        for asked, _, _ in pieces:
            self.known[asked.name] = asked
        self.board.begin(
            [asked.name for asked, _, _ in pieces],
            np.array([start for _, start, _ in pieces]),
            np.array([num for _, _, num in pieces]),
            lambda name: (self.known[name].order, [0] * self.known[name].num_prompt),
        )
        states = self.board.around(lambda: self._forward(pieces))
        at = np.cumsum([num for _, _, num in pieces]) - 1
        heads = self.board.head(states[torch.from_numpy(at)])
        for i, (asked, start, num) in enumerate(pieces):
            end = int(at[i]) + 1
            asked.out = torch.cat([asked.out[:start], states[end - num : end]])
            asked.done = start + num
            asked.heads[start + num - 1] = heads[i]

    def _forward(self, pieces):
        h = torch.cat([asked.inputs[start : start + num] for asked, start, num in pieces]).clone()
        residual = torch.zeros_like(h)
        for layer in range(LAYERS):
            self.board.tap(Site(layer, "resid_pre"), h, residual)
            h, residual = self._block(layer, h + residual, pieces)
            self.board.tap(Site(layer, "resid_post"), h, residual)
        return h + residual

    def _block(self, layer, stream, pieces):
        """The stream in two halves, as fused models hand it on."""
        added, first = [], 0
        for asked, start, num in pieces:
            own = stream[first : first + num]
            asked.cache[layer] = torch.cat([asked.cache[layer][:start], own])
            count = torch.arange(1, start + num + 1)[:, None]
            means = asked.cache[layer].cumsum(0) / count
            added.append(torch.tanh(means[start:] @ self.weights[layer].T))
            first += num
        return torch.cat(added), stream

    def preempt(self, asked):
        """Throws its cache away; it will run again from its beginning."""
        asked.done = 0

    def finish(self, asked):
        self.board.remove(asked.name)


def right(asked: Asked, strength: float, seed: int = 0):
    """The states of every token, and those at the head: whole passes, with `Policy` itself."""
    policy, made = asked.policy, weights(seed)
    offset = torch.arange(len(asked.inputs)) - asked.num_prompt
    zeros = torch.zeros_like(offset)
    state = policy.init(1, asked.inputs) if policy else None
    probed = policy.probed(0) if policy else ()

    def tokens(site, h):
        return Tokens(site, h, zeros, offset + asked.num_prompt, offset, zeros)

    def through(names, write):
        nonlocal state
        h = asked.inputs

        def at(site, h):
            nonlocal state
            x = tokens(site, h)
            for name in names:
                state = {**state, name: policy.steerers[name].observe(x, state[name])}
            if write and site in policy.sites:
                return policy(x, state, torch.tensor([strength]))
            return h

        for layer in range(LAYERS):
            h = at(Site(layer, "resid_pre"), h)
            means = h.cumsum(0) / torch.arange(1, len(h) + 1)[:, None]
            h = h + torch.tanh(means @ made[layer].T)
            h = at(Site(layer, "resid_post"), h)
        return h, at(HEAD, h)

    if policy is None:
        h = asked.inputs
        for layer in range(LAYERS):
            means = h.cumsum(0) / torch.arange(1, len(h) + 1)[:, None]
            h = h + torch.tanh(means @ made[layer].T)
        return h, h
    if probed:
        through(probed, write=False)
    return through([n for n in policy.steerers if n not in probed], write=True)
