"""Pass: what the taps of one forward pass do, worked out on the host before it begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from steersman.backends.vllm.rows import Piece, Row
from steersman.backends.vllm.tables import Group, Place, Single, Steady, View
from steersman.core.types import Scope, Site

Due = tuple[Row, int, int]
"""A row, which of its readers, and the token in the pass that it is shown."""


@dataclass(eq=False)
class Writing:
    """What is written at one site.

    Attributes:
        index: the tokens, among those of the pass (for `head_in`, among its pieces).
        groups: by round, those that have a row among them.
        requests: of each token.
        steady: the same, once the pass repeats.
    """

    index: Tensor
    view: View
    groups: Sequence[Sequence[Group]]
    singles: Sequence[Sequence[Single]]
    requests: Sequence[str]
    steady: Steady | None = None

    def repeated(self, place: Place) -> Steady | None:
        """For passes that repeat; None where each must be looked at."""
        if self.steady is None and place.caps is None and not any(self.singles):
            self.steady = Steady(place, self.view, self.groups)
        return self.steady


@dataclass(eq=False)
class Pass:
    """One forward pass, and those that repeat it with one more token of every request.

    Attributes:
        due: by site, who is shown what, in the pass that writes.
        early: the same, for what must be known before anything is written.
        told: how many tokens in scope each pass adds, by row, steerer and site.
        everyone: all tokens of steered requests, and their view.
    """

    rows: Sequence[Row]
    requests: tuple[str, ...]
    next: np.ndarray
    num_pieces: int
    can_repeat: bool
    due: Mapping[Site, Sequence[Due]] = field(default_factory=dict[Site, Sequence[Due]])
    early: Mapping[Site, Sequence[Due]] = field(default_factory=dict[Site, Sequence[Due]])
    writing: dict[Site, Writing] = field(default_factory=dict[Site, Writing])
    told: list[tuple[Row, str, Site, int]] = field(default_factory=list[tuple[Row, str, Site, int]])
    everyone: tuple[Tensor, View] = field(init=False)
    repeats: int = 0
    settled: int = -1

    @property
    def head(self) -> tuple[Site, ...]:
        """Sites behind the last block that are written."""
        return tuple(site for site in self.writing if site.point == "head_in")

    @property
    def has_singles(self) -> bool:
        return any(any(w.singles) for w in self.writing.values())

    def goes_on(self, requests: Sequence[str], starts: np.ndarray, nums: np.ndarray) -> bool:
        """Whether the next pass is this one with one more token of every request."""
        return (
            self.can_repeat
            and len(nums) == len(self.requests)
            and bool((nums == 1).all())
            and self.requests == tuple(requests)
            and bool((starts == self.next + self.repeats).all())
        )

    def settle(self) -> None:
        """Adds what this pass and its repetitions did to the counts of their rows."""
        times = self.repeats - self.settled
        self.settled = self.repeats
        if not times:
            return
        for writing in self.writing.values():
            if writing.steady is not None:
                writing.steady.settle()
        for row, name, site, num in self.told:
            row.scope[name, site] = row.scope.get((name, site), 0) + num * times
        where = {name: i for i, name in enumerate(self.requests)}
        for row in self.rows:
            row.counted = max(row.counted, int(self.next[where[row.request]]) + self.repeats)


def pass_over(
    mine: Sequence[tuple[Row | None, Piece]],
    *,
    places: Mapping[Site, Place],
    device: torch.device,
) -> Pass:
    """The pass over these pieces, some of which are of requests with a row."""
    rows = [row for row, _ in mine if row is not None]
    starts = np.cumsum([0, *(piece.num for _, piece in mine)])
    steered = [
        (row, piece, int(first), i)
        for i, ((row, piece), first) in enumerate(zip(mine, starts[:-1], strict=True))
        if row is not None
    ]
    generated = all(p.num == 1 and p.start >= r.num_prompt for r, p, _, _ in steered)
    alone = all(piece.num == 1 for _, piece in mine)
    made = Pass(
        rows,
        tuple(piece.request for _, piece in mine),
        np.array([piece.start + piece.num for _, piece in mine]),
        len(mine),
        generated and alone and all(row.settled() for row in rows),
    )
    made.due, made.early = _due(steered)
    spans = [_Span.of(row, piece, first, i) for row, piece, first, i in steered]
    made.everyone = (
        _tensor(np.concatenate([s.token for s in spans]), device),
        _view(spans, [np.ones(len(s.token), bool) for s in spans], device, inside=False),
    )
    for site in {site for row in rows for site in row.entry.rounds}:
        _plan_site(made, places[site], spans, device)
    return made


def _due(
    steered: Sequence[tuple[Row, Piece, int, int]],
) -> tuple[dict[Site, list[Due]], dict[Site, list[Due]]]:
    due: dict[Site, list[Due]] = {}
    early: dict[Site, list[Due]] = {}
    for row, piece, first, _ in steered:
        end = piece.start + piece.num
        if piece.start >= row.num_prompt:
            continue
        writes = end > row.course.first_write
        for i, reader in enumerate(row.course.readers):
            if piece.start <= reader.position < end:
                token = first + reader.position - piece.start
                kind = early if reader.probed and writes else due
                kind.setdefault(reader.site, []).append((row, i, token))
    return due, early


@dataclass(frozen=True, eq=False)
class _Span:
    """The tokens of one steered piece.

    Attributes:
        at: index of the piece in the pass.
    """

    row: Row
    token: np.ndarray
    offset: np.ndarray
    modality: np.ndarray
    fresh: np.ndarray
    at: int

    @classmethod
    def of(cls, row: Row, piece: Piece, first: int, at: int) -> "_Span":
        position = np.arange(piece.start, piece.start + piece.num)
        modality = np.zeros(piece.num, dtype=np.int64)
        if len(row.images):
            inside = position < len(row.images)
            modality[inside] = row.images[position[inside]]
        return cls(
            row,
            np.arange(first, first + piece.num),
            position - row.num_prompt,
            modality,
            position >= row.counted,
            at,
        )

    def last(self) -> "_Span":
        """Its last token, by the index of its piece."""
        ends = (self.offset[-1:], self.modality[-1:], self.fresh[-1:])
        return _Span(self.row, np.array([self.at]), *ends, self.at)

    def inside(self, scope: Scope) -> np.ndarray:
        """Which tokens are in scope."""
        mask = np.ones(len(self.offset), dtype=bool)
        if scope.start is not None:
            mask &= self.offset >= scope.start
        if scope.stop is not None:
            mask &= self.offset < scope.stop
        if scope.modality != "any":
            mask &= self.modality == (scope.modality == "image")
        return mask


def _plan_site(made: Pass, place: Place, spans: Sequence[_Span], device: torch.device) -> None:
    site = place.site
    here = [s.last() if site.point == "head_in" else s for s in spans if site in s.row.entry.rounds]
    masks = [
        {name: span.inside(span.row.scopes[name]) for name in span.row.entry.rounds[site]}
        for span in here
    ]
    wide = [np.logical_or.reduce(list(mask.values())) for mask in masks]
    for span, mask in zip(here, masks, strict=True):
        for name, inside in mask.items():
            if num := int((inside & span.fresh).sum()):
                made.told.append((span.row, name, site, num))
    kept = [(s, w, m) for s, w, m in zip(here, wide, masks, strict=True) if w.any()]
    if not kept:
        return
    spans, wide = [s for s, _, _ in kept], [w for _, w, _ in kept]
    index = np.concatenate([s.token[w] for s, w in zip(spans, wide, strict=True)])
    same = all((inside == w).all() for _, w, m in kept for inside in m.values())
    groups: list[list[Group]] = [[] for _ in place.rounds]
    for span in spans:
        entry = span.row.entry
        for k, name in enumerate(entry.rounds[site]):
            group = place.group(k, entry.policy.steerers[name].operator)
            if name not in entry.singles and group not in groups[k]:
                groups[k].append(group)
    made.writing[site] = Writing(
        _tensor(index, device),
        _view(spans, wide, device, inside=same),
        groups,
        _singles(place, kept, device),
        [s.row.request for s, w in zip(spans, wide, strict=True) for _ in range(int(w.sum()))],
    )


def _singles(
    place: Place,
    kept: Sequence[tuple[_Span, np.ndarray, Mapping[str, np.ndarray]]],
    device: torch.device,
) -> list[list[Single]]:
    found: list[list[Single]] = [[] for _ in place.rounds]
    begins = np.cumsum([0, *(int(w.sum()) for _, w, _ in kept)])
    alike: dict[tuple[int, int, str, int], list[tuple[Row, np.ndarray, np.ndarray]]] = {}
    for (span, wide, masks), begin in zip(kept, begins[:-1], strict=True):
        row = span.row
        for k, name in enumerate(row.entry.rounds[place.site]):
            if name in row.entry.singles and (inside := masks[name][wide]).any():
                key = (k, id(row.entry), name, max(row.order.suffix, 0))
                at = span.offset[wide][inside] + row.num_prompt
                alike.setdefault(key, []).append((row, begin + np.flatnonzero(inside), at))
    for (k, _, name, suffix), members in alike.items():
        entry = members[0][0].entry
        request = np.concatenate([np.full(len(at), n) for n, (_, at, _) in enumerate(members)])
        strength = np.concatenate([np.full(len(at), r.order.strength) for r, at, _ in members])
        writes = np.concatenate(
            [np.full(len(at), float(not r.order.shadow)) for r, at, _ in members]
        )
        rows = torch.tensor([row.index for row, _, _ in members]).to(device)
        found[k].append(
            Single(
                entry.policy.steerers[name],
                partial(entry.take, name, rows),
                _tensor(np.concatenate([at for _, at, _ in members]), device),
                _tensor(request, device),
                _tensor(np.concatenate([at for _, _, at in members]), device),
                torch.from_numpy(strength).float().to(device),
                torch.from_numpy(writes).float().to(device),
                suffix,
            )
        )
    return found


def _view(
    spans: Sequence[_Span], wide: Sequence[np.ndarray], device: torch.device, *, inside: bool
) -> View:
    num = [int(w.sum()) for w in wide]
    request = np.repeat([s.row.index for s in spans], num)
    offset = np.concatenate([s.offset[w] for s, w in zip(spans, wide, strict=True)])
    modality = np.concatenate([s.modality[w] for s, w in zip(spans, wide, strict=True)])
    fresh = np.concatenate([s.fresh[w] for s, w in zip(spans, wide, strict=True)])
    table = torch.from_numpy(np.stack([request, offset, modality]).astype(np.int64)).to(device)
    again = None if fresh.all() else torch.from_numpy(fresh).float().to(device)
    return View(table[0], table[1], table[2], inside, again)


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)
