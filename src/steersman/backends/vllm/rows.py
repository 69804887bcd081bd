"""Rows: which policies a worker holds, and what it remembers of each request that is steered."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steersman.backends.tally import trace_of
from steersman.backends.vllm.plan import Course
from steersman.backends.vllm.tables import Place
from steersman.backends.vllm.wire import Order
from steersman.core.part import map_tensors
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Policy, SteererState
from steersman.core.tree import Plain
from steersman.core.types import Scope, Site

MOST_NAMES, MOST_ALIKE = 4096, 128


class Piece(NamedTuple):
    """Tokens of one request that stand side by side in a pass; `start` is the first's position."""

    request: str
    start: int
    num: int


@dataclass(eq=False)
class Entry:
    """A policy that requests may have.

    Attributes:
        rounds: by site, its steerers there, in order.
        singles: steerers whose tokens differ, which write by themselves.
        state: of each steerer, one request a row.
    """

    policy: Policy
    rounds: Mapping[Site, tuple[str, ...]]
    singles: frozenset[str]
    state: dict[str, SteererState]

    @classmethod
    def of(cls, policy: Policy, *, num_rows: int, like: Tensor) -> "Entry":
        """The entry of a policy that is on the device of `like`, a tensor `(0, d)`."""
        state = map_tensors(
            policy.init(num_rows + 1, like),
            lambda leaf: leaf.clone(memory_format=torch.contiguous_format),
        )
        rounds: dict[Site, tuple[str, ...]] = {}
        singles: set[str] = set()
        for name, steerer in policy.steerers.items():
            for site in steerer.sites:
                rounds[site] = (*rounds.get(site, ()), name)
                own = state[name]
                vectors = steerer.synthesizer.per_request(site, own.synthesizer)
                if steerer.gate.per_request(own.gate) is None or vectors is None:
                    singles.add(name)
        return cls(policy, rounds, frozenset(singles), state)

    def take(self, name: str, rows: Tensor) -> SteererState:
        """What is remembered of these rows."""
        return map_tensors(self.state[name], lambda leaf: leaf[rows])

    def put(self, name: str, rows: Tensor, state: SteererState) -> None:
        """Remembers it."""
        old, new = list[Tensor](), list[Tensor]()
        map_tensors(self.state[name], lambda leaf: old.append(leaf) or leaf)
        map_tensors(state, lambda leaf: new.append(leaf) or leaf)
        for kept, made in zip(old, new, strict=True):
            kept.index_copy_(0, rows, made.to(kept.dtype))


@dataclass(eq=False)
class Row:
    """One request that is steered.

    Attributes:
        scopes: of each steerer, as this request has it.
        images: which tokens of the prompt stand for a piece of an image; empty if none matters.
        counted: positions before this one were counted.
        scope: tokens in scope so far, by steerer and site.
        read: which readers were shown their token.
        told: whether somebody has asked what was done.
    """

    index: int
    request: str
    order: Order
    entry: Entry
    course: Course
    num_prompt: int
    scopes: Mapping[str, Scope]
    images: np.ndarray
    counted: int = 0
    scope: dict[tuple[str, Site], int] = field(default_factory=dict[tuple[str, Site], int])
    read: set[int] = field(default_factory=set[int])
    told: bool = False

    @property
    def dose(self) -> float:
        """What a gate is multiplied with before it edits."""
        return 0.0 if self.order.shadow else self.order.strength

    def complete(self, name: str) -> bool:
        """Whether all that a steerer reads was seen."""
        readers = self.course.readers
        return all(i in self.read for i, reader in enumerate(readers) if reader.name == name)

    def settled(self) -> bool:
        """Whether generated tokens are all alike to it: in every scope, or in none."""
        scopes = self.scopes.values()
        return all(
            (s.stop is not None and s.stop <= 0)
            or (s.stop is None and (s.start is None or s.start <= 0))
            for s in scopes
        )

    def trace(self, places: Mapping[Site, Place]) -> dict[str, SteererTrace]:
        """What was done so far; waits for the device.

        Raises:
            NotSteeredError: steering was asked for and could not act.
        """
        policy = self.entry.policy
        made: dict[str, SteererTrace] = {}
        for name, steerer in policy.steerers.items():
            by_site: dict[Site, list[float]] = {}
            for site in steerer.sites:
                k = self.entry.rounds[site].index(name)
                scope = float(self.scope.get((name, site), 0))
                written, relative, *alone = places[site].counts[k][:, self.index].tolist()
                by_site[site] = [
                    scope,
                    *self._given(name, places[site], k, alone),
                    written,
                    relative,
                ]
            shown = (self.counted - self.num_prompt + 1) or None
            made[name] = trace_of(
                name,
                replace(steerer, scope=self.scopes[name]),
                by_site,
                was_read=self.complete(name),
                length=shown,
                shadow=self.order.shadow,
            )
        return made

    def _given(self, name: str, place: Place, k: int, alone: list[float]) -> tuple[float, float]:
        """Sums of gate and strength over the tokens in scope."""
        steerer = self.entry.policy.steerers[name]
        if name in self.entry.singles:
            return alone[0], alone[1]
        gate = float(place.group(k, steerer.operator).table[self.index, 0])
        num = self.scope.get((name, place.site), 0)
        return gate * num, gate * num * self.order.strength * steerer.strength


class Kept:
    """What was done to requests that are over, until somebody asks; the oldest are forgotten."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, list[dict[str, Plain]]] = OrderedDict()

    def keep(self, name: str, what: dict[str, Plain]) -> None:
        """Adds what was done to a request of that name."""
        alike = self._told.setdefault(name, [])
        if len(alike) < MOST_ALIKE:
            alike.append(what)
        while len(self._told) > MOST_NAMES:
            self._told.popitem(last=False)

    def take(self, name: str) -> list[dict[str, Plain]]:
        """All that was kept under a name, once."""
        return self._told.pop(name, [])


def no_images() -> np.ndarray:
    """For policies that do not ask which tokens are of an image."""
    return np.zeros(0, dtype=bool)


def on_device(values: list[int], device: torch.device) -> Tensor:
    """Indices, without waiting for the device."""
    return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)
