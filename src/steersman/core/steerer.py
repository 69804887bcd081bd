"""Steerer: one composition WHEN x WHAT x WHERE x HOW. Policy: several of them, under one cap.

At a site, every reader of the policy observes the state first, and only then is anything written:
a gate never sees the work of a steerer at its own site.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.ops import EPS
from steersman.core.part import Part, part
from steersman.core.roles import D, Gate, Model, Operator, Synthesizer
from steersman.core.types import Read, Scope, Site, Tokens

R = TypeVar("R", contravariant=True)


class SteererState(NamedTuple):
    """What one steerer remembers of every request; leaves have the request axis first."""

    gate: Any  # each part's own state: opaque here by design
    synthesizer: Any


class Dose(NamedTuple):
    """How much of a steerer reached each token.

    Attributes:
        scope: tokens in scope of a request with non-zero strength.
        gate: the gate's value at tokens in scope, 0 outside.
        strength: what the operator was given: strength x gate, in scope.
        relative: |h' - h| / |h|; of a policy, what its cap leaves of it.
    """

    scope: Bool[Tensor, " t"]
    gate: Float[Tensor, " t"]
    strength: Float[Tensor, " t"]
    relative: Float[Tensor, " t"]


@part("steerer")
class Steerer(Part):
    """h <- operator(h, vector, request strength x strength x gate) for tokens in scope.

    `strength` is the fitted one; a request multiplies it (1 is as fitted, 0 is not steered).
    """

    role: ClassVar[str] = "steerer"

    sites: tuple[Site, ...]
    gate: Gate[Any]  # each with a state of its own kind
    synthesizer: Synthesizer[Any]
    operator: Operator
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.sites:
            raise RecipeError("A steerer has no sites, so it could not act. Name at least one.")
        if not math.isfinite(self.strength) or self.strength == 0:
            raise RecipeError(
                f"The strength of a steerer is {self.strength}; give a finite number that is not "
                "0. To leave a request unsteered, give it the strength 0."
            )

    @property
    def reads(self) -> tuple[Read, ...]:
        """Everything that gate and synthesizer look at."""
        return (*self.gate.reads, *self.synthesizer.reads)

    def needs_probe(self, suffix: int | None, *, chunked: bool = True) -> bool:
        """Whether the vector must be known before the pass that writes begins.

        True where a read lies behind the first write: in a deeper layer, at a later token than
        the first one in scope, or in a prompt that is rendered otherwise.

        Args:
            chunked: whether a prompt may come in several passes. Where it comes in one, every
                token has been read before the next site is written, so later tokens do not matter.
        """
        first = min(site.depth for site in self.sites)
        for read in self.reads:
            offset = read.effective_offset(suffix)
            if offset is None or read.site.depth > first:
                return True
            if chunked and (self.scope.start is None or self.scope.start < offset):
                return True
        return False

    def init(
        self, num_requests: int, like: Tensor, vectors: Float[Tensor, "r d"] | None = None
    ) -> SteererState:
        """The state before anything was seen.

        Args:
            vectors: one per request, for a synthesizer that needs them.

        Raises:
            RecipeError: vectors are needed and absent, or given and not used.
        """
        needed = self.synthesizer.needs_vector
        if needed != (vectors is not None):
            what = "needs a vector with every request" if needed else "makes its own vectors"
            raise RecipeError(
                f"The synthesizer {self.synthesizer.part_name!r} {what}. Set Request.vectors "
                "for the steerers that need them, and for no other."
            )
        made = vectors if needed else self.synthesizer.init(num_requests, like)
        return SteererState(self.gate.init(num_requests, like), made)

    def observe(self, x: Tokens, state: SteererState) -> SteererState:
        """The state after gate and synthesizer have seen `x`, where they read this site."""
        gate, made = state
        if any(read.site == x.site for read in self.gate.reads):
            gate = self.gate.observe(x, gate)
        if any(read.site == x.site for read in self.synthesizer.reads):
            made = self.synthesizer.observe(x, made)
        return SteererState(gate, made)

    def write(
        self, x: Tokens, state: SteererState, strength: Float[Tensor, " r"]
    ) -> tuple[Float[Tensor, "t d"], Dose]:
        """The steered state, and what was done to it; a dose of 0 returns the token bit for bit."""
        scope = self.scope.mask(x) & (strength[x.request] != 0)
        gate = torch.where(scope, self.gate(x, state.gate).float(), 0.0)
        dose = gate * strength[x.request] * self.strength
        steered, relative = edited(self.operator, x.h, self.synthesizer(x, state.synthesizer), dose)
        return steered, Dose(scope, gate, dose, relative)

    def __call__(
        self, x: Tokens, state: SteererState, strength: Float[Tensor, " r"]
    ) -> Float[Tensor, "t d"]:
        return self.write(x, state, strength)[0]


@part("policy")
class Policy(Part):
    """What is fitted, saved and served: named steerers, applied in order, under one norm cap.

    `max_relative_norm` bounds, at each site and token, the length of the whole edit relative to
    the state it edits: |h' - h| <= max_relative_norm x |h|.
    """

    role: ClassVar[str] = "policy"

    steerers: Mapping[str, Steerer]
    max_relative_norm: float | None = None

    def __post_init__(self) -> None:
        if not self.steerers:
            raise RecipeError("A policy has no steerers, so it could not act. Give at least one.")
        check_settings(tuple(self.steerers), self.max_relative_norm)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site that is written, in the order of a forward pass."""
        found = {site for steerer in self.steerers.values() for site in steerer.sites}
        return tuple(sorted(found, key=lambda site: site.depth))

    @property
    def reads(self) -> tuple[Read, ...]:
        """Everything that is read."""
        return tuple(dict.fromkeys(r for s in self.steerers.values() for r in s.reads))

    def probed(self, suffix: int | None, *, chunked: bool = True) -> tuple[str, ...]:
        """Steerers whose reads need a pass of their own, before anything is written.

        Besides those that need it themselves: reads in a layer above another steerer's write to
        the same or an earlier token, since parts were fitted on states that nobody steered.
        """

        def below(read: Read, other: Steerer) -> bool:
            offset = read.effective_offset(suffix)
            start = other.scope.start
            reaches = offset is not None and (start is None or start <= offset)
            return reaches and min(site.depth for site in other.sites) < read.site.depth

        def waits(name: str, steerer: Steerer) -> bool:
            if steerer.needs_probe(suffix, chunked=chunked):
                return True
            others = [s for n, s in self.steerers.items() if n != name]
            return any(below(read, other) for read in steerer.reads for other in others)

        return tuple(name for name, steerer in self.steerers.items() if waits(name, steerer))

    def init(
        self, num_requests: int, like: Tensor, vectors: Mapping[str, Tensor] | None = None
    ) -> dict[str, SteererState]:
        """The state of every steerer; `vectors` by the steerer's name."""
        given = vectors or {}
        unknown = sorted(set(given) - set(self.steerers))
        if unknown:
            raise RecipeError(
                f"Vectors were given for {', '.join(unknown)}, but the policy has the steerers "
                f"{', '.join(self.steerers)}."
            )
        return {
            name: steerer.init(num_requests, like, given.get(name))
            for name, steerer in self.steerers.items()
        }

    def observe(self, x: Tokens, state: dict[str, SteererState]) -> dict[str, SteererState]:
        """The state after every steerer has seen `x`."""
        return {name: s.observe(x, state[name]) for name, s in self.steerers.items()}

    def write(
        self, x: Tokens, state: dict[str, SteererState], strength: Float[Tensor, " r"]
    ) -> tuple[Float[Tensor, "t d"], dict[str, Dose]]:
        """The steered state of the tokens at `x.site`, and what each steerer did there."""
        doses: dict[str, Dose] = {}
        now = x
        for name, steerer in self.steerers.items():
            if x.site in steerer.sites:
                h, doses[name] = steerer.write(now, state[name], strength)
                now = now.with_h(h)
        if self.max_relative_norm is None:
            return now.h, doses
        h, kept = capped(x.h, now.h, self.max_relative_norm)
        return h, {name: d._replace(relative=d.relative * kept) for name, d in doses.items()}

    def __call__(
        self, x: Tokens, state: dict[str, SteererState], strength: Float[Tensor, " r"]
    ) -> Float[Tensor, "t d"]:
        return self.write(x, state, strength)[0]


