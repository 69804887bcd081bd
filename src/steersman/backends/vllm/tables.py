"""Tables: what is written at one site, one row for each request, in fixed memory.

Requests share the work of a site and differ in rows of its tables, so that the cost is flat in the
number of distinct policies and strengths. Nothing here depends on values: shapes are those of the
tokens given, and a CUDA graph that was recorded over the tables stays right as rows change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.core.deal import same_operator
from steersman.core.ops import EPS
from steersman.core.roles import Operator
from steersman.core.steerer import Steerer, SteererState, capped, edited
from steersman.core.types import Scope, Site, Tokens

FAR = 1 << 40
GATE, DOSE = range(2)


@dataclass(frozen=True)
class View:
    """Tokens of a pass, as far as tables must know them.

    Attributes:
        request: row of each token; the last row is nobody's.
        offset: as in `core.types.Tokens`.
        inside: whether every token is in scope of every group that has its row.
        fresh: 0 for tokens that were counted before; None if none was.
    """

    request: Int[Tensor, " n"]
    offset: Int[Tensor, " n"]
    modality: Int[Tensor, " n"]
    inside: bool = False
    fresh: Float[Tensor, " n"] | None = None

    def at(self, index: Int[Tensor, " m"]) -> "View":
        """Only these tokens."""
        fresh = None if self.fresh is None else self.fresh[index]
        return View(
            self.request[index], self.offset[index], self.modality[index], self.inside, fresh
        )


@dataclass(eq=False)
class Group:
    """One operator at one site: the rows of all requests that it serves.

    Attributes:
        vectors: what each row's tokens are edited with.
        table: gate and dose of each row.
        scope: first offset, first offset behind, and modality (-1 is any) of each row.
        rows: those that are taken, known on the host.
    """

    operator: Operator
    vectors: Float[Tensor, "r d"]
    table: Float[Tensor, "r 2"]
    scope: Int[Tensor, "r 3"]
    rows: set[int] = field(default_factory=set[int])

    @classmethod
    def empty(cls, operator: Operator, num_rows: int, width: int, device: torch.device) -> "Group":
        """A group without rows; the last row belongs to nobody."""
        return cls(
            operator,
            torch.zeros(num_rows + 1, width, device=device),
            torch.zeros(num_rows + 1, 2, device=device),
            torch.zeros(num_rows + 1, 3, dtype=torch.long, device=device),
        )

    def take(self, row: int, scope: Scope) -> None:
        """Gives a row to a request, closed until its gate and vector are set."""
        self.rows.add(row)
        start = -FAR if scope.start is None else scope.start
        stop = FAR if scope.stop is None else scope.stop
        kind = {"any": -1, "text": 0, "image": 1}[scope.modality]
        self.scope[row] = torch.tensor([start, stop, kind])
        self.table[row] = 0.0

    def free(self, row: int) -> None:
        """Takes a row back."""
        self.rows.discard(row)
        self.table[row] = 0.0

    def set(
        self,
        rows: Int[Tensor, " n"],
        vectors: Float[Tensor, "#n d"],
        gate: Float[Tensor, " n"],
        dose: Float[Tensor, " n"],
    ) -> None:
        """What rows are edited with from now on."""
        self.vectors.index_copy_(0, rows, vectors.float().expand(len(rows), -1).contiguous())
        self.table.index_copy_(0, rows, torch.stack([gate, dose], 1))

    def dose(self, view: View) -> Float[Tensor, " n"]:
        """How strongly each token is edited; 0 outside of its row's scope."""
        dose = self.table[view.request, DOSE]
        if view.inside:
            return dose
        return torch.where(self._inside(view), dose, 0.0)

    def _inside(self, view: View) -> Bool[Tensor, " n"]:
        start, stop, kind = self.scope[view.request].unbind(1)
        inside = (view.offset >= start) & (view.offset < stop)
        return inside & ((kind < 0) | (kind == view.modality))


@dataclass(frozen=True, eq=False)
class Single:
    """A steerer whose tokens differ, at work on some tokens of a view: it writes by itself.

    Attributes:
        state: what is remembered of its requests when it writes.
        index: those of its tokens in the view.
        request: which of its requests each of these is, as `state` numbers them.
        writes: 0 for tokens that are only looked at.
    """

    steerer: Steerer
    state: Callable[[], SteererState]
    index: Int[Tensor, " m"]
    request: Int[Tensor, " m"]
    position: Int[Tensor, " m"]
    strength: Float[Tensor, " m"]
    writes: Float[Tensor, " m"]
    suffix: int

    def edit(
        self, site: Site, h: Float[Tensor, "n d"], view: View
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "2 m"]]:
        """The edited states, and gate and strength of its tokens."""
        mine = view.at(self.index)
        x = Tokens(
            site=site,
            h=h[self.index],
            request=self.request,
            position=self.position,
            offset=mine.offset,
            modality=mine.modality,
            suffix=self.suffix,
        )
        state = self.state()
        gate = self.steerer.gate(x, state.gate).float()
        dose = gate * self.strength * self.steerer.strength
        vectors = self.steerer.synthesizer(x, state.synthesizer)
        made, _ = edited(self.steerer.operator, x.h, vectors, dose * self.writes)
        told = torch.stack([gate, dose])
        return h.index_copy(0, self.index, made), told


