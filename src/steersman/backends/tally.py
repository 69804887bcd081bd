"""Counts what steering did, on the device, and turns the counts into traces at the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.backends.layout import Layout
from steersman.backends.packed import Packed
from steersman.core.deal import Merged, Work
from steersman.core.errors import NotSteeredError
from steersman.core.ops import per_request_sum
from steersman.core.requests import SHADOW, SteererTrace
from steersman.core.steerer import Dose, Policy, Steerer
from steersman.core.types import Site, Tokens

K = TypeVar("K")
SCOPE, GATE, STRENGTH, WRITTEN, RELATIVE = range(5)
ENDED = SteererTrace(0.0, 0.0, 0, 0, 0.0, "the answer ended before the scope began")
Outcome = dict[str, SteererTrace] | NotSteeredError
LEFT_OUT = SteererTrace(0.0, 0.0, 0, 0, 0.0, "all tokens were in spans that the scope leaves out")


@dataclass(frozen=True)
class Row:
    """One row of a batch, as its trace is asked for.

    Attributes:
        slot: where it was counted.
        length: tokens of its answer, None where that is not known.
        shadow: whether nothing was to be written.
    """

    policy: Policy | None
    strength: float
    slot: int
    length: int | None = None
    shadow: bool = False


class Tally:
    """What was done to a batch of sequences; read only when they are over.

    Sums are by site and by round (the first steerer of every policy there, the second, ...).
    A pass over candidates, of which some may be turned down, waits until the next one begins.

    Args:
        num_slots: requests, and the slot of the padding behind them.
    """

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.num_slots, self.device = num_slots, device
        self._sums: dict[tuple[Site, int], Float[Tensor, "5 r"]] = {}
        self._same: dict[tuple[Site, int], tuple[Work, Float[Tensor, "3 b"]]] = {}
        self._waiting: list[tuple[tuple[Site, int], Float[Tensor, "5 b s"]]] = []
        self._reads: dict[tuple[int, str, int], Float[Tensor, " r"]] = {}

    def wrote(self, site: Site, rounds: Sequence[Sequence[Dose]], layout: Layout | Packed) -> None:
        """Adds what happened at a site of the current pass."""
        for k, doses in enumerate(rounds):
            rows = torch.stack(
                [
                    torch.stack([d.scope, d.gate, d.strength, d.relative > 0, d.relative])
                    for d in doses
                ]
            )
            told = (rows[0] if len(doses) == 1 else rows.sum(0)).detach()  # (5, t)
            if layout.fresh is not None:  # passes before have counted the other columns
                told = told.reshape(5, *layout.shape)[:, :, -layout.fresh :]
                self._waiting.append(((site, k), told))
                self.settle(layout.fresh)
                continue
            if layout.tentative or (not layout.is_prompt and layout.shape[1] > 1):
                if layout.index is not None:
                    rows, columns = layout.shape
                    told = told.new_zeros(5, rows * columns).index_copy(1, layout.index, told)
                self._waiting.append(((site, k), told.reshape(5, *layout.shape)))
                continue
            sums = told.new_zeros(5, self.num_slots).index_add(1, layout.request, told)
            self._add((site, k), sums)

    def wrote_generated(
        self, site: Site, work: Work, on: Float[Tensor, " b"], relative: Sequence[Tensor]
    ) -> None:
        """Adds a pass of one generated token a row, where the same was done to each.

        Args:
            on: 1 for tokens, 0 for padding.
            relative: by round, |h' - h| / |h| of each row.
        """
        for k, edit in enumerate(relative):
            told = torch.stack([on, (edit > 0).to(edit.dtype), edit]).detach()
            before = self._same.get((site, k))
            if before is not None and before[0] is work:
                told = before[1] + told
            elif before is not None:
                self._add((site, k), self._expanded(k, *before))
            self._same[site, k] = (work, told)

    def _expanded(self, k: int, work: Work, told: Float[Tensor, "3 b"]) -> Float[Tensor, "5 r"]:
        """What tokens in scope added up to, from how many there were."""
        per_token = sum(call.table for call in work.rounds[k] if isinstance(call, Merged))
        assert isinstance(per_token, Tensor)
        told = torch.nn.functional.pad(told, (0, self.num_slots - told.shape[1]))
        return torch.cat([per_token.detach().T * told[:1], told[1:]])

    def settle(self, columns: int) -> None:
        """Counts what waited: of the last pass, the first so many columns went on."""
        for key, told in self._waiting:
            sums = told[:, :, :columns].sum(2)
            left = sums.new_zeros(5, self.num_slots - sums.shape[1])
            self._add(key, torch.cat([sums, left], 1))
        self._waiting.clear()

    def _add(self, key: tuple[Site, int], sums: Float[Tensor, "5 r"]) -> None:
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums

    def read(self, policy: int, name: str, steerer: Steerer, x: Tokens) -> None:
        """Counts what the steerer's parts read at one site, looking again left out."""
        for k, read in enumerate(steerer.reads):
            if read.site == x.site:
                here = replace(read, every=0).here(x).float()
                seen, key = per_request_sum(here, x.request, self.num_slots), (policy, name, k)
                self._reads[key] = self._reads[key] + seen if key in self._reads else seen

    def take(self, slots: Int[Tensor, " n"]) -> None:
        """Slot i goes on with the counts of `slots[i]`, where all passes were `Packed`."""
        self.num_slots = len(slots)
        self._sums = {key: sums[:, slots] for key, sums in self._sums.items()}
        self._reads = {key: seen[slots] for key, seen in self._reads.items()}

    def traces(
        self, policies: Sequence[Policy], rows: Sequence[Row]
    ) -> list[dict[str, SteererTrace]]:
        """One trace by steerer for each row; none for rows with strength 0.

        Raises:
            NotSteeredError: a row with non-zero strength has no token in scope, was not read, or
                a static vector was added that changed nothing.
        """
        made: list[dict[str, SteererTrace]] = []
        # Who asks for several tokens and a scope behind them all has made a mistake.
        told = [row if row.length == 1 else replace(row, length=None) for row in rows]
        for outcome in self.outcomes(policies, told):
            if isinstance(outcome, NotSteeredError):
                raise outcome
            made.append(outcome)
        return made

    def outcomes(self, policies: Sequence[Policy], rows: Sequence[Row]) -> list[Outcome]:
        """The same, with the error of a row in its place.

        A client may ask for an answer that is over before the scope begins: that is no error here.
        """
        index = {id(policy): i for i, policy in enumerate(policies)}
        for (site, k), (work, told) in self._same.items():
            self._add((site, k), self._expanded(k, work, told))
        self._same.clear()
        sums = _to_host(self._sums)
        reads = _to_host(self._reads)

        def trace(row: Row, policy: Policy, name: str, steerer: Steerer) -> SteererTrace:
            by_site = {
                site: table[:, row.slot].tolist()
                for site in steerer.sites
                if (table := sums.get((site, _round(policy, name, site)))) is not None
            }
            keys = [(index[id(policy)], name, k) for k in range(len(steerer.reads))]
            told = all(key in reads and float(reads[key][row.slot]) > 0 for key in keys)
            length, shadow = row.length, row.shadow
            return trace_of(name, steerer, by_site, was_read=told, length=length, shadow=shadow)

        def outcome(row: Row) -> Outcome:
            if row.policy is None or row.strength == 0:
                return {}
            try:
                return {n: trace(row, row.policy, n, s) for n, s in row.policy.steerers.items()}
            except NotSteeredError as error:
                return error

        return [outcome(row) for row in rows]