def edited(
    operator: Operator,
    h: Float[Tensor, "t d"],
    v: Float[Tensor, "#t d"],
    dose: Float[Tensor, " t"],
) -> tuple[Float[Tensor, "t d"], Float[Tensor, " t"]]:
    """The edited states and |h' - h| / |h|; a dose of 0 returns the token bit for bit."""
    made = torch.where((dose != 0)[:, None], operator(h, v, dose), h)
    return made, relative_edit(h, made)


def relative_edit(before: Float[Tensor, "t d"], after: Float[Tensor, "t d"]) -> Float[Tensor, " t"]:
    """|h' - h| / |h|, with norms in float32 or better."""
    wide = torch.promote_types(before.dtype, torch.float32)
    edit = torch.linalg.vector_norm(after - before, dim=-1, dtype=wide)
    length = torch.linalg.vector_norm(before, dim=-1, dtype=wide)
    return (edit / length.clamp_min(EPS)).float()


def capped(
    h: Float[Tensor, "t d"], steered: Float[Tensor, "t d"], cap: float | Float[Tensor, " t"]
) -> tuple[Float[Tensor, "t d"], Float[Tensor, " t"]]:
    """The states with |h' - h| <= cap x |h|, and the share of each edit that is left."""
    before, edit = h.float(), steered.float() - h.float()
    norm, length = before.norm(dim=-1), edit.norm(dim=-1)
    over = length > cap * norm
    limit = torch.where(over, cap, 0.0) * norm  # no gradient may pass through an infinite cap
    kept = torch.where(over, limit / length.clamp_min(EPS), 1.0)
    shorter = (before + edit * kept[:, None]).to(h.dtype)
    return torch.where(over[:, None], shorter, steered), kept