@dataclass(eq=False)
class Place:
    """All that is written at one site.

    Attributes:
        rounds: the groups that hold every request's first steerer here, then its second, ...
        counts: by round, of each row: tokens written, the sum of |h' - h| / |h|, and of steerers
            that write by themselves the sums of gate and strength.
        caps: the norm cap of each row, infinite without one; None if no policy has one.
    """

    site: Site
    width: int
    num_rows: int
    device: torch.device
    rounds: list[list[Group]] = field(default_factory=list[list[Group]])
    counts: list[Float[Tensor, "4 r"]] = field(default_factory=list[Tensor])
    caps: Float[Tensor, " r"] | None = None

    def group(self, k: int, operator: Operator) -> Group:
        """The group of this operator among the k-th steerers, made where there is none."""
        self.reach(k)
        for old in self.rounds[k]:
            if same_operator(old.operator, operator):
                return old
        made = Group.empty(operator, self.num_rows, self.width, self.device)
        self.rounds[k].append(made)
        return made

    def has(self, k: int, operator: Operator) -> bool:
        """Whether `group` would make nothing new."""
        known = self.rounds[k] if k < len(self.rounds) else []
        return any(same_operator(old.operator, operator) for old in known)

    def reach(self, k: int) -> None:
        """Makes room for k + 1 rounds."""
        while len(self.rounds) <= k:
            self.rounds.append([])
            self.counts.append(torch.zeros(4, self.num_rows + 1, device=self.device))

    def grow(self, num_rows: int, order: Int[Tensor, " r"]) -> None:
        """Row i goes on as `order[i]`, of more rows than before."""
        self.num_rows = num_rows
        self.counts = [counts[:, order] for counts in self.counts]
        self.caps = None if self.caps is None else self.caps[order]
        for group in (group for members in self.rounds for group in members):
            group.vectors = group.vectors[order]
            group.table, group.scope = group.table[order], group.scope[order]

    def bound(self, row: int, cap: float | None) -> None:
        """Caps what is done to a row's tokens; None lifts it."""
        if self.caps is None and cap is not None:
            self.caps = torch.full((self.num_rows + 1,), torch.inf, device=self.device)
        if self.caps is not None:
            self.caps[row] = torch.inf if cap is None else cap

    def forget(self, row: int) -> None:
        """Counts of a row begin anew."""
        for counts in self.counts:
            counts[:, row] = 0.0

    def write(
        self,
        h: Float[Tensor, "n d"],
        view: View,
        groups: Sequence[Sequence[Group]],
        singles: Sequence[Sequence[Single]] = (),
    ) -> Float[Tensor, "n d"]:
        """The edited states, in float32; a token with dose 0 keeps its bits.

        Args:
            groups: those of `rounds` that have a row among these tokens, or all of them.
            singles: steerers that write by themselves, by round.
        """
        now, told = h, list[tuple[int, Tensor]]()
        for k, members in enumerate(groups):
            before = now
            for group in members:
                dose = group.dose(view)
                made = group.operator(now, group.vectors[view.request], dose)
                now = torch.where((dose != 0)[:, None], made, now)
            alone = singles[k] if k < len(singles) else ()
            for single in alone:
                now, sums = single.edit(self.site, now, view)
                self._tell(k, view.at(single.index), sums)
            if members or alone:
                told.append((k, _changed(before, now)))
        kept = None
        if self.caps is not None:
            now, kept = capped(h, now, self.caps[view.request])
        for k, counts in told:
            if kept is not None:
                counts = torch.stack([counts[0], counts[1] * kept])
            if view.fresh is not None:
                counts = counts * view.fresh
            self.counts[k][:2].index_add_(1, view.request, counts)
        return now

    def _tell(self, k: int, view: View, sums: Float[Tensor, "2 m"]) -> None:
        counted = sums if view.fresh is None else sums * view.fresh
        self.counts[k][2:].index_add_(1, view.request, counted)


class Steady:
    """What is written at a site while passes repeat: all that stays the same is gathered once.

    Args:
        groups: those that have a row among the tokens of the view, by round; none writes by itself.
    """

    def __init__(self, place: Place, view: View, groups: Sequence[Sequence[Group]]) -> None:
        self._place, self._view = place, view
        self._rounds = [
            (k, [self._gathered(group) for group in members])
            for k, members in enumerate(groups)
            if members
        ]
        num = len(view.request)
        self._counts = torch.zeros(len(self._rounds), 2, num, device=view.request.device)

    def _gathered(self, group: Group) -> tuple[Operator, Tensor, Tensor, Tensor | None]:
        dose = group.dose(self._view)
        vectors = group.vectors[self._view.request]
        acts = (dose != 0)[:, None]
        on_host = dose.device.type == "cpu"  # elsewhere, to ask would be to wait
        return group.operator, vectors, dose, None if on_host and bool(acts.all()) else acts

    def change(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What `Place.write` adds to the states; the counts wait for `settle`."""
        now, total = h, None
        for i, (_, members) in enumerate(self._rounds):
            before = now
            for operator, vectors, dose, acts in members:
                made = operator(now, vectors, dose)
                now = made if acts is None else torch.where(acts, made, now)
            change = now - before
            self._counts[i] += _told(before, change)
            total = change if total is None else total + change
        assert total is not None
        return total

    def settle(self) -> None:
        """Counts what was written since the last time."""
        for i, (k, _) in enumerate(self._rounds):
            self._place.counts[k][:2].index_add_(1, self._view.request, self._counts[i])
        self._counts.zero_()


def _changed(before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> Float[Tensor, "2 n"]:
    return _told(before, after - before)


def _told(before: Float[Tensor, "n d"], change: Float[Tensor, "n d"]) -> Float[Tensor, "2 n"]:
    """Whether each token was changed, and |h' - h| / |h|."""
    edit = torch.linalg.vector_norm(change, dim=-1)
    relative = edit / torch.linalg.vector_norm(before, dim=-1).clamp_min(EPS)
    return torch.stack([(edit > 0).float(), relative])