def _to_host(tables: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """All tables in one transfer."""
    if not tables:
        return {}
    together = torch.stack(list(tables.values())).cpu()
    return dict(zip(tables, together, strict=True))


def _round(policy: Policy, name: str, site: Site) -> int:
    here = [n for n, steerer in policy.steerers.items() if site in steerer.sites]
    return here.index(name)


def trace_of(
    name: str,
    steerer: Steerer,
    by_site: Mapping[Site, list[float]],
    *,
    was_read: bool,
    length: int | None,
    shadow: bool = False,
) -> SteererTrace:
    """What one steerer did to one row, from the sums by site.

    In shadow nothing is raised: an answer that nobody steers does not fail by a policy.

    Raises:
        NotSteeredError: it could not act.
    """
    try:
        return _told(name, steerer, by_site, was_read=was_read, length=length, shadow=shadow)
    except NotSteeredError as error:
        if not shadow:
            raise
        return replace(ENDED, reason=f"{SHADOW}; steered, this fails: {error}")


def _told(
    name: str,
    steerer: Steerer,
    by_site: Mapping[Site, list[float]],
    *,
    was_read: bool,
    length: int | None,
    shadow: bool,
) -> SteererTrace:
    sums = [sum(values) for values in zip(*by_site.values(), strict=True)] or [0.0] * 5
    scope, written = sums[SCOPE], sums[WRITTEN]
    if not all(math.isfinite(value) for value in sums):
        raise NotSteeredError(
            f"The steerer {name!r} made states that are no numbers (NaN or infinity). Lower the "
            "strength, or fit it again."
        )
    if scope == 0 and _ended_before(steerer, length):
        return ENDED
    if scope == 0 and was_read and steerer.scope.outside:
        return LEFT_OUT
    if scope == 0:
        raise NotSteeredError(
            f"The steerer {name!r} wrote no token: its scope {steerer.scope} names none of the "
            f"tokens that went through {', '.join(str(s) for s in steerer.sites)}. Choose another "
            "scope or site, or generate more tokens."
        )
    if not was_read:
        raise NotSteeredError(
            f"The steerer {name!r} never saw the tokens it reads ({steerer.reads}), so its gate "
            "and vector were never computed. Give the whole prompt in one pass."
        )
    reason = ""
    if not written:
        reason = SHADOW if shadow else _why_not(name, steerer, sums)
    return SteererTrace(
        gate=sums[GATE] / scope,
        strength=sums[STRENGTH] / scope,
        tokens_in_scope=int(scope),
        tokens_written=int(written),
        relative_norm=sums[RELATIVE] / written if written else 0.0,
        reason=reason,
        written_at={str(site): int(values[WRITTEN]) for site, values in by_site.items()},
    )


def _why_not(name: str, steerer: Steerer, sums: Sequence[float]) -> str:
    """Why no token in scope was changed.

    Raises:
        NotSteeredError: there is no good reason.
    """
    if sums[GATE] == 0:
        return "the gate was closed"
    if steerer.operator.may_rest:
        return "the vector is zero, or the states needed no change"
    if steerer.synthesizer.reads or steerer.synthesizer.needs_vector:
        return "the vector is zero"
    raise NotSteeredError(
        f"The steerer {name!r} changed none of {int(sums[SCOPE])} tokens in scope: its vector is "
        "zero, or too small for the model's number type. Fit it again, or raise strength."
    )


def _ended_before(steerer: Steerer, length: int | None) -> bool:
    """Whether the scope holds generated tokens only, and so short an answer has none of them.

    The last token of an answer never goes through the model.
    """
    start = steerer.scope.start
    return length is not None and start is not None and start >= 0 and length <= start + 1
