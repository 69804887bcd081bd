"""Deal: policies of many requests at work in one batch.

Steerers whose gate and vector are the same for all tokens of a request are merged: at a site, all
such requests share one call of an operator, each with its row of a table. Thirty-two policies then
cost what one costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.core.part import map_tensors
from steersman.core.roles import Operator
from steersman.core.steerer import (
    Dose,
    Policy,
    Steerer,
    SteererState,
    capped,
    edited,
    relative_edit,
)
from steersman.core.types import Scope, Site, Tokens

DealState = tuple[dict[str, SteererState], ...]
"""One state by steerer for each policy; leaves have the request axis first."""


class Merged(NamedTuple):
    """One operator call for the requests of one or more steerers.

    Attributes:
        vectors: one row for each request, or one for all.
        table: active (1 or 0), gate, and dose of each request.
    """

    operator: Operator
    scope: Scope
    vectors: Float[Tensor, "#r d"]
    table: Float[Tensor, "r 3"]


class Single(NamedTuple):
    """A steerer whose tokens differ: it writes by itself."""

    steerer: Steerer
    state: SteererState
    strength: Float[Tensor, " r"]


class Work(NamedTuple):
    """All that is written at one site: the first steerer of every policy, then the second, ..."""

    rounds: tuple[tuple[Merged | Single, ...], ...]
    caps: Float[Tensor, " r"] | None
    shadow: Bool[Tensor, " r"] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether generated tokens need nothing but their request to be known."""
        return self.caps is None and all(
            isinstance(call, Merged) and call.scope.holds_every_generated
            for calls in self.rounds
            for call in calls
        )


@dataclass(frozen=True, eq=False)
class Deal:
    """Which policies the request slots have, and how strongly.

    Attributes:
        strengths: of each policy at each slot; 0 where the slot has another policy or none.
        caps: the norm cap of each slot's policy, infinite without one; None if nobody has one.
        shadow: which slots keep their states bit for bit, whatever would be written; None if none.
    """

    policies: tuple[Policy, ...]
    strengths: Float[Tensor, "p r"]
    caps: Float[Tensor, " r"] | None
    shadow: Bool[Tensor, " r"] | None = None

    def init(self, like: Tensor, vectors: Sequence[Mapping[str, Tensor]]) -> DealState:
        """The state before anything was seen; `vectors` by policy and steerer, one row a slot."""
        made = zip(self.policies, vectors, strict=True)
        return tuple(p.init(self.strengths.shape[1], like, given) for p, given in made)

    def work(self, site: Site, state: DealState) -> Work:
        """What is written at `site`; stays right until the state changes."""
        columns = [
            [(i, name) for name, s in policy.steerers.items() if site in s.sites]
            for i, policy in enumerate(self.policies)
        ]
        depth = max([0, *(len(column) for column in columns)])
        rounds = tuple(
            self._round(site, [c[k] for c in columns if k < len(c)], state) for k in range(depth)
        )
        return Work(rounds, self.caps, self.shadow)

    def _round(
        self, site: Site, members: Sequence[tuple[int, str]], state: DealState
    ) -> tuple[Merged | Single, ...]:
        made: list[Merged | Single] = []
        for i, name in members:
            steerer, own = self.policies[i].steerers[name], state[i][name]
            strength = self.strengths[i]
            gate = steerer.gate.per_request(own.gate)
            vectors = steerer.synthesizer.per_request(site, own.synthesizer)
            if gate is None or vectors is None:
                made.append(Single(steerer, own, strength))
                continue
            mine = strength != 0
            opened = torch.where(mine, gate, 0.0)  # a product would let a NaN of others through
            table = torch.stack([mine.float(), opened, opened * strength * steerer.strength], 1)
            new = Merged(steerer.operator, steerer.scope, vectors, table)
            alike = [k for k, old in enumerate(made) if _mergeable(old, new)]
            if not alike:
                made.append(new)
                continue
            old = made[alike[0]]
            assert isinstance(old, Merged)
            made[alike[0]] = old._replace(
                vectors=torch.where(mine[:, None], vectors, old.vectors),
                table=torch.where(mine[:, None], table, old.table),
            )
        return tuple(made)