def not_a_policy(given: object) -> str:
    """What to say of something that cannot steer."""
    cure = "Give a Policy."
    if isinstance(given, Steerer):
        cure = 'Wrap it: Policy(steerers={"name": steerer}).'
    elif hasattr(given, "policy"):
        cure = "An artifact holds one: give artifact.policy."
    elif isinstance(given, (str, PathLike)):
        cure = "Load it: load_artifact(path, model.spec).policy."
    return f"A policy is needed, not a {type(given).__name__}. {cure}"


def check_settings(names: Sequence[str], max_relative_norm: float | None) -> None:
    """Refuses steerers' names and a cap that no policy can have.

    Raises:
        RecipeError: a name is empty or holds a dot, which separates names in stored paths; or the
            cap is not above 0.
    """
    for name in names:
        if not name or "." in name:
            raise RecipeError(f"A steerer cannot be called {name!r}. Give a name without dots.")
    cap = max_relative_norm
    if cap is not None and not 0 < cap < math.inf:
        raise RecipeError(f"max_relative_norm is {cap}; give a number above 0, or leave it out.")


class Method(Part, Generic[D]):
    """A published recipe: hyperparameters are fields, `fit` returns the composition."""

    role: ClassVar[str] = "method"

    @abstractmethod
    def fit(self, model: Model, data: D, log: FitLog = NO_LOG) -> Steerer:
        """Learns from the fit split only.

        Args:
            log: is told what else there is to know of the fit (scores, errors, curves).

        Raises:
            RecipeError: the model or the data cannot be used with these hyperparameters.
        """


class RequestMethod(Method[D], Generic[D, R]):
    """A method whose vectors come with the requests: oracles and controls.

    Its steerer has a synthesizer that needs vectors; `vectors` makes them, from labels that a
    deployed system does not have (P2S) or from nothing (a random direction).
    """

    @abstractmethod
    def vectors(self, model: Model, data: D, rows: Sequence[R]) -> Float[Tensor, "n d"]:
        """One vector for each row.

        Args:
            data: the fit split, where norms are taken from; never the rows themselves.
        """
