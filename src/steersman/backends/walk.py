"""Walk: one batch of sequences on its way through the model, and what is remembered of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from steersman.backends.caches import columns_held
from steersman.backends.layout import Layout, Place
from steersman.backends.packed import Packed
from steersman.backends.tally import Outcome, Row, Tally
from steersman.core.deal import Deal, DealState, Work, deal, move_rows, write, write_generated
from steersman.core.errors import RecipeError
from steersman.core.requests import Request, SteererTrace
from steersman.core.steerer import Policy, Steerer, not_a_policy
from steersman.core.types import Site, Tokens


@dataclass(frozen=True)
class Plan:
    """How one row is steered.

    Attributes:
        vectors: by steerer, for synthesizers that take theirs from the request.
        shadow: compute and count everything, and write nothing.
    """

    policy: Policy | None
    strength: float
    vectors: Mapping[str, Tensor]
    shadow: bool = False

    @classmethod
    def of(cls, request: Request) -> "Plan":
        """How a request is to be steered."""
        return cls(request.policy, request.strength, request.vectors, request.shadow)

    def __post_init__(self) -> None:
        least, most = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
        if self.strength != 0 and not least <= abs(self.strength) <= most:
            raise RecipeError(
                f"strength is {self.strength}; it must be 0 or a finite number that float32 holds."
            )


class Walk:
    """State of the sequences that one forward pass begins and later ones continue.

    Args:
        policies: the distinct ones of `plans`, on the device of the sequences.
        originals: the same, as the plans name them.
        repeats: how many rows of the batch share each plan (beams, samples).
        like: an empty tensor `(0, d)` of the model's type, on the device of the sequences.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        originals: Sequence[Policy],
        policies: Sequence[Policy],
        *,
        repeats: int,
        like: Tensor,
    ) -> None:
        self.plans, self.originals, self.repeats = plans, list(originals), repeats
        index = {id(policy): i for i, policy in enumerate(originals)}
        owner = [
            index[id(p.policy)] if p.policy is not None and p.strength else -1
            for p in plans
            for _ in range(repeats)
        ]
        strength = [p.strength for p in plans for _ in range(repeats)]
        shadow = [p.shadow for p in plans for _ in range(repeats)]
        self.deal: Deal = deal(
            policies,
            [*owner, -1],
            [*strength, 0.0],
            shadow=[*shadow, False],
            device=like.device,
        )
        given = [self._vectors(policy, like) for policy in originals]
        self.state: DealState = self.deal.init(like, given)
        self.tally = Tally(len(owner) + 1, like.device)
        self.place: Place | None = None
        self.prompt_columns = 0  # that must not leave the cache; 0 where that is not known
        self.num_passes = 0
        self._work: dict[Site, tuple[Work, bool]] = {}
        self._pending: tuple[object, int] | None = None  # the cache lives until it is settled

    def _vectors(self, policy: Policy, like: Tensor) -> dict[str, Tensor]:
        takes = [n for n, s in policy.steerers.items() if s.synthesizer.needs_vector]
        mine = [p for p in self.plans if p.policy is policy]
        for plan in mine:
            if unknown := set(plan.vectors) - set(takes):
                raise RecipeError(
                    f"A request brings vectors for {', '.join(sorted(unknown))}, but the steerers "
                    f"that take vectors are: {', '.join(takes) or 'none'}."
                )
        return {name: self._stacked(name, policy, like) for name in takes}

    def _stacked(self, name: str, policy: Policy, like: Tensor) -> Tensor:
        width = like.shape[-1]
        rows: list[Tensor] = []
        for plan in self.plans:
            vector = plan.vectors.get(name) if plan.policy is policy else None
            if vector is None and plan.policy is policy and plan.strength != 0:
                raise RecipeError(f"The steerer {name!r} needs Request.vectors[{name!r}].")
            if vector is not None and tuple(vector.shape) != (width,):
                raise RecipeError(
                    f"The vector for {name!r} has the shape {tuple(vector.shape)}; ({width},) is "
                    "needed."
                )
            row = torch.zeros(width) if vector is None else vector.float().cpu()
            rows += [row] * self.repeats
        return torch.stack([*rows, torch.zeros(width)]).to(like.device)

    def observe(self, x: Tokens, due: Sequence[tuple[int, str]]) -> None:
        """Shows `x` to these steerers, given as policy and name."""
        state = [dict(own) for own in self.state]
        for i, name in due:
            steerer = self.deal.policies[i].steerers[name]
            state[i][name] = steerer.observe(x, state[i][name])
            self.tally.read(i, name, steerer, x)
        self.state = tuple(state)
        self._work.clear()

    def write(self, h: Tensor, site: Site, layout: Layout | Packed) -> Tensor:
        """The steered states `(b, s, d)` at a site."""
        if site not in self._work:
            work = self.deal.work(site, self.state)
            self._work[site] = (work, work.is_plain)
        work, plain = self._work[site]
        if plain and isinstance(layout, Layout) and layout.all_generated and layout.shape[1] == 1:
            steered, relative = write_generated(work, h[:, 0], layout.request)
            self.tally.wrote_generated(site, work, layout.on, relative)
            return steered[:, None]
        steered, doses = write(work, layout.tokens(site, h))
        self.tally.wrote(site, doses, layout)
        return layout.put(h, steered)

    def pass_began(self, cache: object | None, columns: int) -> None:
        """Notes that columns behind the first `columns` may leave the cache again."""
        assert self.place is not None
        several = self.place.columns - columns > 1
        self._pending = (cache, columns) if several and cache is not None else None

    def settle(self, columns: int) -> None:
        """Candidates that were turned down have left the cache, which holds so many columns."""
        assert self.place is not None
        if self._pending is not None:
            self.tally.settle(max(0, columns - self._pending[1]))  # it may be empty by now
            self._pending = None
        self.place = self.place.back_to(columns)

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on with what row `rows[i]` remembers."""
        self.state = move_rows(self.state, rows)
        self._work.clear()
        if self.place is not None and self.place.open:
            self.place = self.place.reorder(rows)

    def take(self, slots: Int[Tensor, " n"]) -> None:
        """Slot i goes on as `slots[i]`, counts included; the slot of the padding stays last.

        There may be more slots than before, and only sequences without a place can be moved so.
        """
        assert self.place is None
        self.state = move_rows(self.state, slots)
        whole = torch.cat([slots, slots.new_tensor([self.tally.num_slots - 1])])
        caps = self.deal.caps
        self.deal = replace(
            self.deal,
            strengths=self.deal.strengths[:, whole],
            caps=None if caps is None else caps[whole],
            shadow=None if self.deal.shadow is None else self.deal.shadow[whole],
        )
        self.tally.take(whole)
        self._work.clear()

    def traces(self, lengths: Sequence[int] | None) -> list[dict[str, SteererTrace]]:
        """What was done to each plan's row; a plan with beams shows its first.

        Raises:
            NotSteeredError: steering was asked for and could not act.
        """
        return self.ledger(lengths).traces()

    def ledger(self, lengths: Sequence[int | None] | None = None) -> "Ledger":
        """What the traces are made of, without the state of the sequences."""
        if self._pending is not None:
            cache, _ = self._pending
            self.settle(columns_held(cache))
        known = lengths or [None] * len(self.plans)
        rows = [
            Row(plan.policy, plan.strength, i * self.repeats, known[i], plan.shadow)
            for i, plan in enumerate(self.plans)
        ]
        return Ledger(self.tally, self.originals, rows, self.repeats)


@dataclass(frozen=True)
class Ledger:
    """What was counted of sequences, for when they are over.

    Attributes:
        rows: those whose traces are shown.
        repeats: how many rows each of these stands for, itself and those behind it.
    """

    tally: Tally
    policies: Sequence[Policy]
    rows: Sequence[Row]
    repeats: int = 1

    def check(self) -> None:
        """Makes sure that every row was steered, also those that are not shown.

        Raises:
            NotSteeredError: one was not.
        """
        behind = range(self.repeats)
        every = [replace(row, slot=row.slot + k) for row in self.rows for k in behind]
        self.tally.traces(self.policies, every)

    def traces(self) -> list[dict[str, SteererTrace]]:
        """One trace by steerer for each row; errors as in `Walk.traces`."""
        return self.tally.traces(self.policies, self.rows)

    def outcomes(self) -> list[Outcome]:
        """The same, with the error of a row in its place."""
        return self.tally.outcomes(self.policies, self.rows)


def plans_for(
    policy: Policy | Steerer | None | Sequence[Policy | Steerer | None],
    strength: float | Sequence[float],
    vectors: Sequence[Mapping[str, Tensor]] | None,
    shadow: bool | Sequence[bool],
) -> list[Plan]:
    """One plan for each row, or one for all."""
    given = list(policy) if isinstance(policy, (list, tuple)) else [policy]
    whole = {id(p): Policy(steerers={"steerer": p}) for p in given if isinstance(p, Steerer)}
    policies = [whole.get(id(p), p) for p in given]
    for policy in policies:
        if policy is not None and not isinstance(policy, Policy):
            raise RecipeError(not_a_policy(policy))
    strengths = [strength] if isinstance(strength, (int, float)) else list(strength)
    carried = list(vectors) if vectors is not None else [{}]
    shadows = [shadow] if isinstance(shadow, bool) else list(shadow)
    lists = {
        "policies": policies,
        "strengths": strengths,
        "rows of vectors": carried,
        "shadows": shadows,
    }
    num = max(len(values) for values in lists.values())
    if any(len(values) not in (1, num) for values in lists.values()):
        counts = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise RecipeError(f"{counts} were given. Give one for all rows, or one for each row.")
    rows = (values * num if len(values) == 1 else values for values in lists.values())
    return [Plan(p, float(s), v, q) for p, s, v, q in zip(*rows, strict=True)]


def with_lengths(
    plans: list[Plan], prompt_tokens: int | Sequence[int] | None
) -> tuple[list[Plan], tuple[int, ...] | None]:
    """Plans, and the length of each one's prompt where it is told; one of either serves all rows.

    Raises:
        RecipeError: the numbers differ, or a prompt has no tokens.
    """
    if prompt_tokens is None:
        return plans, None
    told = [prompt_tokens] if isinstance(prompt_tokens, int) else list(prompt_tokens)
    if len(plans) == 1:
        plans = plans * len(told)
    if len(told) == 1:
        told = told * len(plans)
    if len(told) != len(plans) or min(told, default=0) < 1:
        raise RecipeError(
            f"prompt_tokens is {prompt_tokens} for {len(plans)} rows. Give the number of tokens "
            "(1 or more) of each row's prompt."
        )
    return plans, tuple(told)