def deal(
    policies: Sequence[Policy],
    owner: Sequence[int],
    strength: Sequence[float],
    *,
    shadow: Sequence[bool] | None = None,
    device: torch.device,
) -> Deal:
    """Policies dealt to slots.

    Args:
        owner: the index of each slot's policy; -1 for a slot that nobody steers.
        strength: of each slot.
        shadow: which slots are left as they are; None for none.
    """
    rows = [
        [s if o == i else 0.0 for o, s in zip(owner, strength, strict=True)]
        for i in range(len(policies))
    ]
    limits = [policy.max_relative_norm for policy in policies]
    caps = None
    if any(limit is not None for limit in limits):
        by_slot = [limits[o] if o >= 0 else None for o in owner]
        caps = torch.tensor([torch.inf if c is None else c for c in by_slot], device=device)
    strengths = torch.tensor(rows, device=device).reshape(-1, len(owner))
    kept = torch.tensor(shadow, device=device) if shadow is not None and any(shadow) else None
    return Deal(tuple(policies), strengths, caps, kept)


def write_generated(
    work: Work, h: Float[Tensor, "t d"], request: Int[Tensor, " t"]
) -> tuple[Float[Tensor, "t d"], list[Float[Tensor, " t"]]]:
    """What `write` makes of generated tokens where the work `is_plain`, in fewer steps.

    Returns:
        the steered states, and by round |h' - h| / |h|.
    """
    relative: list[Tensor] = []
    came = h
    for calls in work.rounds:
        before = h
        for call in calls:
            assert isinstance(call, Merged)
            vectors = call.vectors if len(call.vectors) == 1 else call.vectors[request]
            dose = call.table[:, 2][request]
            h = torch.where((dose != 0)[:, None], call.operator(h, vectors, dose), h)
        relative.append(relative_edit(before, h))
    if work.shadow is None:
        return h, relative
    kept = work.shadow[request]
    return torch.where(kept[:, None], came, h), [_unwritten(kept, r) for r in relative]


def write(work: Work, x: Tokens) -> tuple[Float[Tensor, "t d"], list[list[Dose]]]:
    """The steered states at `x.site`, and by round what each call did."""
    now = x
    doses: list[list[Dose]] = []  # not list[...](), which torch.compile does not know
    for calls in work.rounds:
        doses.append([])
        for call in calls:
            h, dose = _call(call, now)
            now = now.with_h(h)
            doses[-1].append(dose)
    h = now.h
    if work.caps is not None:
        h, left = capped(x.h, h, work.caps[x.request])
        doses = [[d._replace(relative=d.relative * left) for d in row] for row in doses]
    if work.shadow is not None:
        kept = work.shadow[x.request]
        h = torch.where(kept[:, None], x.h, h)
        doses = [[d._replace(relative=_unwritten(kept, d.relative)) for d in row] for row in doses]
    return h, doses


def _unwritten(kept: Bool[Tensor, " t"], relative: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """|h' - h| / |h| of states that are kept: 0, unless the edit would have been no number."""
    return torch.where(kept & relative.isfinite(), 0.0, relative)


def _call(call: Merged | Single, x: Tokens) -> tuple[Tensor, Dose]:
    if isinstance(call, Single):
        return call.steerer.write(x, call.state, call.strength)
    rows = torch.where(call.scope.mask(x)[:, None], call.table[x.request], 0.0)
    scope, gate, dose = rows.unbind(1)
    one = len(call.vectors) == 1
    vectors = call.vectors if one else call.vectors[x.request]
    steered, relative = edited(call.operator, x.h, vectors, dose)
    return steered, Dose(scope != 0, gate, dose, relative)


def move_rows(state: DealState, rows: Tensor) -> DealState:
    """Row i goes on with what row `rows[i]` remembers; the slot of the padding stays last."""

    def moved(leaf: Tensor) -> Tensor:
        return leaf[torch.cat([rows, rows.new_tensor([len(leaf) - 1])])]

    return map_tensors(state, moved)


def _mergeable(old: Merged | Single, new: Merged) -> bool:
    return (
        isinstance(old, Merged)
        and old.scope == new.scope
        and same_operator(old.operator, new.operator)
        and old.vectors.shape[-1] == new.vectors.shape[-1]
    )


def same_operator(first: Operator, second: Operator) -> bool:
    """Whether two operators do the same, as far as can be told without looking into tensors."""
    if type(first) is not type(second):
        return False
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return all(a is b or (not isinstance(a, Tensor) and a == b) for a, b in pairs)
